"""What `tune` does without Ray: search files, spaces, objectives, records, tables, one trial."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_tinykg.commands import cli
from recbole_tinykg.commands.tune import cluster, objectives, records, report, spaces, study
from recbole_tinykg.commands.tune.command import tune
from recbole_tinykg.commands.tune.options import TuneOptions
from recbole_tinykg.commands.tune.search_files import as_mapping, read_search, space_of
from recbole_tinykg.commands.tune.spaces import Choice, Range, Steps
from recbole_tinykg.commands.tune.trial import TrialPlan, run_trial
from recbole_tinykg.config import Config
from recbole_tinykg.errors import UserError
from recbole_tinykg.model import MODELS


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Search files


def test_a_yaml_file_gives_every_kind_of_domain(tmp_path):
    text = """
learning_rate: {loguniform: [1e-4, 1e-2]}
layers: {choice: [[64], [64, 32]]}
reg_weights: [[1e-2, 1e-2], [0.1, 0.1]]
mess_dropout: {quniform: [0.0, 0.3, 0.1]}
n_iter: {integer: [1, 3]}
ls_weight: {uniform: [0, 1]}
"""
    assert read_search(written(tmp_path, "a.yaml", text)) == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "layers": Choice(([64], [64, 32])),
        "reg_weights": Choice(([0.01, 0.01], [0.1, 0.1])),
        "mess_dropout": Steps(0, 3, 0.1),
        "n_iter": Steps(1, 3),
        "ls_weight": Range(0.0, 1.0),
    }


def test_recboles_text_format_means_what_recbole_makes_of_it(tmp_path):
    text = (
        "learning_rate loguniform -8,0\n\n# a comment\n"
        "embedding_size choice [64, 96,128]\n"
        "mlp choice ['[64, 64]','[128]']\n"
        "dropout_prob quniform 0.0,0.3,0.1\n"
        "alpha uniform 0.5, 1\n"
    )
    space = read_search(written(tmp_path, "hyper.test", text))
    rate = space["learning_rate"]  # hyperopt draws exp(uniform(low, high))
    assert rate.log and rate.low == pytest.approx(math.exp(-8)) and rate.high == 1
    assert space["embedding_size"].values == (64, 96, 128)
    assert space["mlp"].values == ([64, 64], [128])
    assert space["dropout_prob"].values == (0.0, 0.1, 0.2, 0.3)
    assert space["alpha"] == Range(0.5, 1.0)


@pytest.mark.parametrize(("low", "high", "step"), [(0.05, 0.55, 0.1), (1, 7, 2), (0.0, 0.3, 0.1)])
def test_quniform_takes_the_values_that_hyperopt_rounds_to(low, high, step, tmp_path):
    uniform = np.linspace(low, high, 10_001)
    expected = np.unique(np.round(np.round(uniform / step) * step, 12))
    space = read_search(written(tmp_path, "h.test", f"x quniform {low},{high},{step}"))
    np.testing.assert_allclose(space["x"].values, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "a: {loguniform: [0, 1]}", r"line 1, a: loguniform takes .* 0 < low < high; "),
        ("a.yaml", "\na: {uniform: [1, 1]}", r"line 2, a: uniform takes .*; got \[1, 1\]"),
        ("a.yaml", "a: {uniform: [1]}", r"uniform takes two numbers .*; got \[1\]"),
        ("a.yaml", "a: {uniform: [x, y]}", r"uniform takes two numbers .*; got \['x', 'y'\]"),
        ("a.yaml", "a: {uniform: [.nan, 1]}", "uniform takes two numbers"),
        ("a.yaml", "a: {integer: [1, 2.5]}", r"integer takes two whole numbers .*; got \[1, 2.5\]"),
        ("a.yaml", "a: {quniform: [0, 1]}", r"quniform takes three numbers .*; got \[0, 1\]"),
        ("a.yaml", "a: {quniform: [0, 0.1, 1]}", "quniform takes three .* two multiples"),
        ("a.yaml", "a: {choice: []}", r"choice takes a list of values; got \[\]"),
        ("a.yaml", "a: {choice: 3}", "choice takes a list of values; got 3"),
        ("a.yaml", "a: {normal: [0, 1]}", "a must be one of choice, .*; got 'normal'"),
        ("a.yaml", "a: 3", "a must be one of choice, .* with its numbers, .*; got 3"),
        ("a.yaml", "a: {choice: [1], uniform: [0, 1]}", "a must be one of choice, "),
        ("a.yaml", "a: [1, 2]\nb: [1]\na: [2]", "line 3, a must be there once; got a twice"),
        ("a.yaml", "a: [1, 2", "must be YAML; got .*line 1"),
        ("a.yaml", "- a", "must hold lines such as `learning_rate: .*got .'a'."),
        ("a.yaml", "# nothing", "must name parameters to search; got none"),
        (
            "h.test",
            "a uniform",
            "line 1 must look like `learning_rate loguniform -8,0`; got 'a uni",
        ),
        ("h.test", "\na normal 0,1", "line 2, a must be one of choice, .*; got 'normal'"),
        ("h.test", "a integer 0,1", "a must be one of choice, uniform, .*; got 'integer'"),
        ("h.test", "a uniform 1,x", r"a: uniform takes two numbers .*; got \[1, 'x'\]"),
        ("h.test", "a loguniform 0,999", "a: loguniform takes two exponents of e .*; got 0,999"),
        ("h.test", "a choice 3", "a: choice takes a list of values; got 3"),
        ("h.test", "a uniform 0,1\na uniform 0,1", "line 2 must be there once; got a twice"),
        ("h.test", "# nothing", "must name parameters to search; got none"),
    ],
)
def test_an_error_in_a_search_file_names_file_place_expected_and_got(name, text, message, tmp_path):
    with pytest.raises(UserError) as raised:
        read_search(written(tmp_path, name, text))
    assert str(tmp_path / name) in str(raised.value)
    assert re.search(message, " ".join(str(raised.value).split())), raised.value


def test_a_binary_search_file_is_refused(tmp_path):
    (tmp_path / "a.test").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="a.test: it is not text"):
        read_search(tmp_path / "a.test")


@pytest.mark.parametrize("model", MODELS)
def test_every_twin_comes_with_a_search_file_of_its_own_parameters(model, tiny):
    space = read_search(study.default_search_file(model))
    config = Config(model, "tiny", config_dict={"data_path": tiny["data_path"]})
    assert space.keys() <= config.final_config_dict.keys()
    assert {"learning_rate", "train_batch_size"} <= space.keys()
    assert ("compress_bits" in space) == (model != "TinyRippleNet")
    assert space_of(as_mapping(space)) == space
    default = {name: config[name] for name in space}
    assert spaces.encode(space, default).keys() == space.keys()  # Optuna hears all of it


# Spaces

SPACE = {
    "choice": Choice(([64], "[8]", True, 1)),
    "steps": Steps(0, 3, 0.1),
    "log": Range(1e-4, 1e-2, log=True),
    "range": Range(0.5, 1.5),
}


def test_samples_are_distinct_seeded_inside_and_begin_with_the_default():
    first = {"choice": [99], "steps": 0.1, "log": 0.5, "range": 1.0}
    samples = spaces.distinct_samples(SPACE, 50, seed=3, first=first)
    assert samples == spaces.distinct_samples(SPACE, 50, seed=3, first=first)
    assert samples != spaces.distinct_samples(SPACE, 50, seed=4, first=first)
    assert samples[0] == first and len(samples) == 50
    assert all(spaces.encode(SPACE, sample).keys() == SPACE.keys() for sample in samples[1:])


def test_loguniform_is_uniform_in_the_logarithm():
    rng = np.random.default_rng(0)
    logs = np.log([SPACE["log"].sample(rng) for _ in range(4000)])
    low, high = math.log(1e-4), math.log(1e-2)
    step = (high - low) / math.sqrt(12 * 4000)  # standard error of the mean
    assert abs(logs.mean() - (low + high) / 2) < 4 * step


def test_a_small_space_gives_what_it_has():
    space = {"a": Choice((1, 2)), "b": Steps(0, 1)}
    samples = spaces.distinct_samples(space, 10, seed=0)
    assert sorted(map(str, samples)) == sorted(map(str, spaces.grid(space)))


def test_the_grid_has_every_combination_once():
    space = {"a": Choice((1, 2)), "b": Steps(0, 2)}
    inside, outside = {"a": 2, "b": 1}, {"a": 7, "b": 1}
    assert len(list(spaces.grid(space, inside))) == 6
    assert next(spaces.grid(space, inside)) == inside
    assert len(list(spaces.grid(space, outside))) == 7


@pytest.mark.parametrize(("value", "inside"), [([64], True), (True, True), (1, True), (2, False)])
def test_a_choice_knows_its_values_by_type(value, inside):
    code = SPACE["choice"].encode(value)
    assert (code is not None) == inside
    assert code is None or code == repr(value)


# Objectives


def test_the_front_is_what_nothing_dominates():
    rng = np.random.default_rng(0)
    points = [tuple(point) for point in rng.integers(0, 6, size=(60, 3)).tolist()]
    array = np.array(points)
    weakly = (array[:, None] <= array[None]).all(-1)  # by matrices, not by our loop
    strictly = (array[:, None] < array[None]).any(-1)
    expected = {i for i in range(60) if not (weakly & strictly)[:, i].any()}
    assert set(objectives.pareto_front([*points, None])) == expected


def test_losses_turn_the_metric_around_and_need_every_objective():
    values = {"valid": 0.5, "saved": 10, "peak": math.nan, "seconds": None}
    assert objectives.losses(values, ("valid", "saved"), True) == (-0.5, 10)
    assert objectives.losses(values, ("valid",), False) == (0.5,)
    assert objectives.losses(values, ("valid", "peak"), True) is None
    assert objectives.losses(values, ("seconds",), True) is None


# Records and tables

FINISHED = records.Trial(
    0, {"layers": [64], "x": 0.1}, "finished", 0.25, {"mrr@5": 0.25}, 3, 2, 2048, 2**20, 0.5
)
FAILED = records.Trial(1, {"layers": [], "x": 0.2}, "failed", error="ValueError: no layers")


def test_records_survive_the_disk(tmp_path):
    for trial in (FAILED, FINISHED):
        records.write_trial(tmp_path, trial)
    assert records.read_trials(tmp_path) == [FINISHED, FAILED]
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 0]
    records.write_table(tmp_path / "trials.csv", [FINISHED, FAILED])
    header, first, second = (tmp_path / "trials.csv").read_text().splitlines()
    assert header.startswith("number,parameters.layers,parameters.x,status,valid,metrics.mrr@5")
    assert first.startswith("0,[64],0.1,finished,0.25") and "no layers" in second


def test_the_table_marks_the_best_and_says_why_others_failed():
    lines = report.trials_table([FINISHED, FAILED], "mrr@5", 0).splitlines()
    assert lines[2].split() == [
        *("0*", "[64]", "0.1", "0.2500", "3", "2.00", "KiB", "1.00", "MiB", "0.50", "finished")
    ]
    assert lines[-1] == "trial 1 failed: ValueError: no layers"


@pytest.mark.parametrize("names", [("valid", "saved"), ("seconds", "valid", "peak")])
def test_the_front_is_drawn(names, tmp_path):
    plan = {"objectives": names, "metric": "mrr@5", "metric_bigger": True}
    plan |= {"model": "TinyKGAT", "dataset": "tiny"}
    report.plot_front(tmp_path / "pareto.png", [FINISHED], [0], plan)
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


# What is asked for


def planned(tiny, model="TinyKGAT", argv=(), **options) -> study.Study:
    config = Config(model, "tiny", config_dict=tiny, argv=[f"--{a}" for a in argv])
    return study.make_study(config, TuneOptions(**options), [a.split("=")[0] for a in argv])


def test_a_stock_model_is_searched_as_its_twin_without_bits(tiny):
    twin, stock = planned(tiny), planned(tiny, "KGAT")
    assert stock.search == {k: v for k, v in twin.search.items() if k != "compress_bits"}


def test_bits_are_not_searched_where_a_budget_chooses_them(tiny):
    assert "compress_bits" in planned(tiny).search
    budgeted = planned({**tiny, "compress_budget": "64KiB"})
    assert "compress_bits" not in budgeted.search and "learning_rate" in budgeted.search
    assert all("compress_bits" not in point for point in budgeted.points())


def test_a_parameter_on_the_command_line_is_not_searched(tiny):
    plan = planned(tiny, argv=["learning_rate=0.5"])
    assert "learning_rate" not in plan.search and plan.user["learning_rate"] == 0.5
    assert plan.points()[0] == plan.default


def test_a_plan_survives_the_disk(tiny, tmp_path):
    plan = planned(tiny, objectives=("valid", "saved"))
    plan.save(tmp_path)
    assert study.Study.load(tmp_path) == plan
    assert plan.scheduler == "none" and planned(tiny).scheduler == "asha"
    assert Path(plan.base["data_path"]).is_absolute()


KNOWN = ["--dataset=tiny", "--output=out"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--search=nowhere.yaml"],
            "--search must name a search file .*; got nowhere.yaml: No such",
        ),
        (
            ["--search={a}"],
            "a.yaml, learning_rat must be a parameter of TinyKGAT; .*learning_rate?",
        ),
        (["--search={b}"], "b.yaml, epochs must be a parameter that trials may differ in"),
        (["--search={c}", "--learning_rate=1"], "c.yaml must leave something to search"),
        (["--search={c}", "--searcher=grid"], "--searcher=grid needs choice, .* for learning_rate"),
        (
            ["--search={d}", "--searcher=grid", "--trials=2"],
            "--trials must be at least 3, .* got 2",
        ),
        (["--model=BPR"], "--search must name a search file for BPR: none comes with it"),
        (["--trials=0"], "--trials must be an integer >= 1; got 0"),
        (["--trials=many"], "--trials must be an integer >= 1; got 'many'"),
        (["--scheduler=hyperband"], "--scheduler must be one of asha, none; got 'hyperband'"),
        (["--searcher=tpe"], "--searcher must be one of random, optuna, grid; got 'tpe'"),
        (["--objectives=memory"], "--objectives must be one of valid, saved, .*; got 'memory'"),
        (["--objectives=valid,valid"], "--objectives must differ; got valid,valid"),
        (["--cpus=0"], "--cpus of a trial must be a number > 0, .*; got 0"),
        (["--cpus=1.5"], "--cpus of a trial must be a number > 0, .* whole number; got 1.5"),
        (["--gpus=-1"], "--gpus of a trial must be a number >= 0, .*; got -1"),
        (["--gpus=one"], "--gpus of a trial must be a number >= 0, .*; got 'one'"),
        (["--concurrent=0"], "--concurrent must be an integer >= 1; got 0"),
        (["--tune_seed=-1"], r"--tune_seed must be an integer from 0 to 2\^32 - 1; got -1"),
        (["--address=here"], "--address must be HOST:PORT or auto; got 'here'"),
        (["--address=ray://host:1"], "--address must be HOST:PORT or auto; got 'ray://host:1'"),
        (["--continue"], "--continue needs a search in --output; there is no .*out/search.json"),
        (["--continue=maybe"], "--continue must be True or False; got 'maybe'"),
        (["--eval_step=0"], "tune needs epochs >= 1 and eval_step >= 1, .* got .* eval_step 0"),
        (["--epochs=0"], "tune needs epochs >= 1"),
        (["--output={file}"], "--output must be a folder that can be written; got .*: "),
        (["--learning_rat=1"], "--learning_rat is neither a flag of this command nor"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(argv, message, tmp_path, tiny, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "require", lambda searcher: None)
    files = {
        "a": "learning_rat: [0.1, 0.2]",
        "b": "epochs: [1, 2]",
        "c": "learning_rate: {loguniform: [1e-4, 1e-2]}",
        "d": "learning_rate: [0.1, 0.2, 0.3]",
        "file": "",
    }
    paths = {name: written(tmp_path, f"{name}.yaml", text) for name, text in files.items()}
    argv = [argument.format(**paths) if "{" in argument else argument for argument in argv]
    if any("--output" in a for a in argv):
        with pytest.raises(UserError, match=message):
            planned(tiny).save(tmp_path / "file.yaml" / "out")
        return
    shared = [f"--{key}={value}" for key, value in tiny.items() if key not in argv[0]]
    assert cli.main(["tune", *KNOWN, *shared, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(message, err), err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 5}, "--trials must stay as it was in .*search.json, 3; got 5"),
        ({"search": {"layers": [[4]]}}, "--search must stay as it was"),
        ({"concurrent": 2}, "--concurrent must stay as it was in .*, None; got 2"),
        ({"seed": 1}, "--tune_seed must stay as it was in .*, 2020; got 1"),
        ({"argv": ["--embedding_size=4"]}, "--embedding_size must stay as it was in .*, 8; got 4"),
        ({"argv": ["--weight_decay=1"]}, "--weight_decay must stay as it was in .*, None; got 1"),
        ({"model": "TinyKGCN"}, "--model must stay as it was in .*, TinyKGAT; got TinyKGCN"),
        ({"resume": False}, "--output must be a folder without a search; .* holds one: go on"),
    ],
)
def test_a_search_goes_on_as_it_began(changes, message, tiny, tmp_path):
    planned(tiny, trials=3).save(tmp_path)
    known = {"model": None, "dataset": "tiny", "output": tmp_path, "resume": True}
    with pytest.raises(UserError, match=message):
        tune(**{**known, **changes})


def test_a_damaged_search_is_refused(tmp_path):
    written(tmp_path, "search.json", "{}")
    with pytest.raises(UserError, match="search.json must be as tune wrote it"):
        tune(output=tmp_path, resume=True)


def test_sigterm_is_an_interrupt_and_its_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    of_interrupts = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # Tune may have left one
    try:
        with pytest.raises(KeyboardInterrupt), cluster.interrupt_at_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, of_interrupts)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("searcher", "missing"), [("random", "ray"), ("optuna", "optuna")])
def test_a_missing_library_is_named_with_its_remedy(searcher, missing, monkeypatch):
    if searcher == "optuna":
        pytest.importorskip("ray.tune")
    for name in (missing, f"{missing}.tune"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=rf"tune needs {missing}.*pip install .*\[tune\]"):
        cluster.require(searcher)


# A trial, without Ray


def test_a_worker_can_choose_its_gpu_before_pytorch_is_imported():
    code = (
        "import sys; sys.modules.update(torch=None, recbole=None)\n"
        "from recbole_tinykg.commands.tune.trial import train_trial"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def plan_of_trials(tiny, tmp_path) -> TrialPlan:
    config = Config("TinyKGAT", "tiny", config_dict=tiny | {"epochs": 3})
    return TrialPlan(str(tmp_path), study.shared_configuration(config), 1, 0)


def test_a_trial_reports_validation_every_epoch_and_writes_into_its_folder(plan_of_trials):
    rows = []
    run_trial(3, {"compress_bits": 4}, plan_of_trials, rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 3]
    assert [row["finished"] for row in rows] == [False, False, False, True]
    best = max(row["score"] for row in rows)
    assert rows[-1]["valid"] == rows[-1]["metrics"]["mrr@5"] == best
    assert not [name for row in rows for name in row if "test" in name]
    folder = records.folder_of(plan_of_trials.output, 3)
    assert yaml.safe_load((folder / "parameters.yaml").read_text()) == {"compress_bits": 4}
    assert {path.name for path in folder.iterdir()} >= {"log", "log_tensorboard", "saved"}
    assert (folder / "saved" / "trial-003.pth").is_file()


class WorkerDied(BaseException):
    """Stands for a kill: nothing in the trial may catch it."""


def test_a_trial_whose_worker_died_ends_as_if_it_had_not(plan_of_trials):
    def die(row):
        raise WorkerDied

    through, again = [], []
    run_trial(0, {}, plan_of_trials, through.append)
    with pytest.raises(WorkerDied):
        run_trial(1, {}, plan_of_trials, die)
    run_trial(1, {}, plan_of_trials, again.append)
    same = ("epoch", "valid", "metrics", "finished")
    assert [[row[k] for k in same] for row in through] == [[row[k] for k in same] for row in again]


def test_a_trial_that_died_after_its_last_epoch_trains_no_more(plan_of_trials):
    first, again = [], []
    run_trial(0, {}, plan_of_trials, first.append)
    run_trial(0, {}, plan_of_trials, again.append)
    assert len(again) == 1 and again[0]["finished"]
    assert again[0]["valid"] == first[-1]["valid"]


def test_a_trial_that_ended_repeats_its_report(plan_of_trials):
    records.write_trial(plan_of_trials.output, FINISHED)
    folder = records.folder_of(plan_of_trials.output, 0)
    (folder / "parameters.yaml").write_text(
        yaml.safe_dump(FINISHED.parameters, sort_keys=False), encoding="utf-8"
    )
    rows = []
    run_trial(0, FINISHED.parameters, plan_of_trials, rows.append)
    assert [(row["epoch"], row["valid"], row["saved"]) for row in rows] == [(3, 0.25, 2048)]


def test_a_folder_of_other_parameters_is_cleared(plan_of_trials):
    records.write_trial(plan_of_trials.output, FINISHED)
    rows = []
    run_trial(0, {"compress_bits": 3}, plan_of_trials, rows.append)
    assert rows[-1]["error"].startswith("ConfigurationError: compress_bits must be one of")
    assert math.isnan(rows[-1]["valid"]) and "epoch" not in rows[-1]
    assert "Traceback" in (records.folder_of(plan_of_trials.output, 0) / "error.txt").read_text()
