"""Models on a GPU: the gradients of the CPU, and a measured training run."""

from __future__ import annotations

import pytest
import torch

from helpers.graphs import CONFIG, GraphDataset, batches
from recbole_tinykg.model.kgat import TinyKGAT
from recbole_tinykg.quick_start import prepare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("aggregator", ["bi", "gcn", "graphsage"])
def test_gradients_equal_those_on_the_cpu(aggregator):
    """float64: only the order of sums differs, unless a value sits on a rounding threshold."""
    grads = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        settings = {"aggregator_type": aggregator, "mess_dropout": 0.2, "compress_bits": 8}
        model = TinyKGAT({**CONFIG, **settings}, GraphDataset()).double().to(device)
        for loss, batch in zip(
            (model.calculate_loss, model.calculate_kg_loss), batches(GraphDataset()), strict=True
        ):
            loss(batch.to(device)).backward()
        model.update_attentive_A()
        grads.append([*(p.grad.cpu() for p in model.parameters()), model.attention[2].cpu()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_trains_and_measures_on_the_gpu(tiny):
    experiment = prepare("TinyKGAT", "tiny", config_dict={**tiny, "gpu_id": "0"})
    assert next(experiment.model.parameters()).is_cuda
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    memory = experiment.trainer.memory()
    assert 0 < memory["rs"]["saved_activation_bytes"] < memory["rs"]["peak_bytes"]
    assert experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
