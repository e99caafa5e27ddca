"""Time and bandwidth of every operator against `copy_` of the same tensor, in the same run.

    python -m benchmarks.kernels
    python -m benchmarks.kernels --shapes 184000x64 --bits 2 --dtypes float32,float64

Each operator and `copy_` run in turn, call by call, after three calls each that are not counted;
the table has medians of `--repeats` calls. Bandwidth counts the bytes that the operator must move
(docs/kernels.md). `copy_` writes into memory that is there, which a fresh result does not: so
`dequantize` is compared with `clone`, and `dequantize_` is the operator that does what `copy_`
does. On a GPU times are of events, recorded while the GPU still works at something before them, so
that what Python takes to launch is not in them; the last column is the share of `copy_`'s
bandwidth. The last line is JSON. It needs no RecBole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.processes import processor
from recbole_tinykg import ops
from recbole_tinykg.quantization import stream

SHAPES = "184000x64,1000000x64,1000000x16,100000x256,2000x176"
WARM_UP = 3
SLOPE, PROBABILITY = 0.01, 0.1
LEAD_CYCLES = 500_000  # of a GPU, about 0.3 ms: more than it takes to launch an operator
# On 2 CPU cores, float32, 64 columns: operator, bits, most times a copy.
BARS = [("quantize", 2, 2.0), ("quantize", 8, 2.0), ("dequantize_", 2, 0.8)]


class Call(NamedTuple):
    """An operator to time."""

    name: str
    bits: int | None
    moved_bytes: int  # read and written
    run: Callable[[], Any]


def main() -> None:
    """Measure everything that was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    devices = "cpu,cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--shapes", default=SHAPES, help="rows x columns, separated by commas")
    parser.add_argument("--bits", default="1,2,4,8")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--devices", default=devices)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for device in args.devices.split(","):
        ops.require_native(device)
        for dtype in args.dtypes.split(","):
            for shape in args.shapes.split(","):
                size = tuple(map(int, shape.split("x")))
                x = torch.randn(size, device=device).to(getattr(torch, dtype))
                rows += measure(x, list(map(int, args.bits.split(","))), args.repeats)
    print(judged(rows), table(rows), sep="\n\n")
    where = {"torch": torch.__version__, "threads": args.threads, "cpu": processor()}
    if torch.cuda.is_available():
        where["gpu"] = torch.cuda.get_device_name()
    print(json.dumps({**where, "repeats": args.repeats, "rows": rows}))


def calls(x: Tensor, bits: list[int]) -> Iterator[Call]:
    """Every operator on x, once or for each number of bits."""
    noise, out, mask = stream(1, 1, x.device), torch.empty_like(x), ops.sign_mask(x)
    options = {"negative_slope": SLOPE, "probability": PROBABILITY}
    shrink = torch.zeros_like(x[:, 0])
    size, bit = x.nbytes, mask.nbytes
    yield Call("clone", None, 2 * size, x.clone)
    yield Call("sign_mask", None, size + bit, lambda: ops.sign_mask(x))
    yield Call(
        "leaky_relu_backward",
        None,
        2 * size + bit,
        lambda: ops.leaky_relu_backward(x, mask, negative_slope=SLOPE),
    )
    yield Call("dropout", None, 2 * size, lambda: ops.dropout(x, noise, probability=PROBABILITY))
    yield Call(
        "leaky_relu_dropout_",
        None,
        3 * size + bit,
        lambda: ops.leaky_relu_dropout_(out, noise, x, **options),
    )
    yield Call(
        "leaky_relu_dropout_backward",
        None,
        3 * size + bit,
        lambda: ops.leaky_relu_dropout_backward(x, mask, noise, **options),
    )
    yield Call(
        "normalize_backward",
        None,
        3 * size,
        lambda: ops.normalize_backward(x, x, shrink, eps=1e-12),
    )
    for b in bits:
        yield from quantizing_calls(x, b, noise, out)


def quantizing_calls(x: Tensor, bits: int, noise: Tensor, out: Tensor) -> Iterator[Call]:
    """Return the operators that depend on the number of bits."""
    kept = ops.quantize(x, noise, bits=bits)
    code, size = sum(part.nbytes for part in kept), x.nbytes
    shape = {"num_columns": x.shape[1], "dtype": x.dtype}
    yield Call("quantize", bits, size + code, lambda: ops.quantize(x, noise, bits=bits))
    yield Call("dequantize", bits, size + code, lambda: ops.dequantize(*kept, bits=bits, **shape))
    yield Call("dequantize_", bits, size + code, lambda: ops.dequantize_(out, *kept, bits=bits))
    yield Call(
        "dequantize_add_",
        bits,
        2 * size + code,
        lambda: ops.dequantize_add_(out, *kept, bits=bits),
    )


def measure(x: Tensor, bits: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return a row for every operator on x."""
    target = torch.empty_like(x)
    time = seconds_on_gpu if x.is_cuda else seconds_on_cpu
    rows = []
    for call in calls(x, bits):
        pairs = [(time(lambda: target.copy_(x)), time(call.run)) for _ in range(WARM_UP + repeats)][
            WARM_UP:
        ]
        copy, own = (median(column) for column in zip(*pairs, strict=True))
        copy_bandwidth, bandwidth = 2 * x.nbytes / copy, call.moved_bytes / own
        rows.append(
            {
                "device": x.device.type,
                "dtype": str(x.dtype).removeprefix("torch."),
                "shape": list(x.shape),
                "operator": call.name,
                "bits": call.bits,
                "milliseconds": own * 1e3,
                "copy_milliseconds": copy * 1e3,
                "gigabytes_per_second": bandwidth / 1e9,
                "times_copy": own / copy,
                "bandwidth_of_copy": bandwidth / copy_bandwidth,
            }
        )
    return rows


def seconds_on_cpu(run: Callable[[], Any]) -> float:
    """Wall clock of a call."""
    start = perf_counter()
    run()
    return perf_counter() - start


def seconds_on_gpu(run: Callable[[], Any]) -> float:
    """Time between two events around a call that is launched before the GPU is free for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(LEAD_CYCLES)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def judged(rows: list[dict[str, Any]]) -> str:
    """Markdown: the operators that have a bar, float32 with 64 columns on the CPU."""
    lines = ["| operator | bits | shape | times copy_ | bar |", "|---|---|---|---|---|"]
    for name, bits, most in BARS:
        for r in rows:
            is_meant = (r["operator"], r["bits"], r["device"]) == (name, bits, "cpu")
            if is_meant and r["dtype"] == "float32" and r["shape"][1] == 64:
                shape = " x ".join(map(str, r["shape"]))
                lines.append(f"| {name} | {bits} | {shape} | {r['times_copy']:.2f} | {most} |")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: every row."""
    lines = [
        "| device | dtype | shape | operator | bits | ms | GB/s | times copy_ | of its bandwidth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shape = " x ".join(map(str, r["shape"]))
        lines.append(
            f"| {r['device']} | {r['dtype']} | {shape} | {r['operator']} | {r['bits'] or ''} "
            f"| {r['milliseconds']:.3f} | {r['gigabytes_per_second']:.1f} "
            f"| {r['times_copy']:.2f} | {r['bandwidth_of_copy']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
