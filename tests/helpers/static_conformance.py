"""What a twin with a static step must do besides: the step of a GPU, proved without one.

On a GPU a twin's shapes follow from those of the batch, and nothing waits for the device, so that
the step can be a CUDA graph. Here the same branches run on the CPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.conformance import BOUNDS, TwinConformance
from helpers.fake_step import fake_step, meta_step
from helpers.twin_case import default_dtype, total
from helpers.unbiased import excess


def assert_places_left_draw_no_noise(case: TwinConformance) -> None:
    """Check a step at low bits whose batch has fewer users than places for them.

    The places that are left read row 0, of the padding, which no batch has and no entity leads to.
    """
    twin = case.build(case.twin, "tiny", compress_bits=2)
    twin.static_shapes = True
    batch = case.data("tiny")[1]["calculate_loss"]
    assert len(batch["user_id"].unique()) < min(len(batch), twin.n_users)
    twin.calculate_loss(batch).backward()
    for table in (twin.user_embedding, twin.entity_embedding):
        assert table.weight.grad[1:].any() and not table.weight.grad[0].any()


class StaticConformance(TwinConformance):
    """`TwinConformance`, and the tests of a step with static shapes."""

    def test_no_shape_of_a_step_depends_on_data(self, variant):
        for bits, settings in ((2, variant), (32, variant), (2, {})):  # {}: with stock's dropout
            twin = self.build(self.twin, "tiny", compress_bits=bits, **settings)
            twin.static_shapes = True
            for loss, batch in self.data("tiny")[1].items():
                shapes = fake_step(twin, loss, batch)
                assert shapes, loss
                assert all(shapes[n] == p.shape for n, p in twin.named_parameters() if n in shapes)

    def test_every_tensor_of_a_step_is_on_the_device(self, variant):
        for settings in (variant, {}):
            twin = self.build(self.twin, "tiny", compress_bits=2, **settings)
            twin.static_shapes = True
            for loss, batch in self.data("tiny")[1].items():
                assert meta_step(twin, loss, batch).type == "meta"

    def test_a_dynamic_step_is_found_out(self):
        """The tests above can fail: a CPU's step has shapes that depend on data."""
        twin = self.build(self.twin, "tiny")
        loss, batch = next(iter(self.data("tiny")[1].items()))
        assert not twin.static_shapes
        with pytest.raises((RuntimeError, NotImplementedError)):
            fake_step(twin, loss, batch)

    def test_static_step_equals_stock(self, dataset, variant):
        stock, twin = self.pair(dataset, **variant)
        twin.static_shapes = True
        for dtype, bound in BOUNDS.items():
            stock.to(dtype)
            twin.to(dtype)
            self.convert(stock, dtype)
            with default_dtype(dtype):
                for loss, batch in self.data(dataset)[1].items():
                    self.compare_step(stock, twin, loss, batch, bound)
                self.compare_scores(stock, twin, dataset, bound)

    def test_static_gradient_is_unbiased(self):
        """Rows that stand for nothing draw noise too, but have none of their own."""
        settings: dict[str, Any] = (self.noisy or self.variants)[0]
        model = self.build(self.twin, "tiny", compress_bits=2, **settings).double()
        model.static_shapes = True
        for loss, batch in self.data("tiny")[1].items():
            with default_dtype(torch.float64):
                ratios = excess(model, lambda: total(getattr(model, loss)(batch)))  # noqa: B023
            assert max(ratios.values()) < 1, (loss, ratios)
