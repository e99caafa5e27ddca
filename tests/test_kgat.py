"""TinyKGAT against RecBole's own KGAT on ml-100k: same weights, same batches, no compression.

float64 decides: 1e-10 relative leaves six digits for the different order of sums. In float32 the
bound is 1e-4, because the TransR gradient of a relation nearly cancels and loses digits in stock
too.
"""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState, init_seed

from recbole_tinykg.config import Config
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import get_model
from recbole_tinykg.quick_start import prepare

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}


@pytest.fixture(scope="module", params=[False, True], ids=["directed", "reversed"])
def data(request):
    """Training split of ml-100k, with or without reversed relations, and a batch of each phase."""
    settings = {"kg_reverse_r": request.param, "state": "ERROR", "gpu_id": ""}
    experiment = prepare("KGAT", "ml-100k", config_dict=settings)
    batches = []
    for state in (KGDataLoaderState.RS, KGDataLoaderState.KG):
        experiment.train_data.set_mode(state)
        batches.append(next(iter(experiment.train_data)))
    return settings, experiment.train_data._dataset, batches


def build(name, data, **settings):
    config = Config(name, "ml-100k", config_dict={**data[0], "mess_dropout": 0.0, **settings})
    init_seed(2020, True)
    return get_model(name)(config, data[1])


def to(stock, twin, dtype):
    stock.to(dtype)
    twin.to(dtype)
    stock.A_in = stock.A_in.to(dtype)


def distance(a, b):
    return float(((a - b).norm() / b.norm()).detach())


def attention_distance(stock, twin):
    matrix = stock.A_in.coalesce()
    crow, col, values = twin.attention
    row = torch.repeat_interleave(torch.arange(len(crow) - 1), crow.diff())
    assert torch.equal(matrix.indices(), torch.stack([row, col]))
    return distance(values, matrix.values())


def gradient_distances(stock, twin):
    for (name, p), (_, q) in zip(stock.named_parameters(), twin.named_parameters(), strict=True):
        if p.grad is None or not p.grad.any():
            assert q.grad is None or not q.grad.any(), name
        else:
            yield distance(q.grad, p.grad)


@pytest.mark.filterwarnings("ignore:torch.sparse.SparseTensor:UserWarning")  # stock KGAT's call
@pytest.mark.parametrize("layers", [[64], [64, 32, 16]], ids=str)
@pytest.mark.parametrize("aggregator", ["bi", "gcn", "graphsage"])
def test_equals_stock(data, aggregator, layers):
    settings = {"aggregator_type": aggregator, "layers": layers}
    stock = build("KGAT", data, **settings)
    twin = build("TinyKGAT", data, compress_bits=32, **settings)
    for (name, p), (other, q) in zip(
        stock.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(p, q), f"initial {name} differs"
    for dtype in (torch.float64, torch.float32):
        to(stock, twin, dtype)
        compare_step(stock, twin, data[2], BOUNDS[dtype])


def compare_step(stock, twin, batches, bound):
    """Losses, gradients, attention before and after a refresh, and scores."""
    assert attention_distance(stock, twin) < bound
    previous = torch.get_default_dtype()
    torch.set_default_dtype(next(stock.parameters()).dtype)  # RecBole's EmbLoss sums in it
    try:
        for loss, batch in zip(("calculate_loss", "calculate_kg_loss"), batches, strict=True):
            values = []
            for model in (stock, twin):
                model.zero_grad()
                value = getattr(model, loss)(batch)
                value.backward()
                values.append(value.squeeze())
            assert distance(values[1], values[0]) < bound, loss
            assert max(gradient_distances(stock, twin)) < bound, loss
    finally:
        torch.set_default_dtype(previous)
    with torch.no_grad():
        stock.update_attentive_A()
        twin.update_attentive_A()
        assert attention_distance(stock, twin) < bound
        pairs = Interaction({"user_id": torch.arange(1, 200), "item_id": torch.arange(300, 499)})
        for score in ("full_sort_predict", "predict"):
            values = [getattr(model.eval(), score)(pairs) for model in (stock, twin)]
            assert distance(values[1], values[0]) < bound, score
    stock.train()
    twin.train()


def test_state_dict_is_exchanged_with_stock(data):
    stock, twin = build("KGAT", data), build("TinyKGAT", data)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.normal_()
    twin.load_state_dict(stock.state_dict(), strict=True)
    stock.load_state_dict(twin.state_dict(), strict=True)
    storages = [p.untyped_storage().data_ptr() for p in twin.parameters()]
    assert len(set(storages)) == len(storages), "parameters share a storage"


def test_loss_is_exact_at_every_bit_width(data):
    losses = []
    for bits in (1, 2, 4, 8, 32):
        twin = build("TinyKGAT", data, compress_bits=bits, layers=[64, 32, 16])
        losses.append(twin.calculate_loss(data[2][0]).item())
    assert len(set(losses)) == 1, losses


def test_training_step_leaves_the_global_random_state_alone(data):
    twin = build("TinyKGAT", data, mess_dropout=0.1)
    before = torch.get_rng_state()
    twin.calculate_loss(data[2][0]).backward()
    twin.calculate_kg_loss(data[2][1]).backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_survives_saving_and_loading(data):
    twin = build("TinyKGAT", data)
    with torch.no_grad():
        twin.relation_embedding.weight.normal_()
    twin.update_attentive_A()
    state = twin.other_parameter()
    other = build("TinyKGAT", data)
    assert not torch.equal(other.attention[2], twin.attention[2])
    other.load_other_parameter(state)
    for mine, theirs in zip(other.attention, twin.attention, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", 64),
        ("layers", []),
        ("layers", [64, 0]),
        ("aggregator_type", "sum"),
        ("mess_dropout", 1.0),
        ("embedding_size", "64d"),
    ],
)
def test_bad_configuration_is_refused(key, value, ml_100k):
    with pytest.raises(ConfigurationError, match=f"{key} must"):
        prepare("TinyKGAT", "ml-100k", config_dict={**ml_100k, key: value})


def test_double_backward_is_refused(data):
    twin = build("TinyKGAT", data)
    loss = twin.calculate_loss(data[2][0])
    with pytest.raises(RuntimeError, match="create_graph must be False"):
        torch.autograd.grad(loss, twin.user_embedding.weight, create_graph=True)
