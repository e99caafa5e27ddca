r"""Synthetic knowledge data sets of published sizes, as arrays or as RecBole's atomic files.

    python -m benchmarks.synthetic_data.synthetic --size amazon-book --scale 1 --output DIR
    recbole-tinykg --model=TinyKGAT --dataset=amazon-book-synthetic --data_path=DIR

Users, items, interactions, entities, relations and triples are as many as in table 1 of KGAT (Wang
et al., KDD 2019), for ml-100k as many as in the files that come with RecBole; `--scale` multiplies
all but the relations. Entities are counted besides the items: each item is an entity, too, so that
Amazon-Book's graph has 70,679 + 24,915 + 88,572 nodes. Interactions and triples are distinct, no
triple is a loop, and every user, item, entity and relation occurs.

What costs time and memory, besides the sizes, is how unevenly edges fall on nodes: degrees follow
Zipf and Mandelbrot's law, the node of rank k with weight :math:`(k + q)^{-a}`. The exponents are
those of ml-100k's files, by eye on their cumulative sums; there the most frequent tenth of the
users, items, heads and tails has 32, 43, 60 and 55 % of the edges; here 28, 31, 40 and 39 % at that
size, and 46, 45, 45 and 52 % at Amazon-Book's. As there, one entity in five is a head and every
entity a tail. What is not imitated: clusters, or any relation between tastes and the graph; do not
read accuracy from these data.

Users, items, relations and entities are numbered as RecBole numbers their tokens, by their first
appearance in the files, so that arrays and loaded files are one and the same data set.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Size:
    """How many of everything; entities besides the items."""

    users: int
    items: int
    interactions: int
    entities: int
    relations: int
    triples: int

    @property
    def all_entities(self) -> int:
        """Items and other entities."""
        return self.items + self.entities

    def times(self, scale: int) -> Size:
        """Return the size with all counts but the relations multiplied."""
        counts = ("users", "items", "interactions", "entities", "triples")
        return replace(self, **{name: scale * getattr(self, name) for name in counts})


SIZES = {
    "ml-100k": Size(943, 1_682, 100_000, 33_030, 24, 91_631),
    "last-fm": Size(23_566, 48_123, 3_034_796, 58_266, 9, 464_567),
    "yelp2018": Size(45_919, 45_538, 1_185_068, 90_961, 42, 1_853_704),
    "amazon-book": Size(70_679, 24_915, 847_733, 88_572, 39, 2_557_746),
}


class Law(NamedTuple):
    """Zipf and Mandelbrot's law: rank k = 0, 1, ... has the weight (k + offset) ** -exponent."""

    exponent: float
    offset: float


USERS, ITEMS, HEADS = Law(0.75, 30), Law(0.75, 30), Law(0.75, 30)
TAILS, RELATIONS = Law(0.75, 1), Law(1.35, 1)
HEADS_PER_ENTITY = 0.2


class KnowledgeData(NamedTuple):
    """Interactions and triples; numbers from 0, and entity i is item i for i < size.items."""

    size: Size
    user: np.ndarray  # (interactions,) int32
    item: np.ndarray  # (interactions,) int32
    head: np.ndarray  # (triples,) int32
    relation: np.ndarray  # (triples,) int32
    tail: np.ndarray  # (triples,) int32


def interactions_and_triples(size: str | Size, scale: int = 1, seed: int = 2026) -> KnowledgeData:
    """Draw a data set of a size, by name or by its counts; the same for the same seed.

    Raises:
        ValueError: Unknown name, or counts that no data set has.
    """
    if isinstance(size, str):
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
        size = SIZES[size]
    if scale < 1:
        raise ValueError(f"scale must be 1 or more; got {scale}")
    size = size.times(scale)
    _check(size)
    for_pairs, for_triples = np.random.default_rng(seed).spawn(2)
    return KnowledgeData(size, *_interactions(size, for_pairs), *_triples(size, for_triples))


def _check(size: Size) -> None:
    """Each node needs an edge, and drawing distinct edges takes forever in a graph that is full."""
    num_pairs = size.users * size.items
    if not size.users + size.items <= size.interactions <= num_pairs // 2:
        raise ValueError(
            f"interactions must lie between users + items, {size.users + size.items}, and half of "
            f"the pairs, {num_pairs // 2}; got {size.interactions}"
        )
    least = 2 * size.all_entities + size.relations
    if size.triples < least or size.all_entities < 10 or size.relations < 1:
        raise ValueError(
            f"triples must be at least twice the entities with items, plus relations, {least}, of "
            f"10 entities and 1 relation or more; got {size.triples}"
        )


def _interactions(size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    def draw(count: int) -> np.ndarray:
        return _ranks(USERS, size.users, count, rng) * size.items + _ranks(
            ITEMS, size.items, count, rng
        )

    of_users = np.arange(size.users) * size.items + _ranks(ITEMS, size.items, size.users, rng)
    of_items = _ranks(USERS, size.users, size.items, rng) * size.items + np.arange(size.items)
    keys = _distinct(np.concatenate([of_users, of_items]), size.interactions, draw, rng)
    user, item = (column.astype(np.int32) for column in np.divmod(keys, size.items))
    return _by_appearance(user, size.users)[user], _by_appearance(item, size.items)[item]


def _triples(size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, r = size.all_entities, size.relations
    heads, tails = rng.permutation(n)[: int(n * HEADS_PER_ENTITY)], rng.permutation(n)

    def draw(
        count: int,
        head: np.ndarray | None = None,
        relation: np.ndarray | None = None,
        tail: np.ndarray | None = None,
    ) -> np.ndarray:
        """Keys of triples, with parts of them given; a loop gets the next head or tail."""
        given_tail = tail is not None
        place = _ranks(HEADS, len(heads), count, rng)
        head = heads[place] if head is None else head
        relation = _ranks(RELATIONS, r, count, rng) if relation is None else relation
        rank = _ranks(TAILS, n, count, rng)
        tail = tails[rank] if tail is None else tail
        if given_tail:
            head = np.where(head == tail, heads[(place + 1) % len(heads)], head)
        else:
            tail = np.where(head == tail, tails[(rank + 1) % n], tail)
        return (head * r + relation) * n + tail

    required = np.concatenate(
        [draw(len(heads), head=heads), draw(r, relation=np.arange(r)), draw(n, tail=np.arange(n))]
    )
    keys = _distinct(required, size.triples, draw, rng)
    pair, tail = (column.astype(np.int64) for column in np.divmod(keys, n))
    head, relation = (column.astype(np.int32) for column in np.divmod(pair, r))
    return _numbered(size, head, relation, tail.astype(np.int32))


def _numbered(
    size: Size, head: np.ndarray, relation: np.ndarray, tail: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triples with relations and entities, without the items, in the order of appearance."""
    relation = _by_appearance(relation, size.relations)[relation]
    ends = np.concatenate([head, tail])
    number = np.arange(size.all_entities, dtype=np.int32)
    number[size.items :] = size.items + _by_appearance(
        ends[ends >= size.items] - size.items, size.entities
    )
    return number[head], relation, number[tail]


def _ranks(law: Law, num_ranks: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks (count,) int64 below num_ranks, by the inverse of the law's cumulative integral."""
    power = 1 - law.exponent
    first, last = law.offset**power, (num_ranks + law.offset) ** power
    place = (first + rng.random(count) * (last - first)) ** (1 / power) - law.offset
    return np.clip(place.astype(np.int64), 0, num_ranks - 1)


def _distinct(
    required: np.ndarray,
    count: int,
    draw: Callable[[int], np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Distinct keys (count,) in random order: the required ones, then as many drawn as it takes."""
    keys = np.unique(required)
    while missing := count - len(keys):
        drawn = np.unique(draw(missing + missing // 8 + 8))
        place = np.minimum(np.searchsorted(keys, drawn), len(keys) - 1)
        fresh = drawn[keys[place] != drawn]
        if len(fresh) > missing:
            fresh = rng.permutation(fresh)[:missing]
        keys = np.sort(np.concatenate([keys, fresh]), kind="stable")
    return rng.permutation(keys)


def _by_appearance(numbers: np.ndarray, count: int) -> np.ndarray:
    """(count,) int32: the new number of each number, by the place where it first appears."""
    first = np.empty(count, dtype=np.int64)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of equal indices, NumPy keeps the last
    new = np.empty(count, dtype=np.int32)
    new[np.argsort(first)] = np.arange(count, dtype=np.int32)
    return new


def write_atomic_files(data: KnowledgeData, folder: Path, name: str) -> Path:
    """Write `folder/name/name.{inter,kg,link}`, all or nothing, and return `folder/name`.

    Raises:
        FileExistsError: There is a data set of that name.
    """
    target = folder / name
    if target.exists():
        raise FileExistsError(f"output must not contain {name} yet; remove {target} first")
    folder.mkdir(parents=True, exist_ok=True)
    items = np.arange(data.size.items)
    files = {
        "inter": {"user_id:token": data.user, "item_id:token": data.item},
        "kg": {
            "head_id:token": data.head,
            "relation_id:token": data.relation,
            "tail_id:token": data.tail,
        },
        "link": {"item_id:token": items, "entity_id:token": items},
    }
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        for suffix, columns in files.items():
            pd.DataFrame(columns).to_csv(scratch / f"{name}.{suffix}", sep="\t", index=False)
        scratch.chmod(0o755)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    return target


def main() -> None:
    """Write a data set, and print how to train on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="amazon-book", choices=SIZES)
    parser.add_argument("--scale", type=int, default=1, help="factor of all counts but relations")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--output", type=Path, required=True, help="folder above the data set's")
    args = parser.parse_args()
    name = f"{args.size}-synthetic" + (f"-x{args.scale}" if args.scale > 1 else "")
    try:
        data = interactions_and_triples(args.size, args.scale, args.seed)
        write_atomic_files(data, args.output, name)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(data.size)
    print(f"recbole-tinykg --model=TinyKGAT --dataset={name} --data_path={args.output.absolute()}")


if __name__ == "__main__":
    main()
