"""measure_bias: the error of a model's gradient under compressed saves, measured, not assumed.

With n draws g_1 .. g_n of a parameter's gradient and the exact one g, mean m and variance
s^2 = sum |g_i - m|^2 / (n - 1), the mean misses g by its bias and by its own noise:

    E |m - g|^2 = |bias|^2 + s^2 / n

The reported bias is the root of |m - g|^2 - s^2 / n, relative to |g|; it is zero where noise alone
explains the distance. A bias below about s / sqrt(n) cannot be told from zero with n draws.

The own compression of a model, such as a twin's, is switched off meanwhile. Otherwise the exact
gradient would be noisy too, and the measured block would do nothing, as the innermost block wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.quantization.quantizer import UNCOMPRESSED, Rounding
from recbole_tinykg.saved_tensors.context import compressed_saves
from recbole_tinykg.saved_tensors.recording import Recording


@dataclass(frozen=True)
class Bias:
    """Errors of the gradient of one parameter, relative to the norm of the exact gradient."""

    bias: float  # of the mean over infinitely many draws, estimated
    noise: float  # root mean square distance of one draw from the mean
    resolution: float  # a bias below this cannot be told from zero


def measure_bias(
    model: nn.Module,
    loss: Callable[[], Any],
    bits: int = 2,
    *,
    draws: int = 50,
    rounding: Rounding = "stochastic",
    seed: int = 0,
    min_saved_bytes: int = 4096,
) -> dict[str, Bias]:
    """Measure bias and noise of the gradient of `loss` under `compressed_saves`.

    PyTorch's random state is restored before each draw, so that all see the same dropout masks; if
    `loss` has other sources of randomness, they must repeat too. Gradients in `model` stay as they
    are.

    Args:
        model: The module; its own `compression(bits)`, if it has that method, is off meanwhile.
        loss: Runs a forward and returns a scalar, or a tuple of scalars to be added. It must not
            open blocks of its own.
        bits: As for `compressed_saves`.
        draws: Number of gradients, above 1; the resolution improves with its root.
        rounding: As for `compressed_saves`.
        seed: Seed of the noise.
        min_saved_bytes: As for `compressed_saves`.

    Returns:
        The errors by name of the parameter, for those whose exact gradient is not zero.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    streams = NoiseStreams(seed, 1).to(next(model.parameters()).device)
    recording = Recording()
    compression: Any = getattr(model, "compression", nullcontext)

    def gradient(at_bits: int) -> list[Tensor]:
        with (
            torch.random.fork_rng(),
            compression(UNCOMPRESSED),
            compressed_saves(
                model,
                at_bits,
                rounding=rounding,
                streams=streams,
                min_saved_bytes=min_saved_bytes,
                recording=recording,
            ),
        ):
            losses = loss()
        total: Any = sum(losses) if isinstance(losses, tuple) else losses
        return list(torch.autograd.grad(total.sum(), parameters, materialize_grads=True))

    exact = gradient(UNCOMPRESSED)
    errors = [torch.zeros_like(g, dtype=torch.float64) for g in exact]
    squares = [0.0] * len(exact)
    for _ in range(draws):
        for i, grad in enumerate(gradient(bits)):
            error = grad.double() - exact[i].double()
            errors[i] += error
            squares[i] += float(error.square().sum())
    return {
        name: _bias(errors[i] / draws, squares[i], draws, float(exact[i].double().norm()))
        for i, name in enumerate(named)
        if exact[i].any()
    }


def _bias(mean_error: Tensor, sum_of_squares: float, draws: int, norm: float) -> Bias:
    distance = float(mean_error.square().sum())
    variance = max(0.0, sum_of_squares - draws * distance) / (draws - 1)
    bias = math.sqrt(max(0.0, distance - variance / draws))
    return Bias(bias / norm, math.sqrt(variance) / norm, math.sqrt(variance / draws) / norm)
