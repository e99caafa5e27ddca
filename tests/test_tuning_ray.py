"""``tune`` on a real local Ray cluster: stopped, failed and killed trials, resumption, Optuna."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml

ray = pytest.importorskip("ray", reason="Ray belongs to the extra `tune`")
pytest.importorskip("ray.tune", reason="Ray Tune belongs to the extra `tune`")
pytest.importorskip("optuna", reason="Optuna belongs to the extra `tune`")

from recbole_tinykg import run_recbole_tinykg, tune  # noqa: E402
from recbole_tinykg.commands.tuning import cluster  # noqa: E402
from recbole_tinykg.errors import UserError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # processes that Ray leaves to the OS
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def local_cluster():
    """One small cluster for the file; ``tune`` uses the one that the process is connected to."""
    cluster.require("optuna")
    with cluster.connected(None, cpus=1, gpus=0):
        yield


@pytest.fixture
def data(tiny) -> dict:
    """The tiny data set, without the GPU that Ray chooses."""
    return {key: value for key, value in tiny.items() if key != "gpu_id"}


def test_a_failing_and_a_stopped_trial_and_the_winner(data, tmp_path, capfd):
    search = {"compress_bits": [2, 3], "learning_rate": [0.001, 0.05]}
    result = tune(
        dataset="tiny",
        config_dict=data | {"epochs": 3},
        search=search,
        searcher="grid",
        output=tmp_path,
        concurrent=1,  # so that ASHA sees the default first
        verbose=True,
    )
    by_number = {trial.number: trial for trial in result.trials}
    assert sorted(by_number) == [0, 1, 2, 3]
    assert by_number[0].parameters == {"compress_bits": 2, "learning_rate": 0.001}
    for trial in result.trials:
        failed = trial.parameters["compress_bits"] == 3
        assert (trial.status == "failed") == failed
        assert not failed or "compress_bits must be one of" in trial.error
    good = [trial for trial in result.trials if trial.status != "failed"]
    assert result.best.valid == max(trial.valid for trial in good) >= result.default.valid
    assert result.valid_result["mrr@5"] == pytest.approx(result.best.valid)
    out = capfd.readouterr().out
    assert all(f"trial {number}: " in out for number in by_number) and "Current time" not in out
    kept = {**data, "epochs": 3, **result.best_parameters}
    assert (
        yaml.safe_load((tmp_path / "best.yaml").read_text()).items()
        >= {
            key: value for key, value in kept.items() if key not in ("metrics", "data_path")
        }.items()
    )
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
    wishes = {"search": search, "trials": 1, "scheduler": "none", "output": tmp_path}
    result = tune(dataset="tiny", config_dict=data | changes, **wishes)
    killer.join()
    (trial,) = result.trials
    assert (trial.status, trial.epochs, trial.worker_deaths) == ("finished", 40, 1)
    alone = run_recbole_tinykg("TinyKGAT", "tiny", config_dict=data | changes, saved=False)
    assert trial.valid == pytest.approx(alone["best_valid_score"])


def test_optuna_with_two_objectives_and_a_search_that_goes_on(data, tmp_path):
    wishes = {"search": {"compress_bits": [1, 8, 5], "learning_rate": {"loguniform": [1e-3, 0.1]}}}
    wishes |= {"searcher": "optuna", "objectives": ("valid", "saved"), "trials": 3}
    result = tune(dataset="tiny", config_dict=data, output=tmp_path, concurrent=1, **wishes)
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
    wishes = {"search": {"layers": [[8]]}, "trials": 1, "output": tmp_path}
    folder = tmp_path / "trials" / "000"
    folder.mkdir(parents=True)
    (folder / "parameters.yaml").write_text("layers:\n- 64\n")
    (folder / "log").write_text("a file where the trial needs a folder")
    with pytest.raises(UserError, match="all 1 trials failed, the first because: .*folder"):
        tune(dataset="tiny", config_dict=data, **wishes)
