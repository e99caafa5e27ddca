"""Batches drawn ahead are the loader's, and the thread that draws them ends with the block."""

from __future__ import annotations

import functools
import gc
import random
import re
import threading
import time
import traceback
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from recbole.utils import KGDataLoaderState

from helpers.identical import assert_identical
from recbole_tinykg.checkpoint import random_state
from recbole_tinykg.data import prefetch
from recbole_tinykg.data.prefetch import drawn_ahead, may_draw_ahead, on_device
from recbole_tinykg.model import stock_name_of
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer import loop

FIVE = ["TinyKGAT", "TinyKGCN", "TinyKGNNLS", "TinyKGIN", "TinyRippleNet"]
GENERIC = ["TinyMCCLK", "TinyCKE", "TinyCFKG", "TinyKTUP", "TinyMKR"]
RS = KGDataLoaderState.RS


@pytest.fixture
def experiment(tiny):
    """Return a twin whose epoch has 20 batches and more."""
    made = prepare("TinyKGAT", "tiny", config_dict={**tiny, "train_batch_size": 16})
    made.train_data.set_mode(RS)
    assert len(made.train_data) > 2 * prefetch.DEPTH
    return made


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def two_epochs(made, state, ahead):
    """Return the batches of two epochs, and the random states after each."""
    np.random.seed(5)
    data, found = made.train_data, []
    data.set_mode(state)
    for _ in range(2):
        if ahead:
            with drawn_ahead(data, made.model, pin=False) as batches:
                found += [batch.interaction for batch in batches]
        else:
            found += [batch.interaction for batch in data]
        own = {k: g.get_state() for k, g in random_state.generators(train=data).items()}
        found.append({**random_state.capture(), **own})
    return {str(number): part for number, part in enumerate(found)}


@pytest.mark.parametrize("state", list(KGDataLoaderState))
@pytest.mark.parametrize("model", FIVE)
def test_batches_and_random_state_are_the_loaders(model, state, tiny):
    plain, ahead = (prepare(model, "tiny", config_dict=tiny) for _ in range(2))
    assert may_draw_ahead(ahead.train_data, ahead.model)
    assert_identical(two_epochs(ahead, state, True), two_epochs(plain, state, False))


@pytest.mark.parametrize("around", [nullcontext, random_state.preserved], ids=["", "preserved"])
def test_a_measured_step_takes_no_draw_with_it(around, tiny, monkeypatch):
    """It puts the random state back while batches are drawn; so does `plan`, around a pass."""

    def fit(ahead):
        made = prepare("TinyKGAT", "tiny", config_dict={**tiny, "train_batch_size": 16})
        loss = made.model.calculate_loss

        @functools.wraps(loss)
        def slow(batch):
            time.sleep(0.01)  # in which the thread would draw several batches
            return loss(batch)

        made.model.calculate_loss = slow
        if ahead:
            drawn = lambda data, trainer: drawn_ahead(data, trainer.model, pin=False)  # noqa: E731
            monkeypatch.setattr(loop, "_batches", drawn)
        with around():
            made.trainer.fit(made.train_data, saved=False)
        assert made.trainer.memory()["rs"]["saved_activation_bytes"] > 0
        return made.trainer.train_loss_dict, made.model.state_dict(), random_state.capture()

    assert_identical(*(fit(ahead) for ahead in (False, True)))


def test_another_thread_draws_and_at_most_so_many(experiment, monkeypatch):
    data = experiment.train_data.general_dataloader
    drawers, collate = [], data.collate_fn
    third = threading.Event()

    def recorded(index):
        drawers.append(threading.current_thread())
        if len(drawers) == 3:
            third.set()
        return collate(index)

    monkeypatch.setattr(data, "collate_fn", recorded)
    with drawn_ahead(experiment.train_data, experiment.model, pin=False, depth=2) as batches:
        assert third.wait(30)  # two wait, and the third is in the thread's hand
        (thread,) = threads()
        thread.join(0.2)
        assert set(drawers) == {thread} and len(drawers) == 3
        next(batches)
    assert threads() == []


@pytest.mark.parametrize("num_taken", [0, 1, 5])
def test_a_block_that_is_left_early_leaves_no_thread_and_no_batch(experiment, num_taken):
    given = []
    with drawn_ahead(experiment.train_data, experiment.model, pin=False) as batches:
        for _ in range(num_taken):
            given.append(weakref.ref(next(batches)))
    assert threads() == []
    assert list(batches) == []
    gc.collect()
    assert [batch() for batch in given] == [None] * num_taken


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_ends_the_thread_and_passes(experiment, error):
    with (
        pytest.raises(error, match="in the step"),
        drawn_ahead(experiment.train_data, experiment.model, pin=False) as batches,
    ):
        for _ in batches:
            raise error("in the step")
    assert threads() == []


def test_an_error_of_the_loader_comes_after_the_batches_before_it(experiment, monkeypatch):
    data = experiment.train_data.general_dataloader
    collate, numbers = data.collate_fn, iter(range(100))

    def broken(index):
        if next(numbers) == 2:
            raise ZeroDivisionError("in the loader")
        return collate(index)

    monkeypatch.setattr(data, "collate_fn", broken)
    taken = []
    with (
        pytest.raises(ZeroDivisionError, match="in the loader") as info,
        drawn_ahead(experiment.train_data, experiment.model, pin=False) as batches,
    ):
        taken.extend(batches)
    assert "broken" in [frame.name for frame in traceback.extract_tb(info.tb)]
    assert threads() == []


def test_batches_before_an_error_are_given(experiment, monkeypatch):
    data = experiment.train_data.general_dataloader
    collate, numbers = data.collate_fn, iter(range(100))
    monkeypatch.setattr(data, "collate_fn", lambda i: next(numbers) < 2 and collate(i) or 1 / 0)
    taken = 0
    with (
        pytest.raises(ZeroDivisionError),
        drawn_ahead(experiment.train_data, experiment.model, pin=False) as batches,
    ):
        for _ in batches:
            taken += 1
    assert taken == 2


def test_a_batch_dies_with_its_last_use(experiment):
    with drawn_ahead(experiment.train_data, experiment.model, pin=False) as batches:
        for batch in batches:
            held = weakref.ref(batch)
            del batch
            deadline = time.monotonic() + 30
            while held() is not None:  # the thread may be about to let go of it
                assert time.monotonic() < deadline
                time.sleep(0.001)


def test_negatives_that_the_model_chooses_are_drawn_by_the_consumer(tiny):
    dynamic = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 3}
    made = prepare("TinyKGAT", "tiny", config_dict={**tiny, "train_neg_sample_args": dynamic})
    made.train_data.get_model(made.model)
    made.train_data.set_mode(RS)
    assert not may_draw_ahead(made.train_data, made.model)
    with drawn_ahead(made.train_data, made.model, pin=True) as batches:
        assert len(list(batches)) == len(made.train_data)
        assert threads() == []


@pytest.mark.parametrize("change", [{"repeatable": True}, {"worker": 1}], ids=str)
def test_recboles_loaders_are_iterated_as_they_are(change, tiny):
    made = prepare("TinyKGAT", "tiny", config_dict={**tiny, **change})
    assert not may_draw_ahead(made.train_data, made.model)


@pytest.mark.parametrize("model", [*FIVE, *GENERIC])
def test_losses_draw_from_no_generator_that_loaders_draw_from(model, tiny):
    """Those that do, and only those, are kept from a thread that draws at the same time."""
    made = prepare(model, "tiny", config_dict=tiny)
    made.train_data.set_mode(KGDataLoaderState.RSKG)
    batch = next(iter(made.train_data))
    names = {"calculate_loss"} if made.model.stock_name != "MKR" else set()
    names |= {name for name in dir(made.model) if re.fullmatch("calculate_(rs|kg)_loss", name)}
    own = random_state.generators(train=made.train_data)

    def states():
        _, keys, place, *_ = np.random.get_state()
        loaders = {name: generator.get_state() for name, generator in own.items()}
        return (keys.tolist(), place), {"python": random.getstate(), **loaders}

    before = states()
    made.model.train()
    for name in names:
        getattr(made.model, name)(batch)
    after = states()
    assert_identical(after[1], before[1])
    assert (after[0] != before[0]) == (
        stock_name_of(type(made.model)) in prefetch._DRAWS_FROM_NUMPY
    )


def test_a_copy_holds_the_same_columns(experiment):
    batch = next(iter(experiment.train_data))
    assert_identical(on_device(batch, torch.device("cpu")).interaction, batch.interaction)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_batches_reach_the_device_unchanged(tiny):
    """The consumer lets go of a batch before its copy has happened."""
    plain, ahead = (
        prepare("TinyKGAT", "tiny", config_dict={**tiny, "train_batch_size": 16}) for _ in range(2)
    )
    expected = two_epochs(plain, RS, False)
    np.random.seed(5)
    ahead.train_data.set_mode(RS)
    found = []
    for _ in range(2):
        with drawn_ahead(ahead.train_data, ahead.model, pin=True) as batches:
            for batch in batches:
                assert all(column.is_pinned() for column in batch.interaction.values())
                torch.cuda._sleep(1_000_000)
                found.append(on_device(batch, torch.device("cuda")))
                del batch
    batches = [part for part in expected.values() if "numpy" not in part]
    assert len(batches) == len(found)
    for ours, theirs in zip(found, batches, strict=True):
        assert_identical(ours.cpu().interaction, theirs)
