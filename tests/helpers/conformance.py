"""What every twin must do, as one class: a model's tests are a subclass of a few lines.

    class TestTinyKGCN(TwinConformance):
        twin = "TinyKGCN"
        variants = [{"aggregator": "sum"}, {"aggregator": "concat"}]

Numbers are held against RecBole's own class with the same weights and batch. float64 decides: 1e-10
leaves six digits for another order of sums; float32 gets 1e-4, as gradients that nearly cancel lose
digits in stock too. `unbiased.py` says what is proved of gradients below 32 bits.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch

from helpers.datasets import write_checkerboard
from helpers.twin_case import QUIET, TwinCase, default_dtype, distance, total
from helpers.unbiased import excess
from recbole_tinykg import ops
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.functional.kgin import step
from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.quantization import Quantizer
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer.optimizers import fuse

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}


class TwinConformance(TwinCase):
    """Tests of one twin; pytest collects the subclasses."""

    @pytest.fixture(params=["tiny", "ml-100k"])
    def dataset(self, request) -> str:
        """A data set small enough to see through, and a real one."""
        return request.param

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run over the subclass's lists."""
        if "variant" in metafunc.fixturenames:
            proves = metafunc.function.__name__ == "test_gradient_is_unbiased"
            chosen = self.noisy if proves and self.noisy is not None else self.variants
            metafunc.parametrize("variant", chosen, ids=lambda v: json.dumps(v)[1:-1])
        if "refused_value" in metafunc.fixturenames:
            metafunc.parametrize("refused_value", self.refused, ids=str)

    def test_initial_weights_are_stocks(self, dataset, variant):
        stock, twin = self.pair(dataset, **variant)
        ours, theirs = dict(twin.named_parameters()), dict(stock.named_parameters())
        assert list(ours) == list(theirs)
        for name, parameter in theirs.items():
            assert torch.equal(ours[name], parameter), name

    def test_state_dict_is_exchanged_with_stock(self):
        stock, twin = self.pair("tiny")
        with torch.no_grad():
            for parameter in stock.parameters():
                parameter.normal_()
        twin.load_state_dict(stock.state_dict(), strict=True)
        stock.load_state_dict(twin.state_dict(), strict=True)
        storages = {p.untyped_storage().data_ptr() for p in twin.parameters()}
        assert len(storages) == len(list(twin.parameters())), "parameters share a storage"

    def test_equals_stock(self, dataset, variant):
        stock, twin = self.pair(dataset, **variant)
        for dtype, bound in BOUNDS.items():
            stock.to(dtype)
            twin.to(dtype)
            self.convert(stock, dtype)
            with default_dtype(dtype):  # RecBole's EmbLoss sums in it
                for loss, batch in self.data(dataset)[1].items():
                    self.compare_step(stock, twin, loss, batch, bound)
                self.compare_scores(stock, twin, dataset, bound)

    def compare_step(self, stock, twin, loss, batch, bound):
        values = []
        for model in (stock, twin):
            self.draw_alike()
            model.train()
            model.zero_grad()
            value = total(getattr(model, loss)(batch))
            value.backward()
            values.append(value)
        assert distance(values[1], values[0]) < bound, loss
        ours = dict(twin.named_parameters())
        for name, parameter in stock.named_parameters():
            expected, got = parameter.grad, ours[name].grad
            if expected is None or not expected.any():
                assert got is None or not got.any(), f"{loss}: gradient of {name} must vanish"
            else:
                assert got is not None, f"{loss}: {name} has no gradient"
                assert distance(got, expected) < bound, f"{loss}: gradient of {name}"

    def compare_scores(self, stock, twin, dataset, bound):
        pairs = self.scored_pairs(dataset)
        for score in self.scores:
            with torch.no_grad():
                expected, got = (getattr(m.eval(), score)(pairs) for m in (stock, twin))
            assert got.shape == expected.shape, score
            assert distance(got, expected) < bound, score

    def test_loss_is_exact_at_every_bit_width(self):
        for loss, batch in self.data("tiny")[1].items():
            values = {
                total(getattr(self.build(self.twin, "tiny", compress_bits=b), loss)(batch)).item()
                for b in (1, 2, 4, 8, 32)
            }
            assert len(values) == 1, values

    @pytest.mark.parametrize("bits", [2, 8])
    def test_gradient_is_unbiased(self, variant, bits):
        model = self.build(self.twin, "tiny", compress_bits=bits, **variant).double()
        with torch.no_grad():  # biases away from zero, so that every sign is defined
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.uniform_(-0.1, 0.1)
        for loss, batch in self.data("tiny")[1].items():
            with default_dtype(torch.float64):
                ratios = excess(model, lambda: total(getattr(model, loss)(batch)))  # noqa: B023
            assert max(ratios.values()) < 1, (loss, ratios)

    def test_keeps_fewer_bytes(self):
        kept = {}
        for name in (self.stock_name, self.twin):
            model = self.build(name, "ml-100k", compress_bits=2)
            kept[name] = 0
            for loss, batch in self.data("ml-100k")[1].items():
                with saved_tensors(model, batch) as saved:
                    value = getattr(model, loss)(batch)
                kept[name] += saved.num_bytes
                del value
        assert kept[self.twin] * self.fewer_bytes <= kept[self.stock_name], kept

    def test_training_step_leaves_the_global_random_state_alone(self):
        twin = self.build(self.twin, "tiny")
        before = torch.get_rng_state()
        for loss, batch in self.data("tiny")[1].items():
            total(getattr(twin, loss)(batch)).backward()
        assert torch.equal(torch.get_rng_state(), before)

    def test_evaluation_is_deterministic(self):
        twin, pairs = self.build(self.twin, "tiny").eval(), self.scored_pairs("tiny")
        for score in self.scores:
            assert torch.equal(getattr(twin, score)(pairs), getattr(twin, score)(pairs))

    @pytest.mark.parametrize("change", ["load", "double", "step"])
    def test_scores_follow_the_weights(self, change):
        """Whatever changes them in evaluation, what was cached is computed anew."""
        twin, pairs = self.build(self.twin, "tiny").eval(), self.scored_pairs("tiny")
        scores = [getattr(twin, score) for score in self.scores]
        before = [score(pairs) for score in scores]
        if change == "load":
            state = twin.state_dict().items()
            twin.load_state_dict({k: v + 0.1 * torch.rand_like(v) for k, v in state})
        elif change == "double":
            twin.double()
        else:
            for loss, batch in self.data("tiny")[1].items():
                total(getattr(twin, loss)(batch)).backward()
            before = [score(pairs) for score in scores]
            fuse(torch.optim.Adam(twin.parameters(), lr=0.1)).step()
        got = [score(pairs) for score in scores]
        twin.eval()
        for score, old, new in zip(scores, before, got, strict=True):
            assert torch.equal(new, score(pairs))
            assert new.dtype == next(twin.parameters()).dtype
            assert change == "double" or not torch.equal(new, old)

    def test_every_noise_site_is_used_once(self, variant, monkeypatch):
        """Two tensors with the same noise would be a bias too small to see in the mean."""
        rounding, others = record_streams(monkeypatch)
        for settings in (variant, {}):  # mostly without dropout, and with the stock model's
            twin = self.build(self.twin, "tiny", compress_bits=2, **settings)
            rounding.clear()
            others.clear()
            for loss, batch in self.data("tiny")[1].items():
                total(getattr(twin, loss)(batch)).backward()
            assert len(set(rounding)) == len(rounding)
            assert not {stream for stream, _ in rounding} & set(others)

    def test_both_scores_agree(self):
        twin, pairs = self.build(self.twin, "tiny").eval().double(), self.scored_pairs("tiny")
        user, item = pairs.interaction.values()
        every = twin.full_sort_predict(pairs).view(len(user), -1)
        assert distance(every[torch.arange(len(user)), item], twin.predict(pairs)) < 1e-12

    def test_weights_and_state_survive_saving_and_resuming(self, tmp_path):
        common = {**self.settings("tiny"), "checkpoint_dir": str(tmp_path), "topk": 5}
        common |= {"valid_metric": "MRR@5", "run_name": "run"}
        straight = self.trained({**common, "epochs": 3, "run_name": "straight"})
        self.trained({**common, "epochs": 2})
        again = prepare(self.twin, "tiny", config_dict={**common, "epochs": 3})
        again.trainer.resume_checkpoint(tmp_path / "run-last.pth", again.train_data)
        again.trainer.fit(again.train_data, again.valid_data)
        results = [e.trainer.evaluate(e.test_data, load_best_model=True) for e in (straight, again)]
        assert results[0] == results[1]
        expected = straight.model.state_dict()
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, expected[name]), name

    def test_learns_the_checkerboard(self, tmp_path):
        """Each user has one item left that is of the kind the user likes: it must come first."""
        settings = {
            **QUIET,
            "data_path": str(write_checkerboard(tmp_path)),
            "checkpoint_dir": str(tmp_path),
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "embedding_size": 16,
            "learning_rate": 0.01,
            "epochs": 40,
            "eval_step": 5,
            "topk": [1, 2],
            "metrics": ["Hit"],
            "valid_metric": "Hit@2",  # the item held out for the test is as good there
            "compress_bits": 2,
            **self.checkerboard,
        }
        experiment = prepare(self.twin, "checkerboard", config_dict=settings)
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
        result = experiment.trainer.evaluate(experiment.test_data)
        assert result["hit@1"] >= self.checkerboard_hits, result

    def test_twin_can_be_pickled(self):
        twin, pairs = self.build(self.twin, "tiny").eval(), self.scored_pairs("tiny")
        expected = twin.predict(pairs)  # some cache what they compute
        again = pickle.loads(pickle.dumps(twin))
        assert torch.equal(again.predict(pairs), expected)

    def test_bad_configuration_is_refused(self, refused_value):
        key, value = refused_value
        with pytest.raises(ConfigurationError, match=f"{key} must"):
            prepare(self.twin, "tiny", config_dict=self.settings("tiny", **{key: value}))

    def test_double_backward_is_refused(self):
        self.refuse_double_backward("tiny")

    def refuse_double_backward(self, dataset):
        twin = self.build(self.twin, dataset)
        loss, batch = next(iter(self.data(dataset)[1].items()))
        value = total(getattr(twin, loss)(batch))
        with pytest.raises(RuntimeError, match="create_graph must be False"):
            torch.autograd.grad(
                value, list(twin.parameters()), create_graph=True, allow_unused=True
            )


def record_streams(monkeypatch: Any) -> tuple[list[Any], list[Any]]:
    """Lists that fill with the streams and rows of rounding, and the streams of other noise."""
    rounding: list[Any] = []
    others: list[Any] = []

    def record(owner, name, note):
        function = getattr(owner, name)

        def recorded(*args, **kwargs):
            note(*args, **kwargs)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    def note_rows(_, x, stream, *, first_row=0):
        key = tuple(stream.tolist())
        rounding.extend((key, row) for row in range(first_row, first_row + len(x)))

    def note_stream(place):
        return lambda *args, **_: others.append(tuple(args[place].tolist()))

    record(Quantizer, "quantize", note_rows)
    record(ops, "dropout", note_stream(1))
    record(ops, "leaky_relu_dropout_", note_stream(1))
    record(step, "sample_edges", note_stream(0))
    return rounding, others
