"""After `register()` RecBole's own functions take a twin like one of their models.

RecBole is changed for the whole process, so each scenario runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PREAMBLE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import recbole_tinykg
recbole_tinykg.register()
recbole_tinykg.register()
parameters = json.loads(sys.argv.pop())
"""

WITHOUT_RAY = """
from recbole.config import Config
from recbole.utils import get_model, get_trainer
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.trainer import TinyTrainer

config = Config("TinyKGAT", "tiny", config_dict=dict(parameters, compress_bits=4))
stock = Config("KGAT", "tiny", config_dict=dict(parameters))
try:
    Config("TinyKGAT", "tiny", config_dict=dict(parameters, compress_bit=4))
    refused = ""
except ConfigurationError as error:
    refused = str(error)
unread = []
for key in ("compressed_saves", "skip_unread_kg_batches"):
    try:
        Config("KGAT", "tiny", config_dict={**parameters, key: True})
    except ConfigurationError as error:
        unread.append(str(error))
model = get_model("TinyKGAT")
trainer = get_trainer(config["MODEL_TYPE"], "TinyKGAT")
from recbole.model.knowledge_aware_recommender import TinyKGAT
from recbole.model.knowledge_aware_recommender.tinykgat import TinyKGAT as again
print(json.dumps({
    "ray": "ray" in sys.modules,
    "bits": config["compress_bits"],
    "layers": config["layers"],
    "run_name": config["run_name"],
    "stock_keys": [key for key in stock.final_config_dict if key.startswith("compress")],
    "refused": refused,
    "unread": unread,
    "module": model.__module__,
    "same": model is TinyKGAT is again,
    "trainer": [cls.__name__ for cls in trainer.__mro__],
    "stock_model": get_model("KGAT").__module__,
    "stock_trainer": get_trainer(stock["MODEL_TYPE"], "KGAT").__module__,
}))
"""

WITH_RECBOLES_QUICK_START = """
import glob
from recbole.quick_start import load_data_and_model, run_recbole
from recbole_tinykg import run_recbole_tinykg
from recbole_tinykg.trainer import get_trainer

result = run_recbole(model="TinyKGAT", dataset="tiny", config_dict=dict(parameters))
best, = (file for file in glob.glob("saved/*.pth") if not file.endswith("-last.pth"))
config, model, dataset, train_data, valid_data, test_data = load_data_and_model(best)
trainer = get_trainer(config, model)
ours = run_recbole_tinykg("TinyKGAT", "tiny", config_dict=dict(parameters), saved=False)
from recbole_tinykg.quick_start.results import plain_metrics as plain
print(json.dumps({
    "loader": type(train_data).__name__,
    "recboles": plain(result["best_valid_result"]),
    "recboles_test": plain(result["test_result"]),
    "loaded_test": plain(trainer.evaluate(test_data, load_best_model=False)),
    "ours": ours["best_valid_result"],
    "model": type(model).__name__,
}))
"""


def answer(code, parameters, before="") -> dict:
    run = subprocess.run(
        [sys.executable, "-c", before + PREAMBLE + code, json.dumps(parameters)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_config_model_and_trainer_are_found(tiny):
    got = answer(WITHOUT_RAY, tiny)
    assert got.pop("ray") is False
    assert got.pop("run_name").startswith("TinyKGAT-tiny-")
    assert "did you mean compress_bits?" in got.pop("refused")
    for key, message in zip(
        ["compressed_saves", "skip_unread_kg_batches"], got.pop("unread"), strict=True
    ):
        assert f"{key} must be False in RecBole's own functions" in message
    trainer = got.pop("trainer")
    assert trainer[0] == "TinyKGATTrainer"
    assert trainer.index("KGATTrainer") < trainer.index("TinyTrainer") < trainer.index("Trainer")
    assert got == {
        "bits": 4,
        "layers": [64],
        "stock_keys": [],
        "module": "recbole_tinykg.model.kgat",
        "same": True,
        "stock_model": "recbole.model.knowledge_aware_recommender.kgat",
        "stock_trainer": "recbole.trainer.trainer",
    }


def test_run_recbole_and_load_data_and_model_take_a_twin(tiny):
    pytest.importorskip("ray", reason="recbole.quick_start imports ray")
    got = answer(WITH_RECBOLES_QUICK_START, tiny)
    assert got["model"] == "TinyKGAT"
    assert got["loader"] == "KnowledgeLoader"
    assert got["recboles"] == got["ours"]
    assert got["loaded_test"] == got["recboles_test"]


@pytest.mark.parametrize("imported_before", [False, True])
def test_other_checkpoints_still_go_to_recbole(imported_before, tiny):
    pytest.importorskip("ray", reason="recbole.quick_start imports ray")
    before = "import recbole.quick_start\n" if imported_before else ""
    code = """
from recbole.quick_start import load_data_and_model
assert load_data_and_model.__wrapped__.__module__ == "recbole.quick_start.quick_start"
try:
    load_data_and_model("nowhere.pth")
except FileNotFoundError as error:
    print(json.dumps({"name": error.filename}))
"""
    assert answer(code, tiny, before) == {"name": "nowhere.pth"}
