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
from recbole_tinykg.serving import UserRecommendations

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
        _write_csv(results, file, num_paths, item_field)
        return
    as_text = _json_line if file_format == "json" else _block
    for result in results:
        file.write(as_text(result, item_field))


def _write_csv(
    results: Iterable[UserRecommendations], file: IO[str], num_paths: int, item_field: str | None
) -> None:
    writer = csv.writer(file, lineterminator="\n")
    paths = [f"path_{i}{suffix}" for i in range(1, num_paths + 1) for suffix in ("_score", "")]
    fields = [item_field] if item_field else []
    writer.writerow(["user", "rank", "item", "score", *fields, *paths])
    for result in results:
        for rank, own in enumerate(result.items, start=1):
            field = [] if own.field is None else [own.field]
            cells: list[Any] = [cell for path in own.paths for cell in (path.score, path)]
            cells += [""] * (len(paths) - len(cells))
            writer.writerow([result.user, rank, own.item, own.score, *field, *cells])


def _json_line(result: UserRecommendations, item_field: str | None) -> str:
    items = []
    for own in result.items:
        item: dict[str, Any] = {"item": own.item, "score": own.score}
        if item_field:
            item[item_field] = own.field
        if own.paths:
            item["paths"] = [{**asdict(path), "text": str(path)} for path in own.paths]
        items.append(item)
    return json.dumps({"user": result.user, "items": items}, ensure_ascii=False) + "\n"


def _block(result: UserRecommendations, item_field: str | None) -> str:
    """Lay out a user, the items with rank and score, and the paths below each."""
    width = max((len(own.item) for own in result.items), default=0)
    lines = [f"user {result.user}"]
    for rank, own in enumerate(result.items, start=1):
        field = f"  {own.field}" if own.field else ""
        lines.append(f"{rank:4}  {own.item:<{width}}  {own.score:10.4f}{field}")
        lines += [f"      {path.score:9.2e}  {path}" for path in own.paths]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[IO[str]]:
    """Open a file that gets its name when all is written, or standard output.

    Raises:
        UserError: The folder or the disk does not take the file.
    """
    if path is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # `recommend | head` ends without a message, as other programs do
            with open(os.devnull, "w", encoding="utf-8") as nowhere:  # takes what is left
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
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
