"""Atomic files read by pandas' C parser: the tables of the Python parser, or that parser itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from recbole.data.dataset import dataset as recboles

from recbole_tinykg.data import atomic_files
from recbole_tinykg.quick_start import prepare

PLAIN = "a:token\tb:float\tc:token\n1\t0.30000000000000004\tx y\nNA\t\té\n01\t1e300\t\n"


def read(reader, path):
    columns = ["a:token", "b:float", "c:token"]
    kinds = {name: np.float64 if name.endswith("float") else str for name in columns}
    options = dict(usecols=columns, dtype=kinds, encoding="utf-8", engine="python")
    return reader(str(path), delimiter="\t", **options)


@pytest.fixture
def engines(monkeypatch):
    """The engines that pandas is asked for."""
    asked, original = [], pd.read_csv

    def spy(*args, **options):
        asked.append(options["engine"])
        return original(*args, **options)

    monkeypatch.setattr(pd, "read_csv", spy)
    return asked


@pytest.mark.parametrize("chunk", [1 << 24, 5])
@pytest.mark.parametrize("text", [PLAIN, PLAIN[:-1]])
def test_a_plain_file_is_read_fast_and_the_same(text, chunk, tmp_path, engines, monkeypatch):
    monkeypatch.setattr(atomic_files, "_CHUNK", chunk)
    path = tmp_path / "plain"
    path.write_text(text, encoding="utf-8")
    fast = read(atomic_files.read_csv, path)
    assert engines == ["c"]
    pd.testing.assert_frame_equal(fast, read(pd.read_csv, path), check_exact=True)


@pytest.mark.parametrize("chunk", [1 << 24, 5])
@pytest.mark.parametrize(
    "line", ['"q"\t1\tx', "short\t1", "", "long\t1\tx\t", "cr\t1\tx\r", "zero\t1\t\0"]
)
def test_any_other_file_is_left_to_recboles_parser(line, chunk, tmp_path, engines, monkeypatch):
    monkeypatch.setattr(atomic_files, "_CHUNK", chunk)
    path = tmp_path / "special"
    path.write_bytes((PLAIN + line + "\n").encode())
    try:
        read(atomic_files.read_csv, path)
    except ValueError:
        pass  # the Python parser's opinion
    assert engines == ["python"]


def test_what_no_parser_reads_ends_in_recboles_error(tmp_path):
    path = tmp_path / "broken"
    path.write_text(PLAIN + "1\tnot a number\tx\n", encoding="utf-8")
    with pytest.raises(ValueError) as theirs:
        read(pd.read_csv, path)
    with pytest.raises(ValueError) as ours:
        read(atomic_files.read_csv, path)
    assert str(ours.value) == str(theirs.value)


def test_recboles_module_has_its_pandas_back(tiny):
    prepare("TinyKGAT", "tiny", config_dict=tiny)
    assert recboles.pd is pd
