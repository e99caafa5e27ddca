"""A twin is configured like its stock model, and strictly where the keys are ours."""

from __future__ import annotations

import os
import pickle
import sys

import pytest
import torch
import yaml

from helpers.datasets import write_tiny_dataset
from helpers.processes import run_python
from recbole_tinykg.config import Config, parameters
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.errors import ConfigurationError

OUR_KEYS = {"run_name", "detect_anomaly", "model"}


def config(model="TinyKGAT", dataset="ml-100k", config_dict=None, **arguments):
    return Config(model, dataset, config_dict=config_dict, **arguments)


def test_twin_has_its_stock_models_parameters_and_ours():
    stock, twin = config("KGAT").final_config_dict, config("TinyKGAT").final_config_dict
    assert {key: twin[key] for key in stock.keys() - OUR_KEYS} == {
        key: stock[key] for key in stock.keys() - OUR_KEYS
    }
    ours = {key: twin[key] for key in twin.keys() - stock.keys()}
    assert ours == {
        "compress_bits": 2,
        "compress_rounding": "stochastic",
        "compress_seed": stock["seed"],
        "compress_require_native": False,
        "compress_budget": None,
        "compressed_saves": False,
        "cuda_graphs": True,
        "skip_unread_kg_batches": False,
    }


def test_recboles_anomaly_mode_is_on_for_stock_models_and_off_for_twins():
    assert config("KGAT")["detect_anomaly"] is True
    assert config("KGAT", argv=["--detect_anomaly=false"])["detect_anomaly"] is False
    assert config("TinyKGAT")["detect_anomaly"] is False
    with pytest.raises(ConfigurationError, match="detect_anomaly must be False for TinyKGAT"):
        config("TinyKGAT", config_dict={"detect_anomaly": True})


def test_later_layers_win(tmp_path):
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    files[0].write_text("compress_bits: 8\nlearning_rate: 1e-2\nepochs: 7\nlayers: [32]\n")
    files[1].write_text("learning_rate: 1e-4\nepochs: 8\nlayers: [16]\n")
    merged = config(
        config_file_list=files,
        config_dict={"epochs": "9", "layers": [8]},
        argv=["--layers=[64,32,16]"],
    )
    got = [merged[key] for key in ("compress_bits", "learning_rate", "epochs", "layers")]
    assert got == [8, 1e-4, 9, [64, 32, 16]]


def test_sys_argv_is_never_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--epochs=1", "--compress_bits=8"])
    got = config()
    assert (got["epochs"], got["compress_bits"]) == (300, 2)


def test_users_dictionary_is_left_as_it_is():
    given = {"epochs": "3", "layers": "[8]"}
    config(config_dict=given)
    assert given == {"epochs": "3", "layers": "[8]"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("1e-3", 1e-3),
        ("[64,32]", [64, 32]),
        ("{'RS':[0.8,0.1,0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("true", True),
        ("False", False),
        ("None", None),
        ("RO", "RO"),
        ("[0,inf)", "[0,inf)"),
        ("a=b", "a=b"),
        ("1/2", "1/2"),
        ("re.compile", "re.compile"),
        ("", ""),
    ],
)
def test_arguments_are_literals_or_text(text, value):
    assert config(argv=[f"--load_col={text}"])["load_col"] == value


def test_arguments_are_never_run(empty_working_folder):
    for text in ("open('made', 'w')", "__import__('os').mkdir('made')"):
        assert config(config_dict={"some_key": text})["some_key"] == text
    assert not list(empty_working_folder.iterdir())


@pytest.mark.parametrize("argument", ["epochs=5", "--epochs", "-epochs=5", "--=5", "5", "--"])
def test_malformed_argument_is_refused(argument):
    with pytest.raises(ConfigurationError, match=r"must look like --key=value; got") as error:
        config(argv=[argument])
    assert repr(argument) in str(error.value)


def test_argument_with_two_values_is_refused():
    assert parameters.read_arguments(["--a=1", "--a=1"]) == {"a": "1"}
    with pytest.raises(ConfigurationError, match="--a must be given once; got '1' and '2'"):
        parameters.read_arguments(["--a=1", "--a=2"])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
def test_every_width_is_accepted(bits):
    assert config(argv=[f"--compress_bits={bits}"])["compress_bits"] == bits


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("compress_bits", 3, "compress_bits must be one of 1, 2, 4, 8, 32; got 3"),
        ("compress_bits", True, "one of 1, 2, 4, 8, 32; got True"),
        ("compress_bits", 2.0, "one of 1, 2, 4, 8, 32; got 2.0"),
        ("compress_bits", None, "one of 1, 2, 4, 8, 32; got None"),
        ("compress_bits", [2], r"one of 1, 2, 4, 8, 32; got \[2\]"),
        ("compress_rounding", "up", "must be one of stochastic, nearest; got 'up'"),
        ("compress_require_native", 1, "must be one of False, True; got 1"),
        ("compress_seed", -1, r"compress_seed must be an integer in \[0, 2\^63\); got -1"),
        ("compress_seed", 2**63, "compress_seed must be an integer"),
        ("compress_seed", 0.5, "compress_seed must be an integer"),
        ("compress_bit", 2, r"compress_bit is not a key; did you mean compress_bits\?"),
        ("compression_seed", 2, r"did you mean compress_seed\?"),
        ("layers", 64, "layers must be .*; got 64"),
        ("layers", [], "layers must be"),
        (
            "aggregator_type",
            "mean",
            "aggregator_type must be one of gcn, graphsage, bi; got 'mean'",
        ),
        ("nproc", 2, "nproc must be 1; got 2: recbole_tinykg trains in one process"),
        ("world_size", 4, "world_size must be 1; got 4"),
        ("run_name", "../up", "run_name must be a file name"),
        ("metrics", ["Nope"], "There is no metric named 'Nope'"),
        ("topk", 0, "topk must be a positive integer"),
    ],
)
def test_wrong_value_names_key_expected_and_got(key, value, message):
    with pytest.raises(ConfigurationError, match=message):
        config(config_dict={key: value})


def test_compress_keys_do_not_fit_stock_models():
    with pytest.raises(ConfigurationError, match="compress_bits belongs to the Tiny .* TinyKGAT"):
        config("KGAT", config_dict={"compress_bits": 2})
    with pytest.raises(ConfigurationError, match="got it with BPR: leave it out"):
        config("BPR", config_dict={"compress_seed": 2})


@pytest.mark.parametrize(("missing", "given"), [("model", "dataset"), ("dataset", "model")])
def test_model_and_dataset_must_come_from_somewhere(missing, given):
    name = {"model": "TinyKGAT", "dataset": "ml-100k"}
    with pytest.raises(ConfigurationError, match=f"{missing} must be given"):
        Config(**{given: name[given]})
    assert Config(config_dict=name)[missing] == name[missing]


def test_config_file_must_be_there_and_hold_a_mapping(tmp_path):
    file = tmp_path / "some.yaml"
    with pytest.raises(ConfigurationError, match="some.yaml"):
        config(config_file_list=[file])
    file.write_text("- epochs\n- 3\n")
    with pytest.raises(ConfigurationError, match=r"some.yaml must hold `key: value` lines"):
        config(config_file_list=[file])
    file.write_text("epochs: [\n")
    with pytest.raises(ConfigurationError):
        config(config_file_list=[file])
    file.write_text("# nothing\n")
    assert config(config_file_list=[file])["epochs"] == 300


def test_run_names_are_unique():
    names = {config()["run_name"] for _ in range(50)}
    assert len(names) == 50
    assert all(name.startswith("TinyKGAT-ml-100k-") for name in names)


def test_making_a_config_draws_no_random_numbers():
    import random

    import numpy as np

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    config()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


@pytest.mark.parametrize("model", ["TinyKGAT", "KGAT", "BPR"])
def test_plain_form_rebuilds_the_same_configuration(model, tiny):
    tiny |= {"eval_args": {"order": "TO"}, "some_tuple": (1, 2), "some_class": Config}
    original = Config(model, "tiny", config_dict=tiny)
    original["set_later"] = 5
    plain = original.to_plain()
    assert yaml.safe_load(yaml.safe_dump({k: v for k, v in plain.items() if k != "some_tuple"}))
    assert "some_class" not in plain
    rebuilt = Config.from_plain(plain)
    del original.final_config_dict["some_class"]
    assert rebuilt.final_config_dict == original.final_config_dict
    assert rebuilt.model_class is original.model_class
    assert rebuilt.to_plain() == plain


def test_plain_form_is_not_read_as_literals():
    plain = {**config().to_plain(), "some_key": "__import__('os').mkdir('made')", "other": "5"}
    rebuilt = Config.from_plain(plain, {"epochs": 2})
    assert rebuilt["some_key"] == plain["some_key"]
    assert rebuilt["other"] == "5"
    assert rebuilt["epochs"] == 2


def test_plain_form_leaves_the_choice_of_gpu_to_the_machine():
    assert "gpu_id" not in config().to_plain()
    assert config(config_dict={"gpu_id": "1"}).to_plain()["gpu_id"] == 1


def test_config_can_be_pickled():
    original = config()
    copy = pickle.loads(pickle.dumps(original))
    assert copy.final_config_dict == original.final_config_dict


@pytest.mark.parametrize(("key", "value"), [("gpu_id", ""), ("use_gpu", False)])
def test_cpu_can_be_chosen(key, value):
    assert config(config_dict={key: value})["device"] == torch.device("cpu")


@pytest.mark.parametrize(("inherited", "expected"), [(None, "0"), ("", ""), ("3", "3")])
def test_gpus_chosen_by_the_environment_stay_chosen(inherited, expected):
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if inherited is not None:
        environment["CUDA_VISIBLE_DEVICES"] = inherited
    code = (
        "import os; from recbole_tinykg.config import Config; Config('KGAT', 'ml-100k');"
        "print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    )
    assert run_python(code, env=environment).stdout == f"{expected!r}\n"


def test_missing_dataset_says_where_it_was_looked_for(tiny):
    with pytest.raises(ConfigurationError, match=r"got nowhere, and .*nowhere does not exist"):
        check_dataset(Config("TinyKGAT", "nowhere", config_dict=tiny))


@pytest.mark.parametrize("suffix", ["inter", "kg", "link"])
def test_incomplete_dataset_names_the_missing_file(suffix, tiny, tmp_path):
    tiny["data_path"] = str(write_tiny_dataset(tmp_path))
    check_dataset(Config("TinyKGAT", "tiny", config_dict=tiny))
    (tmp_path / "tiny" / f"tiny.{suffix}").unlink()
    with pytest.raises(ConfigurationError, match=rf"TinyKGAT needs tiny\.{suffix} in .*tiny"):
        check_dataset(Config("TinyKGAT", "tiny", config_dict=tiny))


def test_model_without_knowledge_graph_needs_none(tiny, tmp_path):
    tiny["data_path"] = str(write_tiny_dataset(tmp_path))
    (tmp_path / "tiny" / "tiny.kg").unlink()
    check_dataset(Config("BPR", "tiny", config_dict=tiny))
