"""`compare` pairs runs by seed, and loses nothing that is finished, however it ends."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.datasets import TINY_RUN
from recbole_tinykg import compare, run_recbole_tinykg
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.child import environment
from recbole_tinykg.commands.compare import process, worker
from recbole_tinykg.commands.compare.folder import Folder
from recbole_tinykg.commands.compare.runs import Request, Run, make_request
from recbole_tinykg.commands.compare.statistics import compare_pairs
from recbole_tinykg.errors import ConfigurationError, UserError

OUTPUT = "output"


@pytest.fixture(scope="module")
def settings(tiny_data_path) -> dict:
    """Parameters of a run that takes no time."""
    own = {key: value for key, value in TINY_RUN.items() if key not in ("state", "show_progress")}
    return {**own, "data_path": str(tiny_data_path)}


def compare_tiny(settings, output=OUTPUT, **changes):
    arguments = {"bits": [2], "seeds": 2, "config_dict": settings, "output": output, **changes}
    return compare("TinyKGAT", "tiny", **arguments)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> Path:
    """The folder of a comparison of two seeds at 2 bits."""
    folder = tmp_path_factory.mktemp("comparison")
    result = compare_tiny(settings, folder)
    assert not result.failures
    return folder


@pytest.fixture
def output(finished) -> Path:
    """A copy of the finished comparison."""
    return Path(shutil.copytree(finished, OUTPUT))


@pytest.fixture
def no_runs(monkeypatch):
    """Fails the test if a run is trained."""

    def train(place):
        raise AssertionError(f"{place} is trained")

    monkeypatch.setattr(process, "_train", train)


def lines(file: Path) -> list[dict]:
    return [json.loads(text) for text in file.read_text().splitlines()]


class Reached(Exception):
    """Carries a request out of a comparison that is not to begin."""


def stop_at(request):
    raise Reached(request)


def request_for(twins=("TinyKGAT",), dataset="ml-100k", bits=(2,), seeds=5, **others):
    return make_request(twins, dataset, bits, seeds, **others)


def test_three_differences_by_hand():
    found = compare_pairs([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    t = 2 * math.sqrt(3)  # differences 1, 2, 3: mean 2, standard deviation 1
    assert found["stock"] == 20 and found["tiny"] == 22 and found["difference"] == 2
    assert found["difference_percent"] == pytest.approx(10)
    assert found["p_value"] == pytest.approx(1 - t / math.sqrt(t**2 + 2))  # two degrees of freedom
    half = 4.302652729911275 / math.sqrt(3)  # the table's t for 95 % and two degrees of freedom
    assert found["difference_low"] == pytest.approx(2 - half)
    assert found["difference_percent_high"] == pytest.approx(5 * (2 + half))
    assert found["ratio"] == pytest.approx(20 / 22)


def test_tests_are_paired():
    stock = [0.31, 0.45, 0.12, 0.77, 0.52, 0.60]
    tiny = [0.33, 0.44, 0.15, 0.79, 0.55, 0.66]
    found = compare_pairs(stock, tiny)
    assert found["p_value"] == pytest.approx(stats.ttest_rel(tiny, stock).pvalue)
    assert found["wilcoxon_p_value"] == pytest.approx(4 / 64)  # ranks against: 1 of 21, both sides
    assert found["p_value"] < stats.ttest_ind(tiny, stock).pvalue


@pytest.mark.parametrize(
    ("stock", "tiny", "missing"),
    [
        ([1.0], [2.0], {"difference_low", "difference_high", "p_value", "wilcoxon_p_value"}),
        ([1.0, 2.0], [1.0, 2.0], {"p_value", "wilcoxon_p_value"}),
        ([1.0, 2.0], [1.5, 2.5], {"p_value"}),
        ([0.1234, 0.5], [0.1235, 0.5001], {"p_value"}),  # equal but for what floats leave
        ([0.0, 0.0], [1.0, 2.0], {"difference_percent", "difference_percent_low"}),
        ([1.0, 2.0], [0.0, 0.0], {"ratio"}),
        ([1.0] * 6, [1.0] * 6, {"wilcoxon_p_value", "p_value"}),
    ],
)
def test_what_cannot_be_computed_is_none_and_never_nan(stock, tiny, missing):
    found = compare_pairs(stock, tiny)
    assert missing <= {name for name, value in found.items() if value is None}
    assert all(value is None or math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("seeds", "others", "expected"),
    [
        ("3", [], (2020, 2021, 2022)),
        ("2", ["--seed=7"], (7, 8)),
        ("2020,7", [], (2020, 7)),
        ("[7]", [], (7,)),
        ("7,7", [], (7,)),
    ],
)
def test_seeds_are_a_number_or_a_list(seeds, others, expected, monkeypatch):
    monkeypatch.setattr(Request, "check", stop_at)
    with pytest.raises(Reached) as reached:
        cli.main(["compare", f"--seeds={seeds}", *others])
    assert reached.value.args[0].seeds == expected


def test_flags_and_arguments_ask_for_the_same(monkeypatch):
    monkeypatch.setattr(Request, "check", stop_at)
    argv = ["--model_list=TinyKGAT,TinyKGCN", "--bits=8,2", "--seeds=2020,7", "--dataset=tiny"]
    own = {"learning_rate": 1e-3, "layers": [8], "aggregator_type": "gcn"}
    with pytest.raises(Reached) as typed:
        compare(["TinyKGAT", "TinyKGCN"], "tiny", bits=[8, 2], seeds=[2020, 7], config_dict=own)
    given = ["--learning_rate=1e-3", "--layers=[8]", "--aggregator_type=gcn"]
    with pytest.raises(Reached) as typed_in:
        cli.main(["compare", *argv, *given])
    assert typed.value.args == typed_in.value.args


def test_a_misspelt_parameter_is_refused_from_python_too(settings):
    with pytest.raises(ConfigurationError, match="did you mean learning_rate"):
        compare_tiny({**settings, "learning_rat": 1})


def test_runs_go_seed_by_seed_stock_first():
    request = request_for(["TinyKGAT", "TinyKGCN"], bits=[8, 2], seeds=2)
    names = [run.name for run in request.runs()]
    assert names[:6] == [
        *("KGAT-2020", "TinyKGAT-8bit-2020", "TinyKGAT-2bit-2020"),
        *("KGCN-2020", "TinyKGCN-8bit-2020", "TinyKGCN-2bit-2020"),
    ]
    assert len(names) == len(set(names)) == 12


@pytest.mark.parametrize(("given", "anomaly"), [({}, False), ({"detect_anomaly": True}, True)])
def test_stock_models_train_without_anomaly_mode_unless_asked_for(given, anomaly):
    request = request_for(parameters=given)
    assert request.config(Run("KGAT", None, 1))["detect_anomaly"] is anomaly
    assert not request.config(Run("TinyKGAT", 2, 1))["detect_anomaly"]


def test_each_run_is_what_train_gives(finished, settings):
    for line in lines(finished / "runs.jsonl"):
        bits = {} if line["bits"] is None else {"compress_bits": line["bits"]}
        config = {**settings, "seed": line["seed"], "state": "ERROR", "show_progress": False}
        anomaly = {"detect_anomaly": False} if line["bits"] is None else {}
        result = run_recbole_tinykg(line["model"], "tiny", config_dict=config | bits | anomaly)
        assert line["test"] == result["test_result"]
        assert line["epochs"] == len(result["epoch_seconds"]) == 2
        for phase in ("rs", "kg"):
            assert line["memory"][phase] == result["memory"][phase]


def test_pairs_have_the_same_splits_and_seeds_others(finished):
    splits = {}
    for line in lines(finished / "runs.jsonl"):
        splits.setdefault(line["seed"], []).append(line["splits"])
    for pair in splits.values():
        assert len(pair) == 2 and pair[0] == pair[1] and set(pair[0]) == {"train", "valid", "test"}
    assert splits[2020][0] != splits[2021][0]


def test_a_row_is_the_mean_over_the_runs(finished):
    runs = lines(finished / "runs.jsonl")
    row = next(r for r in lines(finished / "comparison.jsonl") if r["metric"] == "mrr@5")
    for side, model in (("stock", "KGAT"), ("tiny", "TinyKGAT")):
        values = [run["test"]["mrr@5"] for run in runs if run["model"] == model]
        assert row[side] == pytest.approx(sum(values) / 2)
    assert (row["stock_name"], row["bits"], row["seeds"]) == ("KGAT", 2, [2020, 2021])


def test_files_are_there_and_whole(finished):
    assert (finished / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| 2      | mrr@5" in (finished / "comparison.md").read_text()
    assert not [*finished.rglob("*.tmp")] and not [*finished.rglob("*.pth")]
    assert all("runpy" not in log.read_text() for log in finished.rglob("output.log"))


def test_tensorboard_has_parameters_and_results_of_every_run(finished):
    for line in lines(finished / "runs.jsonl"):
        run = Run(line["model"], line["bits"], line["seed"])
        board = EventAccumulator(str(finished / "tensorboard" / run.name)).Reload()
        plugin = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert run.model.encode() in plugin and b"learning_rate" in plugin
        (event,) = board.Scalars("metric/mrr@5")
        assert event.value == pytest.approx(line["test"]["mrr@5"])


def test_a_finished_comparison_trains_nothing(output, settings, no_runs):
    before = (output / "comparison.jsonl").read_text()
    result = compare_tiny(settings)
    assert not result.failures and len(result.runs) == 4
    assert (output / "comparison.jsonl").read_text() == before


def test_a_line_that_a_kill_cut_off_is_taken_from_the_runs_folder(output, settings, no_runs):
    file = output / "runs.jsonl"
    text = file.read_text()
    file.write_text(text[: -len(text.splitlines()[-1]) // 2])
    assert len(compare_tiny(settings).runs) == 4
    assert file.read_text() == text


def test_a_damaged_line_is_named(output, settings):
    file = output / "runs.jsonl"
    file.write_text("{}\n" + file.read_text())
    with pytest.raises(UserError, match="line 1 is no run; remove that line"):
        compare_tiny(settings)


def test_more_bits_and_seeds_train_only_what_is_new(output, settings, monkeypatch):
    trained = []
    monkeypatch.setattr(process, "_train", lambda place: trained.append(place.name) or "not now")
    result = compare_tiny(settings, bits=[8, 2], seeds=[2021, 7])
    assert trained == ["TinyKGAT-8bit-2021", "KGAT-7", "TinyKGAT-8bit-7", "TinyKGAT-2bit-7"]
    assert {row.seeds for row in result.rows} == {(2021,)}
    assert "One seed: no interval" in result.table and "KGAT-7: not now" in result.table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate is 0.001 there and 0.5 now; give another --output"),
        ({"epochs": 3}, "epochs is 2 there and 3 now"),
    ],
)
def test_other_settings_are_refused(changes, message, output, settings, no_runs):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        compare_tiny({**settings, **changes})


def test_steps_as_cuda_graphs_or_not_are_no_other_setting(output, settings, no_runs):
    assert len(compare_tiny({**settings, "cuda_graphs": False}).runs) == 4
    kept = json.loads((output / "settings.json").read_text())
    assert "cuda_graphs" not in kept["models"]["TinyKGAT"]  # as where an earlier version began


def test_damaged_settings_are_named(output, settings):
    (output / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json is damaged: give another --output"):
        compare_tiny(settings)


def test_two_comparisons_do_not_share_a_folder(output, settings):
    request = request_for(dataset="tiny", parameters={"data_path": settings["data_path"]})
    with Folder(Path("other")).lock(request):
        with pytest.raises(UserError, match="another comparison is at work in other"):
            compare_tiny(settings, "other")


def test_a_failed_run_is_reported_and_tried_again(output, settings, capsys):
    shutil.rmtree(output / "runs" / "KGAT-2020")
    (output / "runs.jsonl").write_text((output / "runs.jsonl").read_text().split("\n", 2)[2])
    (output / "runs" / "KGAT-2020").mkdir()
    (output / "runs" / "KGAT-2020" / "saved").write_text("in the way")
    arguments = [f"--{key}={value!r}" for key, value in settings.items()]
    arguments += ["--dataset=tiny", "--seeds=2", f"--output={OUTPUT}"]
    assert cli.main(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "KGAT, seed 2020: failed, checkpoint saved/KGAT-2020.pth cannot be written" in out
    assert "TinyKGAT at 2 bits, seed 2020: test" in out
    assert "1 of 4 runs failed, the same command tries them again: KGAT-2020: checkpoint" in err
    (output / "runs" / "KGAT-2020" / "saved").unlink()
    assert cli.main(["compare", *arguments]) == 0
    assert len(lines(output / "runs.jsonl")) == 4


def test_a_data_set_that_changed_in_between_is_reported(output, settings, monkeypatch):
    other = {**lines(output / "runs.jsonl")[1], "bits": 8, "splits": {"train": 1}}
    monkeypatch.setattr(process, "make", lambda *_: other)
    result = compare_tiny(settings, bits=[8], seeds=[2020])
    assert "its splits differ from those of KGAT-2020" in result.failures["TinyKGAT-8bit-2020"]


def test_interrupt_ends_the_run_and_says_how_to_go_on(settings, monkeypatch, capsys):
    started = []
    wait = subprocess.Popen.wait

    def interrupted(child, timeout=None):
        if child not in started:
            started.append(child)
            raise KeyboardInterrupt
        return wait(child, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    arguments = [f"--{key}={value!r}" for key, value in settings.items()]
    assert cli.main(["compare", "--dataset=tiny", "--seeds=2", *arguments]) == 130
    assert "interrupted; 0 of 4 runs are finished; repeat the command" in capsys.readouterr().err
    assert started[0].returncode == -signal.SIGTERM
    assert not Path("comparisons/TinyKGAT-tiny/runs.jsonl").exists()


def job(settings, **changes) -> dict:
    argv = [f"--{key}={value!r}" for key, value in {**settings, **changes}.items()]
    argv += ["--run_name=x", "--checkpoint_dir=saved", "--state=ERROR", "--show_progress=False"]
    run = {"model": "TinyKGAT", "bits": 2, "seed": 2020}
    return {"run": run, "name": "x", "dataset": "tiny", "config_files": [], "argv": argv}


def test_a_killed_run_goes_on_from_its_last_epoch(settings):
    whole = worker._train(job(settings, epochs=3))
    shutil.rmtree("saved")
    worker._train(job(settings, epochs=1))
    Path("saved/x.json").unlink()
    result = worker._train(job(settings, epochs=3))
    assert result["epochs"] == 3 and len(result["epoch_seconds"]) == 2
    assert result["test_result"] == whole["test_result"]


def test_a_run_killed_after_its_last_epoch_starts_again(settings):
    result = worker._train(job(settings))
    Path("saved/x.json").unlink()
    assert worker._train(job(settings))["test_result"] == result["test_result"]


def test_a_run_ends_with_the_process_that_started_it(settings):
    Path("job.json").write_text(json.dumps(job(settings, epochs=10**6, stopping_step=10**6)))
    child = subprocess.Popen(
        [*worker.COMMAND, os.getcwd()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    while not Path("saved/x-last.pth").exists():
        assert child.poll() is None
    child.stdin.close()
    assert child.wait(30) == -signal.SIGKILL
    assert not Path("run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=KGAT"], r"--model must be a Tiny model.*got 'KGAT'; did you mean TinyKGAT\?"),
        (["--model_list=TinyKGAT,Nope"], "--model must be a Tiny model.*got 'Nope'"),
        (["--model=TinyKGAT", "--model_list=TinyKGAT"], "must come without --model; got both"),
        (["--bits=3"], "--bits must be one or several of 32, 8, 4, 2, 1.*got 3"),
        (["--bits=two"], "--bits must be one or several of"),
        (["--seeds=0"], "--seeds must be the number of seeds.*got 0"),
        (["--seeds=a"], "--seeds must be the number of seeds.*got 'a'"),
        (["--seeds=1,-1"], "--seeds must be the number of seeds"),
        (["--seeds=1,2", "--seed=3"], "--seeds lists the seeds; got --seed too: leave it out"),
        (["--compress_bits=2"], "--compress_bits must be left out of a comparison: give --bits"),
        (["--compress_budget=1MiB"], "--compress_budget must be left out of a comparison"),
        (["--compressed_saves=True"], "--compressed_saves must be left out"),
        (["--run_name=a"], "--run_name must be left out"),
        (["--checkpoint_dir=a"], "--checkpoint_dir must be left out .*: give --output"),
        (["--nproc=2"], "--nproc must be left out"),
        (["--keep_checkpoints=2"], "--keep_checkpoints must be True or False; got 2"),
        (["--epochs=0"], "compare needs epochs >= 1, .* got epochs 0"),
        (["--learning_rat=1"], "did you mean learning_rate"),
        (["--dataset=nowhere"], "got nowhere, and .* does not exist"),
        (["--output=/dev/null/x"], "--output must be a folder that can be written; got /dev/null"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, message, capsys, empty_working_folder):
    assert cli.main(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(message, err), err
    assert not [*empty_working_folder.iterdir()]
