"""--compressed_saves=true: RecBole's own models, of every kind, trained from codes."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.config import Config
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.quick_start import prepare

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")

COLUMNS = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
STOCK = {"detect_anomaly": False, "compressed_saves": True, "epochs": 1, "train_batch_size": 512}
MODELS = {
    "LightGCN": {"embedding_size": 64},
    "NGCF": {"embedding_size": 64},
    "SASRec": {"train_neg_sample_args": None, "load_col": COLUMNS, "hidden_size": 64},
    "DeepFM": {
        "load_col": COLUMNS,
        "embedding_size": 32,
        "threshold": {"rating": 3},
        "eval_args": {"mode": "labeled"},
    },
}


def settings(name, tiny, tmp_path, **changes):
    own = {**MODELS[name], "checkpoint_dir": str(tmp_path)}
    if name == "DeepFM":
        own |= {"metrics": ["AUC"], "valid_metric": "AUC"}
    return {**tiny, **STOCK, **own, **changes}


@pytest.mark.parametrize("name", MODELS)
def test_stock_models_train(name, tiny, tmp_path):
    experiment = prepare(name, "tiny", config_dict=settings(name, tiny, tmp_path))
    before = [p.detach().clone() for p in experiment.model.parameters()]
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    assert all(p.isfinite().all() for p in experiment.model.parameters())
    assert any(
        not torch.equal(a, b) for a, b in zip(before, experiment.model.parameters(), strict=True)
    )
    step = experiment.trainer.memory()["rs"]
    assert step["saved_activation_bytes"] < step["float32_saved_activation_bytes"], step


def test_float32_is_stocks_own_training(tiny, tmp_path):
    common = settings("NGCF", tiny, tmp_path)
    runs = [{"compress_bits": 32}, {"compressed_saves": False}]
    weights = []
    for changes in runs:
        experiment = prepare("NGCF", "tiny", config_dict={**common, **changes})
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
        weights.append(experiment.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_counting_bytes_is_no_step_of_the_model(tiny, tmp_path):
    """MultiVAE's loss depends on how often it was asked for."""
    loaded = {"load_col": COLUMNS, "latent_dimension": 8, "mlp_hidden_size": [64]}
    experiment = prepare("MultiVAE", "tiny", config_dict={**tiny, **STOCK, **loaded})
    experiment.trainer.fit(experiment.train_data, saved=False)
    assert experiment.trainer.memory()["rs"]
    assert experiment.model.update == len(experiment.train_data)


@pytest.mark.parametrize("name", ["ItemKNN", "EASE"])
def test_models_without_gradients_are_saved(name, tiny, tmp_path):
    loaded = {"load_col": COLUMNS, "checkpoint_dir": str(tmp_path), "topk": 5}
    experiment = prepare(name, "tiny", config_dict={**tiny, **loaded, "valid_metric": "MRR@5"})
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    expected = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    assert experiment.trainer.evaluate(experiment.test_data, load_best_model=True) == expected


def test_a_resumed_run_draws_the_noise_that_it_would_have_drawn(tiny, tmp_path):
    common = settings("NGCF", tiny, tmp_path, run_name="run")
    straight = prepare("NGCF", "tiny", config_dict={**common, "epochs": 2, "run_name": "straight"})
    straight.trainer.fit(straight.train_data, straight.valid_data)
    first = prepare("NGCF", "tiny", config_dict=common)
    first.trainer.fit(first.train_data, first.valid_data)
    again = prepare("NGCF", "tiny", config_dict={**common, "epochs": 2})
    again.trainer.resume_checkpoint(tmp_path / "run-last.pth", again.train_data)
    again.trainer.fit(again.train_data, again.valid_data)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_defaults_are_the_twins(tiny):
    config = Config("NGCF", "tiny", config_dict={**tiny, "compressed_saves": True, "seed": 7})
    assert (config["compress_bits"], config["compress_rounding"]) == (2, "stochastic")
    assert config["compress_seed"] == 7
    assert config["detect_anomaly"], "as for any stock model"


@pytest.mark.parametrize(
    ("model", "keys", "message"),
    [
        ("NGCF", {"compress_bits": 2}, "belongs to the Tiny models and to compressed_saves: True"),
        ("NGCF", {"compressed_saves": True, "compress_bits": 3}, "compress_bits must be one of"),
        ("NGCF", {"compressed_saves": True, "compress_bitz": 2}, "did you mean compress_bits"),
        ("NGCF", {"compressed_saves": True, "compress_seed": -1}, "compress_seed must be"),
        ("NGCF", {"compressed_saves": "yes"}, "compressed_saves must be one of False, True"),
        ("TinyKGAT", {"compressed_saves": True}, "compressed_saves must be False for TinyKGAT"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, keys, message, tiny):
    with pytest.raises(ConfigurationError, match=message):
        Config(model, "tiny", config_dict={**tiny, **keys})
