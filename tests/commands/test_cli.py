"""The command line answers in a table or in one clear line, and never with a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recbole

from helpers.datasets import write_tiny_dataset
from helpers.processes import run_python
from recbole_tinykg.commands import cli, train
from recbole_tinykg.commands.catalogue import COMMANDS
from recbole_tinykg.config import own_keys
from recbole_tinykg.memory.byte_sizes import format_bytes


@pytest.fixture
def arguments(tiny) -> list[str]:
    """The tiny data set and its parameters, as a user types them."""
    return ["--dataset=tiny", *(f"--{key}={value}" for key, value in tiny.items())]


def rows(table: str) -> dict[str, list[str]]:
    """Cells of a printed table by the label of their row; cells are two spaces apart."""
    lines = [line for line in table.splitlines() if line.strip() and not line.startswith("--")]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {label: values for label, *values in cells}


def floats(metrics: list[str]) -> list[float]:
    return [float(cell) for cell in metrics]


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--x=1", "-h"]])
def test_help_names_every_command(argv, capsys):
    assert cli.main(argv) == 0
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(listed) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_names_every_flag(name, capsys):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for flag in (*COMMANDS[name].flags, *COMMANDS[name].switches):
        assert f"--{flag}" in text


def recboles_keys() -> set[str]:
    """Every key that RecBole's sources read from a configuration."""
    pattern = re.compile(r"""config(?:\.final_config_dict|\.get)?[\[(]\s*["']([\w-]+)["']""")
    files = Path(recbole.__file__).parent.rglob("*.py")
    return {key for file in files for key in pattern.findall(file.read_text())}


def test_every_key_that_recbole_reads_is_accepted():
    computed = {key for key in recboles_keys() if key.isupper() or key.endswith("_neg_sample_args")}
    keys = recboles_keys() - computed - {"MODEL_TYPE", "eval_type", "local_rank", "sim"}
    assert len(keys) > 200
    own_keys.refuse_unknown(dict.fromkeys(keys), dict.fromkeys(keys))


def test_help_answers_without_loading_torch():
    code = (
        "import sys; from recbole_tinykg.commands import cli; cli.main(['--help']);"
        "print({'torch', 'recbole'} & sys.modules.keys(), file=sys.stderr)"
    )
    run = run_python(code)
    assert run.stderr == "set()\n"


@pytest.mark.parametrize(("users", "expected"), [(None, "1"), ("0", "0")])
def test_huge_pages_are_asked_for_unless_the_user_decides(users, expected, monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "")  # so that the end of the test restores it
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    if users is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", users)
    assert cli.main(["--compress_bits=3"]) == 2
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model=Nope"], "model must be one of TinyKGAT, .*KGAT.*; got 'Nope'"),
        (["--model=tinykgat"], r"did you mean TinyKGAT\?"),
        (["--compress_bits=3"], "compress_bits must be one of 1, 2, 4, 8, 32; got 3"),
        (["--compress_bit=2"], r"did you mean compress_bits\?"),
        (["--compress_rounding=up"], "must be one of stochastic, nearest; got 'up'"),
        (["--model=KGAT", "--compress_bits=2"], "compress_bits belongs to the Tiny models"),
        (["--layers=64"], "layers must be .*; got 64"),
        (["--layers=[]"], r"layers must be .*; got \[\]"),
        (["--aggregator_type=mean"], "aggregator_type must be one of .*; got 'mean'"),
        (["--dataset=nowhere"], "got nowhere, and .* does not exist"),
        (["--nproc=2"], "nproc must be 1; got 2"),
        (["-n", "2"], "nproc must be 1; got 2"),
        (["--model"], "--model must be followed by a value"),
        (["--model=KGAT", "--model=TinyKGAT"], "--model must be given once"),
        (["--model=KGAT", "--model_list=KGAT,BPR"], "must come without --model; got both"),
        (["--resume=a.pth", "--model_list=KGAT,BPR"], "must come without --resume; got both"),
        (["--run_name=a", "--model_list=KGAT,BPR"], "must come without --run_name; got both"),
        (["--model_list="], "got ''"),
        (["--model_list=TinyKGAT,Nope"], "got 'Nope'"),
        (["--epochs"], "must look like --key=value; got '--epochs'"),
        (["-epochs=5"], "must look like --key=value; got '-epochs=5'"),
        (["trian"], r"command must be one of train, .*; got 'trian'; did you mean train\?"),
        (
            ["--learning_rat=0.1"],
            r"neither a flag .* nor a parameter.*did you mean learning_rate\?",
        ),
        (["--zzz=1"], "--zzz is neither a flag of this command nor a parameter"),
        (["train", "KGAT"], "must look like --key=value; got 'KGAT'"),
        (["--config_files=nowhere.yaml"], "nowhere.yaml"),
        (["--resume=nowhere.pth"], "nowhere.pth .*there is no such file"),
        (["evaluate"], "--checkpoint must name a file; got none"),
        (["evaluate", "--checkpoint=nowhere.pth"], "nowhere.pth .*there is no such file"),
        (["evaluate", "--checkpoint=a.pth", "--model=KGAT"], "--model comes with the checkpoint"),
        (["convert", "--checkpoint=a.pth"], "--output must name a file; got none"),
        (["convert", "--checkpoint=a.pth", "--output=b.pth"], "a.pth cannot be read"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(argv, message, capsys, empty_working_folder):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("recbole-tinykg: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(empty_working_folder.rglob("*.pth"))


@pytest.mark.parametrize("suffix", ["kg", "link"])
def test_dataset_without_knowledge_graph_is_one_line(suffix, arguments, capsys, tmp_path):
    write_tiny_dataset(tmp_path)
    (tmp_path / "tiny" / f"tiny.{suffix}").unlink()
    arguments = [a for a in arguments if not a.startswith("--data_path")]
    assert cli.main([*arguments, f"--data_path={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert f"TinyKGAT needs tiny.{suffix} in" in err and err.count("\n") == 1


def test_the_process_ends_with_the_status_and_no_traceback():
    run = subprocess.run(
        [sys.executable, "-m", "recbole_tinykg.commands.cli", "--compress_bits=3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == "" and run.stderr.count("\n") == 1


def test_train_prints_the_table_of_its_result(arguments, capsys):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    cells = rows(out)
    (result_file,) = Path("saved").glob("*.json")
    result = json.loads(result_file.read_text())
    assert cells["TinyKGAT"] == []
    for name, value in result["test_result"].items():
        assert floats(cells[f"test {name}"]) == [value]
        assert floats(cells[f"best valid {name}"]) == [result["best_valid_result"][name]]
    saved = result["memory"]["rs"]["saved_activation_bytes"]
    assert cells["recommendation step: saved activations"] == [f"{saved / 1024:.2f} KiB"]
    assert cells["epochs"] == ["2"]
    assert str(result_file) in out


def recorded_runs(monkeypatch):
    """Calls of `run_recbole_tinykg` that the train command makes, without training."""
    calls = []

    def record(model, dataset, config_file_list, *, argv, resume=None):
        calls.append((model, dataset, list(argv), resume))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run_recbole_tinykg", record)
    return calls


@pytest.mark.parametrize(
    ("argv", "model", "dataset", "rest"),
    [
        ([], "TinyKGAT", "ml-100k", []),
        (["train"], "TinyKGAT", "ml-100k", []),
        (["--model=KGAT", "--epochs=3"], "KGAT", "ml-100k", ["--epochs=3"]),
        (["-m", "KGAT", "-d", "ml-100k"], "KGAT", "ml-100k", []),
        (["--model", "KGAT", "--dataset", "ml-100k"], "KGAT", "ml-100k", []),
    ],
)
def test_defaults_and_recboles_flags(argv, model, dataset, rest, monkeypatch):
    calls = recorded_runs(monkeypatch)
    assert cli.main(argv) == 130
    assert calls == [(model, dataset, rest, None)]


def test_names_in_config_files_win_over_the_defaults(monkeypatch, tmp_path):
    calls = recorded_runs(monkeypatch)
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    files[0].write_text("model: KGCN\nepochs: 3\n")
    files[1].write_text("model: KGAT\n")
    config_files = "--config_files=" + " ".join(map(str, files))
    cli.main([config_files])
    cli.main([config_files, "--model=TinyKGAT"])
    assert [call[0] for call in calls] == ["KGAT", "TinyKGAT"]


def test_model_list_makes_one_table_and_gives_each_model_its_keys(arguments, capsys):
    lists = ["--model_list=TinyKGAT,KGAT", "--compress_bits=8", "--detect_anomaly=false"]
    assert cli.main([*arguments, *lists]) == 0
    cells = rows(capsys.readouterr().out)
    assert cells["TinyKGAT"] == ["KGAT"]
    assert len(cells["test recall@5"]) == 2
    configs = {
        content["config"]["model"]: content["config"]
        for content in (json.loads(file.read_text()) for file in Path("saved").glob("*.json"))
    }
    assert configs["TinyKGAT"]["compress_bits"] == 8
    assert "compress_bits" not in configs["KGAT"]
    assert configs["KGAT"]["detect_anomaly"] is False


def test_a_list_with_compressed_saves_gives_their_keys_to_stock_models(arguments, capsys):
    lists = ["--model_list=TinyKGAT,KGAT", "--compressed_saves=true", "--compress_bits=8"]
    assert cli.main([*arguments, *lists]) == 0
    for file in Path("saved").glob("*.json"):
        config = json.loads(file.read_text())["config"]
        assert config["compress_bits"] == 8
        assert config["compressed_saves"] == (config["model"] == "KGAT")


def test_evaluate_prints_the_metrics_of_the_run(arguments, capsys):
    cli.main(arguments)
    (result_file,) = Path("saved").glob("*.json")
    result = json.loads(result_file.read_text())
    capsys.readouterr()
    assert cli.main(["evaluate", f"--checkpoint={result['files']['best']}"]) == 0
    cells = rows(capsys.readouterr().out)
    for name in result["test_result"]:
        expected = [result["best_valid_result"][name], result["test_result"][name]]
        assert floats(cells[name]) == expected
    assert cli.main(["evaluate", f"--checkpoint={result['files']['best']}", "--topk=[3]"]) == 0
    assert "recall@3" in rows(capsys.readouterr().out)


def test_interrupt_is_a_sentence_with_the_checkpoint_and_status_130(arguments, capsys, monkeypatch):
    from recbole_tinykg.model.kgat import TinyKGAT

    refresh, calls = TinyKGAT.update_attentive_A, []

    def interrupted(self):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        refresh(self)

    monkeypatch.setattr(TinyKGAT, "update_attentive_A", interrupted)
    assert cli.main(arguments) == 130
    err = capsys.readouterr().err
    assert err.startswith("\nrecbole-tinykg: interrupted; continue with --resume=saved/TinyKGAT-")
    assert cli.main([err.split()[-1]]) == 0
    assert rows(capsys.readouterr().out)["epochs"] == ["1"]


def test_interrupt_before_the_first_epoch_says_so(capsys, monkeypatch):
    recorded_runs(monkeypatch)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == ("\nrecbole-tinykg: interrupted; no checkpoint was written\n")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (3 * 2**20 // 2, "1.50 MiB")],
)
def test_sizes_have_a_unit(num_bytes, text):
    assert format_bytes(num_bytes) == text
