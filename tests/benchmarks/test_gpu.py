"""The run kit for a machine with a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import (
    bars,
    cuda_tests,
    driver,
    install,
    operator_calls,
    report,
    sanitizer,
    smoke,
    wheels,
)
from benchmarks.gpu.steps import Plan, Step, steps
from recbole_tinykg.ops import registration

ROOT = Path(__file__).parents[2]
TABLE = (
    "twins of ten",
    "TinyKGAT RS / KG step, ml-100k",
    "TinyKGAT RS / KG step, Amazon-Book's size",
    "TinyKGAT epoch",
    "TinyKGCN / TinyKGNNLS / TinyKGIN / TinyRippleNet step",
    "wall over device-busy time",
    "transient peak",
    "quantize / dequantize",
    "epoch at 2 bits over",
)


# The driver, with steps of its own


def step(name: str, code: str, seconds: int = 20) -> Step:
    return Step(name, seconds, (sys.executable, "-c", code))


@pytest.fixture
def plan(tmp_path) -> Plan:
    return Plan("cpu", tmp_path / "work")


def run_all(plan, tmp_path, chosen, limit=60.0):
    ended = driver.run_all(chosen, plan, tmp_path / "output", limit)
    content = json.loads((tmp_path / "output" / "gpu.json").read_text())
    assert content["steps"] == ended
    return {one["name"]: one for one in ended}, content, (tmp_path / "output/gpu.md").read_text()


def writes(plan, name: str, number: int) -> str:
    path = str(plan.part(name))
    return f"open({path!r}, 'w').write('{{\"number\": {number}}}')"


def test_a_step_that_fails_or_hangs_stops_no_other_and_leaves_what_it_had(plan, tmp_path):
    hangs = f"{writes(plan, 'hangs', 1)}; import time; time.sleep(60)"
    chosen = [
        step("fails", "import sys; sys.exit('no such kernel')"),
        step("hangs", hangs, seconds=5),
        step("works", writes(plan, "works", 2)),
    ]
    ended, content, page = run_all(plan, tmp_path, chosen)
    assert [one["ended"] for one in ended.values()] == ["status 1", "out of time", "done"]
    assert ended["fails"]["tail"].strip() == "no such kernel"
    assert content["found"] == {"hangs": {"number": 1}, "works": {"number": 2}}
    assert "### step fails\n\n```\nno such kernel" in page and "| hangs | out of time |" in page


def test_what_a_step_started_ends_with_it(plan, tmp_path):
    note = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"Path({str(note)!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    run_all(plan, tmp_path, [step("starts", code, seconds=6)])
    deadline = time.monotonic() + 10
    while is_running(int(note.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(note.read_text()))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, which it is until someone waits for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_no_step_is_begun_without_time(plan, tmp_path):
    chosen = [step("first", writes(plan, "first", 1)), step("second", "")]
    ended, content, _ = run_all(plan, tmp_path, chosen, limit=driver.LEAST - 1)
    assert {one["ended"] for one in ended.values()} == {"not begun: no time left"}
    assert content["found"] == {}


def test_a_result_of_an_earlier_run_is_not_shown_as_this_ones(plan, tmp_path):
    run_all(plan, tmp_path, [step("part", writes(plan, "part", 1))])
    _, content, _ = run_all(plan, tmp_path, [step("part", "import sys; sys.exit(1)")])
    assert content["found"] == {}


def test_a_trial_leaves_measured_results_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "RESULTS", tmp_path / "measured")
    monkeypatch.setattr(driver, "steps", lambda plan: [step("part", writes(plan, "part", 1))])
    assert driver.main(["--dry-run", "--folder", str(tmp_path / "build")]) == 0
    assert capsys.readouterr().out.endswith((tmp_path / "build/results/gpu.md").read_text() + "\n")
    assert not (tmp_path / "measured").exists()


def test_steps_find_the_repository_and_the_unpacked_packages_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/else")
    paths = driver.environment(Plan("cuda", tmp_path, wheels=tmp_path))["PYTHONPATH"]
    assert paths.split(os.pathsep) == [str(ROOT), str(tmp_path / "site"), "/else"]
    paths = driver.environment(Plan("cuda", tmp_path))["PYTHONPATH"]
    assert paths.split(os.pathsep) == [str(ROOT), "/else"]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_step_is_a_module_that_takes_its_arguments(device, tmp_path, monkeypatch):
    """They stop at `--help`, which argparse answers after it has read what comes before."""
    for one in steps(Plan(device, tmp_path, wheels=tmp_path)):
        python, _, _, _, module, *arguments = one.command
        monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(module).main()
        assert python == sys.executable and ended.value.code == 0


def test_the_steps_come_in_order_of_worth_and_only_a_trial_makes_data(tmp_path):
    names = [one.name for one in steps(Plan("cuda", tmp_path))]
    assert names == "install smoke tests suite kernels launches sanitizer".split()
    assert driver.LIMIT <= 8 * 60
    assert "data" in [one.name for one in steps(Plan("cpu", tmp_path))]


def test_the_command_names_steps_that_exist(capsys):
    with pytest.raises(SystemExit):
        driver.main(["--steps=nope"])
    assert "--steps must be of install, smoke," in capsys.readouterr().err


# The report


def test_the_table_is_the_one_that_was_asked_for_and_needs_no_result():
    page = report.page({"date": "today", "device": "cuda", "found": {}, "steps": []})
    rows = [line for line in page.splitlines() if line.endswith("| not measured |")]
    assert len(rows) == len(bars.BARS) == len(TABLE)
    for row, label in zip(rows, TABLE, strict=True):
        assert row.startswith(f"| {label}")
    trial = report.page({"date": "today", "device": "cpu", "found": {}, "steps": []})
    assert trial.count("| a trial |") == len(rows)


def suite_of(seconds: dict[str, float]) -> dict:
    """One round of TinyKGAT's steps and epoch, in seconds, by variant."""
    rounds = {v: [{"step_rs": s, "step_kg": s, "epoch": s}] for v, s in seconds.items()}
    request = {"variants": list(rounds), "rounds": 1}
    time_part = {"seconds": rounds, "errors": {}, "request": request}
    return {"status": {}, "TinyKGAT": {"time": time_part}}


def test_bars_compare_what_was_measured_with_what_was_asked():
    found = {"suite": suite_of({"stock": 4.0, "tiny32": 2.0, "tiny2": 1.0})}
    step_bar, epoch, itself = bars.BARS[1], bars.BARS[3], bars.BARS[8]
    assert (step_bar.measured(found), step_bar.holds(found)) == ("0.25 / 0.25", "yes")
    assert (epoch.measured(found), epoch.holds(found)) == ("0.25 / – / –", "not measured")
    assert (itself.measured(found), itself.holds(found)) == ("0.50 / 0.50", "yes")
    slow = {"suite": suite_of({"stock": 1.0, "tiny32": 2.0, "tiny2": 0.6})}
    assert step_bar.holds(slow) == "**no**" and epoch.holds(slow) == "**no**"


def test_bandwidth_has_to_be_at_least_what_was_asked():
    rows = [
        {
            "operator": name,
            "bits": 2,
            "dtype": "float32",
            "shape": [4_000_000, 64],
            "bandwidth_of_copy": share,
        }
        for name, share in (("quantize", 0.81), ("dequantize", 0.89))
    ]
    found = {"kernels": {"operators": {"rows": rows}}}
    assert (bars.BARS[7].measured(found), bars.BARS[7].holds(found)) == ("81 / 89", "**no**")
    rows[1]["bandwidth_of_copy"] = 0.9
    assert bars.BARS[7].holds(found) == "yes"
    assert "| quantize | 2 | 81% |" in report.kernels_table(found)


# Training on both devices

RUN = {"losses": [[50.0], [40.0]], "metrics": {"recall@10": 0.1}, "users": 900}


def changed(**changes) -> dict:
    return {**RUN, **changes}


def test_runs_that_differ_by_noise_are_alike():
    other = changed(losses=[[50.2], [40.2]], metrics={"recall@10": 0.12})
    assert smoke.verdict({"device": RUN, "cpu": RUN}) == "alike"
    assert smoke.verdict({"device": other, "cpu": RUN}) == "alike"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (changed(losses=[[50.0], [float("nan")]]), "loss of epoch 1: nan, on the CPU 40"),
        (changed(losses=[[50.0], [41.0]]), "loss of epoch 1: 41, on the CPU 40"),
        (changed(metrics={"recall@10": 0.03}), "recall@10: 0.0300, on the CPU 0.1000"),
        (changed(metrics={"recall@10": float("nan")}), "recall@10: nan, on the CPU 0.1000"),
        ({"error": "Traceback\nno kernel"}, "fails on device: Traceback …"),
    ],
)
def test_a_run_that_differs_by_more_says_in_what(run, said):
    assert smoke.verdict({"device": run, "cpu": RUN}) == said
    assert smoke.verdict({"device": run}) == "not finished"


def test_every_twin_is_trained():
    from recbole_tinykg.model import MODELS

    assert set(smoke.TWINS) == set(MODELS)


def test_a_twin_trains_in_the_kit(tiny_data_path):
    run = smoke.train("TinyKGCN", "cpu", "tiny", str(tiny_data_path))
    assert smoke.verdict({"device": run, "cpu": run}) == "alike"
    assert run["users"] == 24 and run["device"] == "cpu" and run["metrics"]["recall@10"] > 0


# Packages and tests


def test_versions_are_those_of_the_locks():
    versions = wheels.pinned()
    assert versions["recbole"] == "1.2.1" and "pyyaml" in versions
    assert not {"torch", "ray", "ruff"} & versions.keys()


def make_wheel(folder: Path, size: int) -> Path:
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("thing/__init__.py", "answer = 42")
        wheel.writestr("thing/tests/test_it.py", "assert False")
        wheel.writestr("thing/big.py", os.urandom(size // 2).hex())
        wheel.writestr("thing-1.0.data/purelib/beside.py", "")
    return path


def test_a_large_wheel_is_packed_anew_and_unpacks_to_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "LARGE", 2**15)
    path = make_wheel(tmp_path, 2**16)
    before, size = zipfile.ZipFile(path).read("thing/big.py"), path.stat().st_size
    wheels.make_small(path)
    assert path.stat().st_size < 0.6 * size
    packed = path.read_bytes()
    wheels.make_small(path)  # again: it is left as it is
    assert path.read_bytes() == packed
    install.unpack(tmp_path, tmp_path / "site")
    assert (tmp_path / "site/thing/big.py").read_bytes() == before
    assert not (tmp_path / "site/thing/tests").exists()
    assert (tmp_path / "site/beside.py").exists()
    assert list((tmp_path / "site/thing/__pycache__").glob("__init__.*.pyc"))


def test_a_folder_without_wheels_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--wheels must be a folder of wheels; got"):
        install.unpack(tmp_path, tmp_path / "site")


def test_files_with_a_test_for_a_gpu_are_chosen():
    names = [path.stem for path in cuda_tests.test_files()]
    assert names[:2] == ["test_plan", "test_cuda_kernels"] or "test_cuda_kernels" in names[:2]
    assert {"test_cuda", "test_meter", "test_loop", "test_spmm"} <= set(names)
    assert not {"test_cuda_emulation", "test_gpu", "test_docs"} & set(names)


def test_a_test_files_outcomes_are_counted_without_xdist(tmp_path):
    path = tmp_path / "test_made_up.py"
    path.write_text(
        "import pytest\n"
        "def test_passes(pytestconfig): assert not pytestconfig.pluginmanager.hasplugin('xdist')\n"
        "def test_fails(): assert 0, 'because'\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
    )
    options = ["--noconftest", "-c", os.devnull, "--rootdir", str(tmp_path)]
    counts = cuda_tests.run_file(path, options)
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (1, 1, 1)
    assert counts["names"] == ["test_fails"] and counts["status"] == 1
    assert "because" in counts["tail"]


def test_the_sanitizer_is_found_in_the_toolkit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert sanitizer.find_program() is None
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.touch(mode=0o755)
    assert sanitizer.find_program() == str(program)


def test_every_operator_is_called_under_the_sanitizer():
    called = {name.split(" ")[0] for name in operator_calls.results(torch.randn(9, 7), "cpu")}
    schemas = {schema.partition("(")[0] for schema in registration._SHAPE_RULES}
    assert called == schemas - {"random_bits"}  # which `quantize` draws, and no kernel is for


def test_a_wrong_result_of_an_operator_is_found():
    expected = torch.ones(2, 3)
    operator_calls.check("spmm", expected + 1e-6, expected)
    for name, difference in (("spmm", 1e-2), ("quantize 2", 1e-6), ("spmm", float("nan"))):
        with pytest.raises(AssertionError):
            operator_calls.check(name, expected + difference, expected)
