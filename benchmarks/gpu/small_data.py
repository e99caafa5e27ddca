"""A synthetic data set of a few hundred lines, on which the kit can be tried without a GPU.

python -m benchmarks.gpu.small_data --results FILE --folder DIR --name NAME
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.synthetic_data.synthetic import Size, interactions_and_triples, write_atomic_files

SIZE = Size(users=60, items=80, interactions=900, entities=120, relations=5, triples=1500)


def main() -> None:
    """Write the data set unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if not (args.folder / args.name).exists():
        write_atomic_files(interactions_and_triples(SIZE), args.folder, args.name)
    args.results.write_text(json.dumps(vars(SIZE)), encoding="utf-8")


if __name__ == "__main__":
    main()
