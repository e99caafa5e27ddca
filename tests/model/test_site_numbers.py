"""The sites of each twin keep their numbers: noise, and so a resumed training, depends on them."""

from __future__ import annotations

import pytest

from recbole_tinykg.model import MODELS, get_model

KGAT = {"layers": [8, 4], "aggregator_type": "bi"}
KGIN_HIDDEN = ("item_means", "users", "users_again", "heads", "heads_again")
STORED = [
    (
        "TinyKGAT",
        KGAT,
        {
            "layer1.head_gradient": 0,
            "layer2.head_gradient": 1,
            "layer1.messages": 3,
            "layer2.input": 5,
            "layer2.messages": 6,
        },
    ),
    (
        "TinyKGAT",
        {**KGAT, "aggregator_type": "gcn"},
        {
            "layer1.head_gradient": 0,
            "layer2.head_gradient": 1,
            "layer1.messages": 3,
            "layer2.sum": 5,
        },
    ),
    (
        "TinyKGCN",
        {"n_iter": 2, "aggregator": "sum"},
        {
            "loss.user_gradient": 0,
            "loss.items": 1,
            "layer1.hop0": 2,
            "layer1.hop1": 3,
            "layer2.hop0": 4,
        },
    ),
    (
        "TinyKGNNLS",
        {"n_iter": 2, "aggregator": "neighbor"},
        {"loss.user_gradient": 0, "loss.items": 1, "layer1.hop1": 2, "layer2.hop0": 3},
    ),
    (
        "TinyKGIN",
        {"context_hops": 2},
        {
            "loss.gradient": 0,
            "loss.rows": 1,
            **{f"hop1.{name}": 4 + i for i, name in enumerate(KGIN_HIDDEN)},
            "hop2.item_means": 11,
        },
    ),
    ("TinyRippleNet", {}, {}),
]
DRAWN = [
    ("TinyKGAT", KGAT, {"layer1.dropout": 4, "layer2.dropout": 7}),
    (
        "TinyKGIN",
        {"context_hops": 2},
        {
            "edges": 2,
            "interactions": 3,
            "hop1.user_dropout": 9,
            "hop1.head_dropout": 10,
            "hop2.user_dropout": 16,
            "hop2.head_dropout": 17,
        },
    ),
]


@pytest.mark.parametrize(("name", "config", "expected"), STORED)
def test_stored_maps_and_the_numbers_of_their_sites(name, config, expected):
    assert get_model(name).name_sites(config).stored == expected


@pytest.mark.parametrize(("name", "config", "expected"), DRAWN)
def test_numbers_of_the_sites_that_draw_dropout_and_samples(name, config, expected):
    assert expected.items() <= get_model(name).name_sites(config).numbers.items()


def test_twins_of_stock_code_have_one_site():
    for name in MODELS:
        twin = get_model(name)
        if not twin.chooses_bits:
            assert len(twin.name_sites({})) == 1
