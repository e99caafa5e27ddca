"""Writes recommendations, one user after another: a table for people, CSV or JSON lines."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from recbole_tinykg.errors import UserError
from recbole_tinykg.serving import Recommendation, UserRecommendations
from recbole_tinykg.serving.paths.knowledge import GraphPath

FORMATS = ("table", "csv", "json")


def write(
    results: Iterable[UserRecommendations],
    file: IO[str],
    file_format: str,
    *,
    num_paths: int = 0,
    item_field: str | None = None,
) -> None:
    """Write users one by one.

    Args:
        results: What to write.
        file: Where to; a CSV file must have been opened with `newline=""`.
        file_format: One of `FORMATS`.
        num_paths: Paths that an item may have.
        item_field: Name of the column that goes with items, if any.
    """
    if file_format == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_csv_header(num_paths, item_field))
        for result in results:
            writer.writerows(_csv_rows(result, num_paths))
        return
    as_text = _json_line if file_format == "json" else _block
    for result in results:
        file.write(as_text(result, item_field))


def _csv_header(num_paths: int, item_field: str | None) -> list[str]:
    paths = [f"path_{i}{suffix}" for i in range(1, num_paths + 1) for suffix in ("_score", "")]
    return ["user", "rank", "item", "score", *([item_field] if item_field else []), *paths]


def _csv_rows(result: UserRecommendations, num_paths: int) -> Iterator[list[Any]]:
    for rank, own in enumerate(result.items, start=1):
        field = [] if own.field is None else [own.field]
        paths = [cell for path in own.paths for cell in (path.score, path)]
        missing = [""] * (2 * num_paths - len(paths))
        yield [result.user, rank, own.item, own.score, *field, *paths, *missing]


def _json_line(result: UserRecommendations, item_field: str | None) -> str:
    items = [_json_item(own, item_field) for own in result.items]
    return json.dumps({"user": result.user, "items": items}, ensure_ascii=False) + "\n"


def _json_item(own: Recommendation, item_field: str | None) -> dict[str, Any]:
    field = {item_field: own.field} if item_field else {}
    paths = {"paths": [{**asdict(path), "text": str(path)} for path in own.paths]}
    return {"item": own.item, "score": own.score, **field, **(paths if own.paths else {})}


def _block(result: UserRecommendations, item_field: str | None) -> str:
    """Lay out a user, the items with rank and score, and the paths below each."""
    width = max((len(own.item) for own in result.items), default=0)
    lines = [f"user {result.user}"]
    for rank, own in enumerate(result.items, start=1):
        field = f"  {own.field}" if own.field else ""
        lines.append(f"{rank:4}  {own.item:<{width}}  {own.score:10.4f}{field}")
        lines += [_path_line(path) for path in own.paths]
    return "\n".join(lines) + "\n"


def _path_line(path: GraphPath) -> str:
    return f"      {path.score:9.2e}  {path}"


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[IO[str]]:
    """Open a file that gets its name when all is written, or standard output.

    Raises:
        UserError: The folder or the disk does not take the file.
    """
    if path is None:
        with _ignore_closed_pipe():
            yield sys.stdout
        return
    temporary = Path(f"{path}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"output {path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _ignore_closed_pipe() -> Iterator[None]:
    """End `recommend | head` without a message, as other programs do."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # what is left is flushed there
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
