"""Knowledge data sets small enough to train on in a moment, as RecBole's atomic files."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

NUM_USERS, NUM_ITEMS, NUM_ENTITIES, NUM_RELATIONS, NUM_TRIPLES = 24, 40, 70, 4, 240
INTERACTIONS_PER_USER = 12
TINY_RUN = {
    "epochs": 2,
    "train_batch_size": 64,
    "embedding_size": 8,
    "kg_embedding_size": 8,
    "topk": 5,
    "valid_metric": "MRR@5",
    "show_progress": False,
    "state": "ERROR",
    "gpu_id": "",
}
"""Parameters of a run on `tiny` that takes a second; `data_path` is missing."""

NUM_UNLINKED_ITEMS = 4


def write_tiny_dataset(folder: Path, name: str = "tiny", seed: int = 7) -> Path:
    """Write `folder/name/name.{inter,kg,link}` and return `folder`, to be given as `data_path`.

    Entities 0 to 35 are items; the last four items are not linked. About one triple in five joins
    the same head and tail as another, by another relation.
    """
    draw = random.Random(seed)
    (folder / name).mkdir(parents=True)
    interactions = [
        (f"u{user}", f"i{item}", draw.randint(1, 5), 1000 * user + rank)
        for user in range(NUM_USERS)
        for rank, item in enumerate(draw.sample(range(NUM_ITEMS), INTERACTIONS_PER_USER))
    ]
    links = [(f"i{item}", f"e{item}") for item in range(NUM_ITEMS - NUM_UNLINKED_ITEMS)]
    linked = {f"e{item}": f"i{item}" for item in range(NUM_ITEMS - NUM_UNLINKED_ITEMS)}
    triples = {(entity, "r0", "e40") for entity in linked}
    while len(triples) < NUM_TRIPLES:
        head, tail = draw.sample(range(NUM_ENTITIES), 2)
        for relation in draw.sample(range(NUM_RELATIONS), draw.choice([1, 1, 1, 1, 2])):
            triples.add((f"e{head}", f"r{relation}", f"e{tail}"))
    files = {
        "inter": ("user_id:token item_id:token rating:float timestamp:float", interactions),
        "kg": ("head_id:token relation_id:token tail_id:token", sorted(triples)),
        "link": ("item_id:token entity_id:token", links),
    }
    for suffix, (header, rows) in files.items():
        _write(folder / name / f"{name}.{suffix}", header.split(), rows)
    return folder


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    lines = ["\t".join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


CHECKERBOARD_KINDS, CHECKERBOARD_ITEMS, CHECKERBOARD_USERS = 4, 6, 8


def write_checkerboard(folder: Path, name: str = "checkerboard") -> Path:
    """Write a data set in which the held-out item is the one right answer; return `folder`.

    There are four kinds of six items each, and the knowledge graph says which item is of which
    kind. Eight users like each kind, and nothing else. A user has interacted with all items of the
    kind; with the last two by time held out, these are the only ones that the user has not seen.
    """
    (folder / name).mkdir(parents=True)
    interactions, links, triples = [], [], []
    for kind in range(CHECKERBOARD_KINDS):
        items = [f"i{kind}.{i}" for i in range(CHECKERBOARD_ITEMS)]
        links += [(item, f"e{item}") for item in items]
        triples += [(f"e{item}", "of_kind", f"k{kind}") for item in items]
        triples += [(f"k{kind}", "has", f"e{item}") for item in items]
        for user in range(CHECKERBOARD_USERS):
            seen = items[user % len(items) :] + items[: user % len(items)]
            interactions += [(f"u{kind}.{user}", item, 5, time) for time, item in enumerate(seen)]
    files = {
        "inter": ("user_id:token item_id:token rating:float timestamp:float", interactions),
        "kg": ("head_id:token relation_id:token tail_id:token", triples),
        "link": ("item_id:token entity_id:token", links),
    }
    for suffix, (header, rows) in files.items():
        _write(folder / name / f"{name}.{suffix}", header.split(), rows)
    return folder
