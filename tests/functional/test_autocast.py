"""Under autocast a layer computes in its type; sums, losses and parameters keep theirs."""

from __future__ import annotations

import pytest
import torch

from helpers.graphs import CONFIG, GraphDataset, batches
from recbole_tinykg import ops
from recbole_tinykg.functional.kgat import aggregators
from recbole_tinykg.model.kgat import TinyKGAT
from recbole_tinykg.quantization import Quantizer, stream


def loss_and_gradients(aggregator, dtype):
    torch.manual_seed(0)
    model = TinyKGAT({**CONFIG, "aggregator_type": aggregator, "compress_bits": 32}, GraphDataset())
    batch = batches(GraphDataset())[0]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = model.calculate_loss(batch)
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("aggregator", ["bi", "gcn", "graphsage"])
def test_loss_and_gradients_are_those_of_full_precision_to_rounding(aggregator, dtype, monkeypatch):
    """Two layers, each with about 8 roundings to autocast's type forward and 8 backward.

    With slope 1, since a rounding may change a sign, and with it a derivative by a factor of 100.
    """
    monkeypatch.setattr(aggregators, "NEGATIVE_SLOPE", 1.0)
    loss, gradients = loss_and_gradients(aggregator, torch.float32)
    rounded_loss, rounded = loss_and_gradients(aggregator, dtype)
    tolerance = 32 * torch.finfo(dtype).eps / 2
    assert rounded_loss.dtype == torch.float32
    torch.testing.assert_close(rounded_loss, loss, rtol=tolerance, atol=0)
    for ours, exact in zip(rounded, gradients, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("aggregator", ["bi", "gcn", "graphsage"])
def test_layers_give_autocasts_type_and_quantize_it(aggregator):
    model = TinyKGAT({**CONFIG, "aggregator_type": aggregator}, GraphDataset())
    rows = model._rows(torch.tensor([1, 2]), torch.tensor([1, 3]))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ego, *layers = model.forward(rows)
    assert ego.dtype == torch.float32
    assert {layer.dtype for layer in layers} == {torch.bfloat16}
    sum(layer.sum() for layer in layers).backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    assert model(rows)[1].dtype == torch.float32


def test_float64_is_left_alone():
    model = TinyKGAT(CONFIG, GraphDataset()).double()
    rows = model._rows(torch.tensor([1, 2]), torch.tensor([1, 3]))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {output.dtype for output in model(rows)} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_operators_keep_the_type_they_are_given(dtype):
    x = torch.randn(5, 37, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = Quantizer(2).quantize(x, stream(0, 0))
        assert kept.dequantize().dtype == dtype
        assert ops.dropout(x, stream(0, 1), probability=0.5).dtype == dtype
        assert ops.leaky_relu_backward(x, ops.sign_mask(x), negative_slope=0.1).dtype == dtype
