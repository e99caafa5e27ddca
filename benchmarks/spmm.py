"""The sparse product: ours against the library's (MKL or cuSPARSE, by PyTorch's sparse CSR).

    python -m benchmarks.spmm
    python -m benchmarks.spmm --device cuda --graphs power-law --widths 64 --threads 1

Two matrices: ml-100k's collaborative graph as TinyKGAT stores it, and a seeded power-law graph of
184,000 nodes and 6.5 million entries (Amazon-Book's size). Four products, each added to a matrix
that is there: forward, transposed, rows (2,048 rows of A) and places (the transpose times 2,048
rows). The library has neither of the last two: the smaller matrix is built, or the rows are spread,
first. Ours checks every index, the library none. On a GPU times are of events (`kernels`), and the
pointers of both have the type of the columns, as cuSPARSE wants it.

Both run in turn in one process, after one call each that is not counted; the table has medians of
`--repeats` calls and the ratio library / ours. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels import seconds_on_cpu, seconds_on_gpu
from recbole_tinykg import ops
from recbole_tinykg.graph.adjacency import Adjacency, slot_keys
from recbole_tinykg.ops.reference.spmm import select_rows
from recbole_tinykg.ops.registration import require_native
from recbole_tinykg.quick_start import prepare

NUM_ROWS = 2048
"""Rows of the rows and places forms: about what a batch reads."""

Product = tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]  # out, matrix and dense, rows/places


def main() -> None:
    """Measure every graph, width, number of threads and form, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", default="ml-100k,power-law", help="separated by commas")
    parser.add_argument("--widths", default="16,32,64,256", help="columns of dense")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=11)
    args = parser.parse_args()
    require_native(args.device)
    makers = {"ml-100k": collaborative_graph, "power-law": power_law_graph}
    rows = []
    for graph in args.graphs.split(","):
        adjacency = makers[graph]()
        for width in map(int, args.widths.split(",")):
            for form, product in products(adjacency, width).items():
                product = on_device(product, args.device)
                for threads in map(int, args.threads.split(",")):
                    torch.set_num_threads(threads)
                    seconds = compare(product, args.repeats)
                    key = {"graph": graph, "width": width, "form": form, "threads": threads}
                    key |= {"device": args.device}
                    rows.append({**key, **seconds})
    print(table(rows))
    machine = {"torch": torch.__version__, "machine": platform.machine()}
    print(json.dumps({**machine, "repeats": args.repeats, "rows": rows}))


def collaborative_graph() -> Adjacency:
    """ml-100k's graph with its first attention values."""
    settings = {"gpu_id": "", "state": "ERROR", "compress_bits": 2}
    model: Any = prepare("TinyKGAT", "ml-100k", config_dict=settings).model
    return model.graph.adjacency


def power_law_graph(num_nodes: int = 184_000, num_entries: int = 6_700_000) -> Adjacency:
    """Both ends of an entry are drawn with chance rank^-0.7; repeated entries count once."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.arange(1, num_nodes + 1, dtype=torch.float64) ** -0.7
    chance = weights.cumsum(0) / weights.sum()
    node = torch.randperm(num_nodes, generator=generator)

    def ends() -> Tensor:
        drawn = torch.rand(num_entries, generator=generator, dtype=torch.float64)
        return node[torch.searchsorted(chance, drawn).clamp(max=num_nodes - 1)]

    sizes = (70_000, num_nodes - 70_000)
    adjacency = Adjacency(slot_keys(ends(), ends(), sizes).unique(), sizes)
    adjacency.set_values(torch.rand(len(adjacency.col), generator=generator))
    return adjacency


def products(adjacency: Adjacency, width: int) -> dict[str, Product]:
    """Arguments of each form: of A, the columns of the second part."""
    generator = torch.Generator().manual_seed(1)
    num_messages, num_nodes = adjacency.num_messages, adjacency.num_nodes
    chosen = torch.randperm(num_messages, generator=generator)[:NUM_ROWS].sort().values
    places = torch.full((num_messages,), -1, dtype=torch.int32)
    places[chosen] = torch.arange(len(chosen), dtype=torch.int32)
    matrix = adjacency.csr(1)
    transpose = (adjacency.crow_t, adjacency.col_t, adjacency.values_t)
    x = torch.randn(adjacency.sizes[1], width, generator=generator)
    messages = torch.randn(num_messages, width, generator=generator)
    return {
        "forward": (torch.zeros(num_messages, width), (*matrix, x), {}),
        "transposed": (torch.zeros(num_nodes, width), (*transpose, messages), {}),
        "rows": (torch.zeros(len(chosen), width), (*matrix, x), {"rows": chosen}),
        "places": (
            torch.zeros(num_nodes, width),
            (*transpose, messages[chosen]),
            {"places": places},
        ),
    }


def on_device(product: Product, device: str) -> Product:
    """Return the arguments on a device."""
    if device == "cpu":
        return product
    out, (crow, col, values, dense), form = product
    operands = (crow.to(device, col.dtype), *(x.to(device) for x in (col, values, dense)))
    return out.to(device), operands, {name: x.to(device) for name, x in form.items()}


def compare(product: Product, repeats: int) -> dict[str, float]:
    """Median seconds of both, called in turn."""
    out, operands, form = product
    calls: dict[str, Callable[..., Any]] = {"ours": ops.spmm_add_, "library": library_add_}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    clock = seconds_on_gpu if out.is_cuda else seconds_on_cpu
    for _ in range(repeats + 1):
        for name, call in calls.items():
            seconds[name].append(clock(partial(call, out, *operands, **form)))
    return {f"{name}_seconds": statistics.median(kept[1:]) for name, kept in seconds.items()}


def library_add_(
    out: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    dense: Tensor,
    rows: Tensor | None = None,
    places: Tensor | None = None,
) -> None:
    """Do what a caller without our kernel would do."""
    if rows is not None:
        crow, col, values = select_rows(crow, col, values, rows)
    if places is not None:
        present = places >= 0
        spread = dense.new_zeros(len(places), dense.shape[1])
        spread[present] = dense[places[present].long()]
        dense = spread
    shape = (crow.shape[0] - 1, dense.shape[0])
    matrix = torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)
    torch.addmm(out, matrix, dense, out=out)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in milliseconds."""
    lines = [
        "| graph | D | form | threads | library, ms | ours, ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        library, ours = r["library_seconds"] * 1e3, r["ours_seconds"] * 1e3
        lines.append(
            f"| {r['graph']} | {r['width']} | {r['form']} | {r['threads']} "
            f"| {library:.2f} | {ours:.2f} | {library / ours:.1f}× |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
