"""A step is measured once and unchanged, and the seconds of an epoch add up."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from recbole_tinykg.memory import step_meter
from recbole_tinykg.memory.meter import peak_bytes
from recbole_tinykg.memory.step_meter import StepMeter
from recbole_tinykg.trainer import phases
from recbole_tinykg.trainer.phases import EpochClock, phase_of

N = 1000
FLOATS = 4 * N  # bytes of N floats


class Twin(nn.Module):
    """A twin in miniature: noise from PyTorch's generator, and half the bytes below 32 bits."""

    bits = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(N))
        self.register_buffer("average", torch.zeros(()))
        self.history = torch.zeros(2)
        self.num_steps = 0

    @contextmanager
    def compression(self, bits):
        bits, self.bits = self.bits, bits
        yield
        self.bits = bits

    def calculate_loss(self, interaction):
        x = self.weight * torch.rand(N)
        self.average += 0.1 * (x.detach().mean() - self.average)  # as BatchNorm
        self.history[self.num_steps % 2] = x.detach().sum()  # as DiffRec
        self.num_steps += 1  # as MultiVAE
        self.latest = self.num_steps
        return (x if self.bits == 32 else x.to(torch.float16)).exp().sum()


def metered_steps(model, num_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with StepMeter(model, optimizer, torch.device("cpu"), model.calculate_loss) as meter:
        for _ in range(num_steps):
            optimizer.zero_grad()
            meter.loss_func(None).backward()
            optimizer.step()
    return meter


def test_step_meter_measures_a_step_and_the_same_step_at_32_bits():
    result = metered_steps(Twin(), 1).result
    assert result["saved_activation_bytes"] == FLOATS + 2 * N  # the noise, and exp's output in half
    assert result["float32_saved_activation_bytes"] == 2 * FLOATS
    assert result["peak_bytes"] >= 2 * FLOATS  # the noise and the gradient at least


def test_step_meter_leaves_numbers_and_random_state_alone():
    metered, plain = Twin(), Twin()
    torch.manual_seed(3)
    metered_steps(metered, 3)
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        plain.calculate_loss(None).backward()
        optimizer.step()
    for name in ("weight", "average", "history"):
        assert torch.equal(getattr(metered, name), getattr(plain, name)), name
    assert metered.num_steps == metered.latest == 3


def test_step_meter_measures_the_first_step_only(monkeypatch):
    regions = []
    monkeypatch.setattr(
        step_meter, "peak_bytes", lambda device: regions.append(1) or peak_bytes(device)
    )
    meter = metered_steps(Twin(), 3)
    assert len(regions) == 1
    assert not meter._optimizer._optimizer_step_pre_hooks
    assert not torch.autograd._profiler_enabled()


def test_step_meter_ends_at_the_next_batch_if_the_optimizer_skipped_a_step():
    model = Twin()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with StepMeter(model, optimizer, torch.device("cpu"), model.calculate_loss) as meter:
        meter.loss_func(None).backward()
        assert torch.autograd._profiler_enabled()
        meter.loss_func(None)
        assert not torch.autograd._profiler_enabled()
    assert meter.result["peak_bytes"] > 0


def test_step_meter_cleans_up_after_a_failing_loss():
    model = Twin()
    model.calculate_loss = lambda interaction: 1 / 0
    with pytest.raises(ZeroDivisionError):
        metered_steps(model, 1)
    assert not torch.autograd._profiler_enabled()


def test_phase_is_known_by_the_loss_function():
    class Losses:
        def calculate_loss(self): ...
        def calculate_rs_loss(self): ...
        def calculate_kg_loss(self): ...

    losses = Losses()
    names = ("calculate_loss", "calculate_rs_loss", "calculate_kg_loss")
    assert [phase_of(getattr(losses, name)) for name in names] == ["rs", "rs", "kg"]


def test_clock_adds_up(monkeypatch):
    ticks = iter([0, 1, 4, 5, 7, 10, 100, 103])
    monkeypatch.setattr(phases, "perf_counter", lambda: float(next(ticks)))
    clock = EpochClock(torch.device("cpu"))
    with clock.epoch():
        with clock.phase("rs"):
            pass
        with clock.phase("kg"):
            pass
    with clock.epoch():
        pass
    assert clock.epochs == [
        {"rs": 3.0, "kg": 2.0, "refresh": 5.0, "total": 10.0},
        {"rs": 0.0, "kg": 0.0, "refresh": 3.0, "total": 3.0},
    ]
