"""The slow version of `recommend --paths`: every path enumerated, in plain Python and float64.

Nodes are names, triples come from the atomic files, weights from the parameters of the model; the
patterns are those of `docs/recommend.md`. It shares nothing with the search except the checkpoint.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Names:
    """Triples of the data set `tiny` by name, items by their item token, and ids of the model."""

    def __init__(self, dataset: Any, data_path: Path | str) -> None:
        folder = Path(data_path) / "tiny"
        rows = {
            suffix: [line.split("\t") for line in text.splitlines()[1:]]
            for suffix in ("kg", "link")
            for text in [(folder / f"tiny.{suffix}").read_text()]
        }
        item_of = {entity: item for item, entity in rows["link"]}
        self.triples = {(item_of.get(h, h), r, item_of.get(t, t)) for h, r, t in rows["kg"]}
        if dataset.kg_reverse_r:
            self.triples |= {(t, f"{r}_r", h) for h, r, t in self.triples}
        entities = dataset.field2id_token[dataset.entity_field]
        self.entity = [item_of.get(str(token), str(token)) for token in entities]
        self.relation = [str(t) for t in dataset.field2id_token[dataset.relation_field]]

    def between(self, head: str, tail: str) -> str:
        return "|".join(r for r in self.relation if (head, r, tail) in self.triples)


def history_of(dataset: Any, names: Names, user: int) -> set[str]:
    """Return the names of the user's training items."""
    table = dataset.inter_feat
    return {names.entity[i] for i in table["item_id"][table["user_id"] == user].tolist()}


def kgat_paths(model: Any, dataset: Any, names: Names, user: int, item: str) -> dict[str, float]:
    """Score every path, by its text."""
    n = model.n_users
    if hasattr(model, "attention"):
        crow, col, values = model.attention
        dense = torch.sparse_csr_tensor(crow, col, values, (len(crow) - 1,) * 2).to_dense()
    else:
        dense = model.A_in.to_dense()
    rows = dense.double().tolist()
    weight = defaultdict(dict)
    for a, b in itertools.product(range(len(names.entity)), repeat=2):
        if rows[n + a][n + b]:
            label = names.between(names.entity[a], names.entity[b])
            weight[names.entity[a]][label, names.entity[b]] = rows[n + a][n + b]
    start = {name: rows[user][n + e] for e, name in enumerate(names.entity)}
    start = {name: start[name] for name in history_of(dataset, names, user)}

    def step(a: str, b: str, label: str, reader: str) -> str:
        return f"–{label}→ {b}" if reader == a else f"←{label}– {b}"

    return _two_steps(weight, start, item, 2, step)


def kgcn_paths(model: Any, dataset: Any, names: Names, user: int, item: str) -> dict[str, float]:
    """Score every path, by its text."""
    vector = model.user_embedding.weight[user].double()
    weight = defaultdict(lambda: defaultdict(float))
    for entity, name in enumerate(names.entity):
        relations = model.adj_relation[entity].long()
        logits = (model.relation_embedding.weight[relations].double() * vector).mean(1)
        p = torch.softmax(logits, dim=0).tolist()
        slots = zip(relations.tolist(), model.adj_entity[entity].tolist(), p, strict=True)
        for relation, other, probability in slots:
            weight[name][names.relation[relation], names.entity[other]] += probability
    start = dict.fromkeys(history_of(dataset, names, user), 1.0)

    def step(a: str, b: str, label: str, reader: str) -> str:
        return f"–{label}→ {b}" if (a, label, b) in names.triples else f"←{label}– {b}"

    return _two_steps(weight, start, item, model.n_iter, step)


def _two_steps(
    weight: Any,
    start: dict[str, float],
    item: str,
    num_hops: int,
    step: Callable[[str, str, str, str], str],
) -> dict[str, float]:
    """Score the paths of one step from the history to the item, and of two over any entity."""
    edges = [  # (reader, read, label, weight)
        (a, b, label, w) for a, own in weight.items() for (label, b), w in own.items() if a != b
    ]
    around = defaultdict(list)
    for edge in edges:
        around[edge[0]].append(edge)
        around[edge[1]].append(edge)
    found = defaultdict(float)  # of several ways to read a path, the best
    for known, factor in start.items():
        if known == item:
            continue
        for reader, read, label, w in around[known]:
            if {reader, read} == {known, item}:
                text = f"{known} {step(known, item, label, reader)}"
                found[text] = max(found[text], factor * w)
                continue
            middle = read if reader == known else reader
            for other_reader, other_read, other_label, other_w in around[middle]:
                if item not in (other_reader, other_read):
                    continue
                is_read_by_both = reader == known and other_reader == item
                is_chain = (reader == known) == (other_reader == middle)
                if is_read_by_both or (is_chain and num_hops > 1):
                    first = step(known, middle, label, reader)
                    text = f"{known} {first} {step(middle, item, other_label, other_reader)}"
                    found[text] = max(found[text], factor * w * other_w)
    return found


def ripplenet_paths(
    model: Any, dataset: Any, names: Names, user: int, item: str
) -> dict[str, float]:
    """Score every path, by its text."""
    entities, dim = model.entity_embedding.weight.double(), model.embedding_size
    v = entities[names.entity.index(item)]
    hops = []  # {(head, relation, tail): weight}
    for facts in _memory(model, user):
        keys = [
            model.relation_embedding.weight[r].double().view(dim, dim) @ entities[h]
            for h, r, _ in facts
        ]
        p = torch.softmax(torch.stack([v @ key for key in keys]), dim=0)
        answer = sum(p[m] * entities[t] for m, (_, _, t) in enumerate(facts))
        v = model.transform_matrix.weight.double() @ (v + answer)
        hop = defaultdict(float)
        for (h, r, t), probability in zip(facts, p.tolist(), strict=True):
            hop[names.entity[h], names.relation[r], names.entity[t]] += probability
        hops.append(hop)
    found, chains = {}, [((h,), h, 1.0) for h in {head for head, _, _ in hops[0]}]
    for hop in hops:
        chains = [
            ((*nodes, t), f"{text} –{r}→ {t}", score * p)
            for nodes, text, score in chains
            for (h, r, t), p in hop.items()
            if h == nodes[-1] and t not in nodes
        ]
        for nodes, text, score in chains:
            last = nodes[-1]
            if len(nodes) == 2 and last == item:
                found[text] = score
            elif item not in nodes and names.between(last, item):
                found[f"{text} –{names.between(last, item)}→ {item}"] = score
            elif item not in nodes and names.between(item, last):
                found[f"{text} ←{names.between(item, last)}– {item}"] = score
    return found


def _memory(model: Any, user: int) -> list[list[tuple[int, int, int]]]:
    if hasattr(model, "ripple_sets"):
        hops = zip(*(column[user].tolist() for column in model.ripple_sets.triples()), strict=True)
    else:
        hops = ([column.tolist() for column in hop] for hop in model.ripple_set[user])
    return [list(zip(*hop, strict=True)) for hop in hops]


EVERY_PATH = {
    "KGAT": kgat_paths,
    "KGCN": kgcn_paths,
    "KGNNLS": kgcn_paths,
    "RippleNet": ripplenet_paths,
}


def is_close(a: float, b: float) -> bool:
    """Whether two numbers are equal up to the order of a few float64 operations."""
    return math.isclose(a, b, rel_tol=1e-12)
