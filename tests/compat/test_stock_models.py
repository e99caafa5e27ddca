"""RecBole's models are found by name, and a name that is none says which was meant."""

from __future__ import annotations

import sys

import pytest
import torch

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import get_model


@pytest.mark.parametrize("name", ["KGAT", "KGCN", "BPR", "SASRec"])
def test_stock_models_are_recboles_own(name):
    model = get_model(name)
    assert (model.__name__, model.__module__.split(".")[0]) == (name, "recbole")


@pytest.mark.parametrize("mode", [False, True])
def test_get_stock_model_keeps_the_anomaly_mode(mode):
    sys.modules.pop("recbole.model.sequential_recommender.sine", None)
    sys.modules.pop("recbole.model.sequential_recommender", None)
    with torch.autograd.set_detect_anomaly(mode):
        get_model("SINE")
        assert torch.is_anomaly_enabled() is mode


@pytest.mark.parametrize("name", ["Nope", "kgat", "tinykgat", "../KGAT", "os", "", "XGBoost"])
def test_unknown_model_lists_what_exists(name):
    with pytest.raises(ConfigurationError, match=r"TinyKGAT, .*KGAT, .*RippleNet") as error:
        get_model(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("TinyKGTA", "TinyKGAT"), ("tinykgat", "TinyKGAT"), ("ktpu", "KTUP")],
)
def test_unknown_model_names_the_nearest(name, nearest):
    with pytest.raises(ConfigurationError, match=rf"did you mean {nearest}\?"):
        get_model(name)
