"""Every operator on a few awkward shapes, compared with the CPU's bits: work for a sanitizer.

    compute-sanitizer --tool memcheck python -m benchmarks.gpu.operator_calls

Small, because a sanitizer makes a kernel tens of times slower; awkward, because a kernel goes wrong
at edges: one column, columns that fill no word or vector, more rows than a block, views that are
neither contiguous nor aligned. Sums of a sparse product may differ by rounding, all else by no bit.
Without a sanitizer it is a quick check that the library fits the GPU.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # else all tensors are one allocation

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from recbole_tinykg import ops  # noqa: E402
from recbole_tinykg.quantization import stream  # noqa: E402

LONGEST_SUM = 256
SHAPES = [(1, 1), (3, 7), (5, 64), (300, 17), (33, 256)]
Result = Tensor | tuple[Tensor, ...]
DROPOUT = {"negative_slope": 0.2, "probability": 0.3}


def main() -> None:
    """Run all calls on the device and on the CPU, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    ops.require_native(device)
    count = 0
    for rows, columns in SHAPES:
        draw = torch.Generator().manual_seed(columns)
        base = torch.randn(rows, columns, generator=draw)
        for x, on_device in zip(views(base), views(base.to(device)), strict=True):
            mine, expected = results(on_device, device), results(x, "cpu")
            for name, value in expected.items():
                for got, known in zip(flat(mine[name]), flat(value), strict=True):
                    check(name, got.cpu(), known)
                    count += 1
    print(f"{count} results on {device} are those of the CPU")


def views(x: Tensor) -> Iterator[Tensor]:  # (N, D)
    """Yield the numbers contiguous, with a stride, and not aligned."""
    yield x
    yield torch.stack((x, -x), dim=2)[:, :, 0]
    yield torch.cat((x[:, :1], x), dim=1)[:, 1:]


def results(x: Tensor, device: str) -> dict[str, Result]:
    """Return the results of every operator on x, by name."""
    noise = stream(3, 5, device)
    found: dict[str, Result] = {}
    for bits in (1, 2, 4, 8):
        kept = ops.quantize(x, noise, bits=bits)
        options: dict[str, Any] = {"bits": bits, "num_columns": x.shape[1], "dtype": x.dtype}
        found[f"quantize {bits}"] = tuple(kept)
        found[f"dequantize {bits}"] = ops.dequantize(*kept, **options)
        found[f"dequantize_ {bits}"] = ops.dequantize_(x.clone(), *kept, bits=bits)
        reverse = torch.arange(x.shape[0] - 1, -1, -1, device=device)
        found[f"dequantize_add_ {bits}"] = ops.dequantize_add_(x.clone(), *kept, bits=bits)
        found[f"dequantize_add_ rows {bits}"] = ops.dequantize_add_(
            x.clone(), *kept, reverse, bits=bits
        )
    mask = ops.sign_mask(x)
    found["sign_mask"] = mask
    found["leaky_relu_backward"] = ops.leaky_relu_backward(x, mask, negative_slope=0.2)
    found["dropout"] = ops.dropout(x, noise, probability=0.3)
    changed = x.clone()
    signs = ops.leaky_relu_dropout_(changed, noise, x, **DROPOUT)
    found["leaky_relu_dropout_"] = (changed, *flat(signs))
    found["leaky_relu_dropout_backward"] = ops.leaky_relu_dropout_backward(
        x, mask, noise, **DROPOUT
    )
    shrink = torch.ones_like(x[:, 0])
    found["normalize_backward"] = ops.normalize_backward(x, x, shrink, eps=1e-12)
    return {**found, **products(x)}


def products(x: Tensor) -> dict[str, Tensor]:
    """Return sparse products whose rows have 0, 1, 2, ... entries, columns in disorder."""
    num_rows = min(x.shape[0], 40)
    sizes = torch.arange(num_rows) % 7
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    entries = torch.arange(int(crow[-1]))
    col, values = (entries * 5) % x.shape[0], 0.1 * (entries % 9 + 1).to(x.dtype)
    matrix = [part.to(x.device) for part in (crow.to(torch.int32), col.to(torch.int32), values)]
    rows = torch.arange(num_rows - 1, -1, -2, device=x.device)
    dense = x.contiguous()
    out = torch.ones(num_rows, x.shape[1], device=x.device, dtype=x.dtype)
    ops.spmm_add_(out, *matrix, dense)
    back = torch.ones_like(dense)
    of_values = ops.spmm_backward_(back, *matrix, dense, out.clone())
    product, of_rows = ops.spmm(*matrix, dense), ops.spmm(*matrix, dense, rows=rows)
    found = {"spmm": product, "spmm rows": of_rows, "spmm_add_": out}
    return {**found, "spmm_backward_": back, "spmm_backward_ values": of_values}


def flat(result: Result) -> tuple[Tensor, ...]:
    """Return a result, or several, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def check(name: str, mine: Tensor, expected: Tensor) -> None:
    """Raise unless the results agree, of products up to the rounding of sums in another order.

    The numbers are of the order of 10, the sums of up to 256 of them.
    """
    if name.startswith("spmm"):
        rounding = 25 * LONGEST_SUM * torch.finfo(torch.float32).eps
        torch.testing.assert_close(mine, expected, rtol=0, atol=rounding)
    elif not torch.equal(mine, expected):
        raise AssertionError(f"{name} differs: {mine} is not the CPU's {expected}")


if __name__ == "__main__":
    main()
