"""compressed_saves: its noise, and measure_bias, which measures what it does to a gradient."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from helpers.saved_tensors import D, N, Net, gradients, leaf, rows
from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.saved_tensors import compressed_saves, measure_bias


def test_noise_is_of_seed_step_and_site_alone():
    net, indices = Net(), rows()

    def draw(seed, step):
        streams = NoiseStreams(seed, 1)
        streams.step = step
        torch.rand(3)
        with compressed_saves(net, streams=streams):
            return gradients(net(indices), net)[1]

    assert torch.equal(draw(0, 0), draw(0, 0))
    assert not torch.equal(draw(0, 0), draw(0, 1))
    assert not torch.equal(draw(0, 0), draw(1, 0))


def test_the_global_random_stream_is_left_alone():
    net, before = Net(), torch.get_rng_state()
    before = torch.get_rng_state()
    with compressed_saves(net):
        net(rows()).backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_normalize_is_unbiased():
    """Its derivative reads its input twice: as two draws."""
    net = nn.Linear(D, D)
    x, weight = leaf().detach(), torch.randn(N, D)
    report = measure_bias(net, lambda: (F.normalize(net(x)) * weight).sum(), 1, draws=300)
    for name, found in report.items():
        assert found.bias < 4 * found.resolution, (name, found)


def test_measure_bias_finds_a_bias_and_finds_none():
    net = nn.Linear(D, D, bias=False)
    x = torch.rand(N, D)
    (none,) = measure_bias(net, lambda: net(x).square().sum(), 2, draws=200).values()
    assert none.bias < 4 * none.resolution < none.noise

    def cubed():
        y = net(x)
        return (y * y * y).sum()  # dy = 2 y y + y y: the codes of y by themselves

    (some,) = measure_bias(net, cubed, 1, draws=200).values()
    assert some.bias > 10 * some.resolution
    (exact,) = measure_bias(net, cubed, 32, draws=2).values()
    assert (exact.bias, exact.noise) == (0.0, 0.0)


class Compressing(nn.Linear):
    """Opens a block by itself, as a twin does."""

    bits = 1

    @contextmanager
    def compression(self, bits):
        previous, self.bits = self.bits, bits
        yield
        self.bits = previous

    def forward(self, x):
        with compressed_saves(self, self.bits):
            return super().forward(x).square().sum()


def test_measure_bias_switches_off_what_the_model_compresses_itself():
    net, x = Compressing(D, D, bias=False), leaf().detach()
    of_own_bits = measure_bias(net, lambda: net(x), 2, draws=3)
    assert net.bits == 1
    net.bits = 32
    assert of_own_bits == measure_bias(net, lambda: net(x), 2, draws=3)
