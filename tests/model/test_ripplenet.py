"""TinyRippleNet against RecBole's own RippleNet, and what is special about it."""

from __future__ import annotations

import copy

import pytest
import torch
from recbole.data.interaction import Interaction

from helpers.static_conformance import StaticConformance
from helpers.twin_case import default_dtype
from recbole_tinykg.config import Config
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.functional.ripplenet import scores as ripple_scores
from recbole_tinykg.memory.meter import peak_bytes, resident_bytes, saved_tensors
from recbole_tinykg.model import get_model


class TestTinyRippleNet(StaticConformance):
    twin = "TinyRippleNet"
    variants = [{"n_hop": hops} for hops in (1, 2, 3)]
    large = {"embedding_size": 16, "n_memory": 8, "train_batch_size": 512}
    refused = [
        ("embedding_size", 0),
        ("n_hop", 0),
        ("n_memory", 2.5),
        ("kg_weight", -1),
        ("reg_weight", float("nan")),
        ("repeat_first_hop", "no"),
    ]
    checkerboard = {
        "n_memory": 64,
        "repeat_first_hop": False,
    }  # 16 would miss items of the kind: users' second hop has 24
    fewer_bytes = 250  # a row keeps n_hop * n_memory + 1 floats; at d = 64, M = 16 it is 4239

    def share(self, stock, twin):
        twin.load_other_parameter(stock.other_parameter())

    def compare_step(self, stock, twin, loss, batch, bound):
        """With labels in the models' type: stock's BCE computes its value in that of the labels."""
        super().compare_step(stock, twin, loss, in_type_of(twin, batch), bound)

    @property
    def batch(self):
        return self.data("tiny")[1]["calculate_loss"]

    def test_gradient_is_exact_at_one_bit(self):
        grads = [
            gradients(self.build(self.twin, "tiny", compress_bits=b), self.batch) for b in (1, 32)
        ]
        assert all(map(torch.equal, *grads))

    def test_large_penalties_equal_stock(self):
        """Terms that the defaults make small, where an error would hide."""
        stock, twin = self.pair("tiny", kg_weight=3.0, reg_weight=2.0)
        with default_dtype(torch.float64):
            self.compare_step(stock.double(), twin.double(), "calculate_loss", self.batch, 1e-12)

    def test_zero_parameters_have_a_gradient(self):
        twin = self.build(self.twin, "tiny", reg_weight=1.0)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert all(grad.isfinite().all() for grad in gradients(twin, self.batch))

    def test_keeps_attention_and_slope_only(self):
        twin = self.build(self.twin, "tiny", n_hop=3, n_memory=5)
        with saved_tensors(twin, self.batch) as saved:
            loss = twin.calculate_loss(self.batch)
        rows = len(self.batch)
        assert sorted(kept.shape for kept in saved.tensors) == [(rows,), (rows, 3, 5)]
        assert loss.shape == (1,)

    def test_peak_stays_near_the_gradients(self):
        """At RecBole's defaults: three gathered memories of a hop, 24 MiB, beside the gradients."""
        changes = {"embedding_size": 64, "n_memory": 16, "train_batch_size": 2048}
        twin = self.build(self.twin, "ml-100k", **changes)
        batch = self.data("ml-100k")[1]["calculate_loss"]
        batch = batch[torch.arange(2048) % len(batch)]
        with peak_bytes() as peak:
            twin.calculate_loss(batch).backward()
        gathered = 2048 * 16 * 64 * 4
        assert peak.num_bytes < resident_bytes(twin)["parameter_bytes"] + 3 * gathered

    def test_nothing_of_a_batch_stays_alive(self):
        twin = self.build(self.twin, "tiny")
        before = resident_bytes(twin)
        twin.calculate_loss(self.batch).backward()
        twin.eval().full_sort_predict(self.batch)
        assert resident_bytes(twin.train()) == before

    def test_user_without_training_items(self):
        """Stock has no ripple set for such a user; the twin scores as for a padded memory."""
        split, _ = self.data("tiny")
        column = split.inter_feat[split.uid_field]
        lonely = copy.copy(split)
        lonely.inter_feat = split.inter_feat[column != column[0]]
        users = column[:1].repeat(3)
        pairs = Interaction({split.uid_field: users, split.iid_field: torch.arange(1, 4)})
        pairs.update(Interaction({"label": torch.ones(3)}))
        stock, twin = (
            get_model(name)(Config(name, "tiny", config_dict=self.settings("tiny")), lonely)
            for name in (self.stock_name, self.twin)
        )
        for score in ("predict", "full_sort_predict", "calculate_loss"):
            with pytest.raises(IndexError):
                getattr(stock, score)(pairs)
            assert getattr(twin, score)(pairs).isfinite().all()

    def test_stocks_later_hops_repeat_the_first(self):
        """Its dictionary is asked for tensors, which are equal to no key: ours go on."""
        stock, like_stock = (self.build(name, "ml-100k") for name in ("RippleNet", self.twin))
        assert all(first is second for first, second in stock.ripple_set.values())
        assert torch.equal(*like_stock.ripple_sets.memory.unbind(1))
        twin = self.build(self.twin, "ml-100k", repeat_first_hop=False)
        first, second = twin.ripple_sets.memory.unbind(1)
        assert (first != second).any(1).float().mean() > 0.9

    @pytest.mark.parametrize("repeat_first_hop", [True, False])
    def test_scores_in_blocks_are_the_scores(self, repeat_first_hop, monkeypatch):
        hops = {"n_hop": 3, "repeat_first_hop": repeat_first_hop}
        twin, pairs = self.build(self.twin, "tiny", **hops).double(), self.scored_pairs("tiny")
        whole = twin.predict(pairs), twin.full_sort_predict(pairs)
        of_pairs = whole[1].view(len(pairs), -1)[torch.arange(len(pairs)), pairs[twin.ITEM_ID]]
        torch.testing.assert_close(of_pairs, whole[0], rtol=1e-12, atol=1e-15)
        monkeypatch.setattr(ripple_scores, "PAIR_BLOCK", 7)
        monkeypatch.setattr(ripple_scores, "ITEM_BLOCK", 11)
        monkeypatch.setattr(ripple_scores, "BLOCK_NUMBERS", 300)
        in_blocks = twin.predict(pairs), twin.full_sort_predict(pairs)
        for got, expected in zip(in_blocks, whole, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)

    def test_evaluation_memory_is_bounded(self):
        twin = self.build(self.twin, "ml-100k", embedding_size=64).eval()
        users = torch.arange(twin.n_users)
        with peak_bytes() as peak:
            twin.full_sort_predict({twin.USER_ID: users})
        scores = len(users) * twin.n_items * 4
        assert peak.num_bytes < scores + 8 * 4 * ripple_scores.BLOCK_NUMBERS

    def test_longer_memories_are_scored_in_smaller_blocks(self):
        """Of items too: 3 hops of 512 facts for 1,682 items would be 10 MB."""
        twin = self.build(self.twin, "ml-100k", embedding_size=4, n_hop=3, n_memory=512).eval()
        users = {twin.USER_ID: torch.arange(1, 3)}
        twin.full_sort_predict(users)
        with peak_bytes() as peak:
            twin.full_sort_predict(users)
        assert peak.num_bytes < 6 * 4 * ripple_scores.BLOCK_NUMBERS

    def test_no_users_have_no_scores(self):
        twin = self.build(self.twin, "tiny").eval()
        nobody = {twin.USER_ID: torch.zeros(0, dtype=torch.int64)}
        assert twin.full_sort_predict(nobody).shape == (0,)

    def test_what_scoring_keeps_is_not_a_users(self):
        twin = self.build(self.twin, "tiny").eval()
        kept = []
        for users in (torch.arange(1, 3), torch.arange(1, 20)):
            twin.full_sort_predict({twin.USER_ID: users})
            kept.append(resident_bytes(twin)["graph_bytes"])
        assert kept[0] == kept[1]
        assert kept[0] > resident_bytes(twin.train())["graph_bytes"]
        copy.deepcopy(twin)

    def test_sets_that_stock_looked_for_in_vain_are_padding(self):
        stock, twin = (self.build(name, "tiny") for name in (self.stock_name, self.twin))
        assert stock.ripple_set[0] == []  # a defaultdict: from now on it is there
        twin.load_other_parameter(stock.other_parameter())
        table = twin.ripple_sets.table
        assert all(column[table.memory[0].view(-1)].eq(0).all() for column in table[1:])
        stock.ripple_set[1] = stock.ripple_set[1][:1]
        with pytest.raises(CheckpointError, match="got 1 hops"):
            twin.load_other_parameter(stock.other_parameter())

    def test_frozen_parameters_get_no_gradient(self):
        twin = self.build(self.twin, "tiny")
        expected = gradients(twin, self.batch)
        twin.entity_embedding.weight.requires_grad_(False)
        got = gradients(twin, self.batch)
        assert got[0] is None and all(map(torch.equal, got[1:], expected[1:]))

    def test_autocast_changes_nothing(self):
        twin = self.build(self.twin, "tiny")
        expected = gradients(twin, self.batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            twin.zero_grad()
            loss = twin.calculate_loss(self.batch)
        loss.backward()
        assert all(map(torch.equal, (p.grad for p in twin.parameters()), expected))

    def test_loss_scales_the_gradient(self):
        twin = self.build(self.twin, "tiny")
        expected = gradients(twin, self.batch)
        twin.zero_grad()
        (4 * twin.calculate_loss(self.batch)).backward()
        for parameter, grad in zip(twin.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, 4 * grad)

    def test_sets_survive_other_parameter(self):
        first, second = (self.build(self.twin, "tiny", seed=seed) for seed in (1, 2))
        assert not torch.equal(first.ripple_sets.memory, second.ripple_sets.memory)
        second.load_other_parameter(first.other_parameter())
        assert all(map(torch.equal, first.ripple_sets.table, second.ripple_sets.table))

    def test_sets_of_another_model_are_refused(self):
        twin, other = (self.build(self.twin, "tiny", n_memory=m) for m in (4, 5))
        with pytest.raises(CheckpointError, match="ripple sets do not fit: head must have shape"):
            twin.load_other_parameter(other.other_parameter())


def in_type_of(model, batch):
    dtype = model.entity_embedding.weight.dtype
    columns = {
        name: column.to(dtype) if column.is_floating_point() else column
        for name, column in batch.interaction.items()
    }
    return Interaction(columns)


def gradients(model, batch):
    model.zero_grad()
    model.calculate_loss(batch).backward()
    return [p.grad for p in model.parameters()]
