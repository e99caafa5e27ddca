"""`tune` on a real local Ray cluster: failed and killed trials, resumption, Optuna."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from math import nan
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ray = pytest.importorskip("ray", reason="Ray belongs to the extra `tune`")
pytest.importorskip("ray.tune", reason="Ray Tune belongs to the extra `tune`")
pytest.importorskip("optuna", reason="Optuna belongs to the extra `tune`")

from recbole_tinykg import run_recbole_tinykg, tune  # noqa: E402
from recbole_tinykg.commands.tune import cluster, engine  # noqa: E402
from recbole_tinykg.commands.tune.options import TuneOptions  # noqa: E402
from recbole_tinykg.commands.tune.study import make_study  # noqa: E402
from recbole_tinykg.config.config import Config  # noqa: E402
from recbole_tinykg.errors import UserError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # processes that Ray leaves to the OS
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def local_cluster():
    """One small cluster for the file; `tune` uses the one that the process is connected to."""
    cluster.require("optuna")
    with cluster.connect(None, cpus=1, gpus=0):
        yield


@pytest.fixture
def data(tiny) -> dict:
    """The tiny data set, without the GPU that Ray chooses."""
    return {key: value for key, value in tiny.items() if key != "gpu_id"}


def test_asha_stops_what_falls_behind_and_lets_the_last_epoch_be(data):
    config = Config("TinyKGAT", "tiny", config_dict=data | {"epochs": 9})
    scheduler = engine._scheduler(make_study(config, TuneOptions()))
    trials = [SimpleNamespace(trial_id=str(number)) for number in range(3)]
    decisions = []
    for trial, valid in zip(trials, (0.3, 0.1, 0.4), strict=True):
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"epoch": 1, "valid": valid}))
    assert decisions == ["CONTINUE", "STOP", "CONTINUE"]
    last = {"epoch": 9, "valid": 0.4}
    assert scheduler.on_trial_result(None, trials[2], last) == "CONTINUE"
    assert scheduler.on_trial_result(None, trials[0], {"error": "x", "valid": nan}) == "CONTINUE"


def test_a_failing_trial_does_not_end_the_search_and_the_winner_can_be_trained(
    data, tmp_path, capfd
):
    result = tune(
        dataset="tiny",
        config_dict=data | {"epochs": 3},
        search={"compress_bits": [2, 3, 8]},
        searcher="grid",
        output=tmp_path,
        verbose=True,
    )
    default, failed, other = result.trials
    assert [trial.parameters["compress_bits"] for trial in result.trials] == [2, 3, 8]
    assert (failed.status, failed.valid) == ("failed", None)
    assert failed.error.startswith("ConfigurationError: compress_bits must be one of 1, 2, 4, 8")
    assert result.best.valid == max(default.valid, other.valid)
    assert result.valid_result["mrr@5"] == pytest.approx(result.best.valid)
    lines = sorted(line for line in capfd.readouterr().out.splitlines() if line)
    starts = ["TinyKGAT on tiny", "searched", "trial 0", "trial 1", "trial 2"]
    assert [line.split(":")[0] for line in lines] == starts  # and nothing of Ray's
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["model"] == "TinyKGAT" and best["epochs"] == 3
    assert best.items() >= result.best_parameters.items()
    trained = run_recbole_tinykg(config_file_list=[result.files["best"]], saved=False)
    assert trained["best_valid_score"] == pytest.approx(result.best.valid)


def test_a_killed_worker_is_replaced_and_the_trial_goes_on(data, tmp_path):
    def kill():
        saved = tmp_path / "trials" / "000" / "saved" / "trial-000-last.pth"
        while not saved.exists():
            time.sleep(0.02)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cwd").resolve() == saved.parent.parent and b"ray::" in (
                    folder / "cmdline"
                ).read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
            except (OSError, PermissionError):
                continue

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    changes = {"epochs": 40, "stopping_step": 50}
    search = {"compress_bits": [2, 4]}
    options = {"search": search, "trials": 1, "scheduler": "none", "output": tmp_path}
    result = tune(dataset="tiny", config_dict=data | changes, **options)
    killer.join()
    (trial,) = result.trials
    assert (trial.status, trial.epochs, trial.worker_deaths) == ("finished", 40, 1)
    alone = run_recbole_tinykg("TinyKGAT", "tiny", config_dict=data | changes, saved=False)
    assert trial.valid == pytest.approx(alone["best_valid_score"])


def test_optuna_with_two_objectives_and_a_search_that_goes_on(data, tmp_path):
    options = {"search": {"compress_bits": [1, 8, 5], "learning_rate": {"loguniform": [1e-3, 0.1]}}}
    options |= {"searcher": "optuna", "objectives": ("valid", "saved"), "trials": 3}
    result = tune(dataset="tiny", config_dict=data, output=tmp_path, concurrent=1, **options)
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert result.default.parameters == {"compress_bits": 2, "learning_rate": 0.001}
    assert result.best.number in result.front
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "trials" / "001" / "trial.json").stat().st_mtime_ns
    again = tune(None, None, output=tmp_path, resume=True)
    assert (tmp_path / "trials" / "001" / "trial.json").stat().st_mtime_ns == before
    assert again.best_parameters == result.best_parameters
    assert json.loads((tmp_path / "result.json").read_text())["front"] == again.front
    (tmp_path / "trials" / "002" / "trial.json").unlink()
    with pytest.raises(UserError, match="trials must hold trial.json of all 3 trials, .*; got 2"):
        tune(None, None, output=tmp_path, resume=True)


def test_a_trial_must_fit_into_the_cluster(data, tmp_path):
    with pytest.raises(UserError, match="--cpus must be at most .* what the Ray cluster has"):
        tune(dataset="tiny", config_dict=data, cpus=4096, output=tmp_path)
    assert not (tmp_path / "search.json").exists()


def test_a_search_without_a_good_trial_says_why(data, tmp_path):
    options = {"search": {"layers": [[8]]}, "trials": 1, "output": tmp_path}
    folder = tmp_path / "trials" / "000"
    folder.mkdir(parents=True)
    (folder / "parameters.yaml").write_text("layers:\n- 64\n")
    (folder / "log").write_text("a file where the trial needs a folder")
    with pytest.raises(UserError, match="all 1 trials failed, the first because: .*folder"):
        tune(dataset="tiny", config_dict=data, **options)
