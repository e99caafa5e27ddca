"""A simulated step takes the bytes that the meter finds in the real one, without its numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_tinykg import compressed_saves
from recbole_tinykg.memory.meter import peak_bytes, saved_tensors
from recbole_tinykg.memory.simulation import Simulation, SimulationError
from recbole_tinykg.memory.simulation.allocations import Allocations
from recbole_tinykg.memory.simulation.workspace import workspace_bytes

ROWS, WIDTH = 512, 64
INDEX = torch.arange(3000) % ROWS
MASK = torch.arange(ROWS) % 3 == 0


@pytest.fixture
def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, WIDTH))


def in_place(x):
    hidden = x * 2
    hidden.add_(1.0).clamp_(min=0.0)[MASK] = 3.0
    return hidden.exp().sum()


def added_up_gradients(x):
    hidden = x * 2
    return (hidden * 3).sum() + (hidden * hidden).sum() + hidden.view(-1).exp().sum()


def transposed_gradients(x):
    hidden = x.exp()
    return (hidden.t() * 2).contiguous().exp().sum() + (hidden * 3).sum()


def checkpointed(x):
    return checkpoint(lambda y: (y @ y.t()).relu().exp(), x, use_reentrant=False).sum()


def compressed(x):
    with compressed_saves(bits=2):
        return (torch.tanh(x * 2) @ x.t()).relu().sum()


def gathered(x):
    rows = x[INDEX] * x.index_select(0, INDEX.flip(0)) + F.embedding(INDEX, x)
    return rows.pow(2).sum(1).sqrt().sum()


def chosen(x):
    return x[MASK].exp().sum() + torch.where(MASK[:, None], x, 0.0).pow(2).sum()


def sparse_product(x):
    index = torch.stack([INDEX, INDEX.flip(0)])
    matrix = torch.sparse_coo_tensor(index, torch.ones(len(INDEX)), (ROWS, ROWS))
    return torch.sparse.mm(matrix, torch.sparse.mm(matrix, x).exp()).sum()


def sparse_of_unknown_values(x):
    index = torch.stack([INDEX[:ROWS].flip(0), INDEX[:ROWS]])
    matrix = torch.sparse_coo_tensor(index, x.detach().sum(1), (ROWS, ROWS))
    return torch.sparse.mm(matrix.t(), x).exp().sum()


def mixed_types(x):
    return (x * INDEX[:ROWS, None].to(torch.int32)).sum(dtype=torch.float64) + (
        x * 2
    ).double().sum()


def losses(x):
    labels = (INDEX[:ROWS] % 2).float()
    likelihood = F.cross_entropy(x, INDEX[:ROWS] % WIDTH)
    return likelihood + F.binary_cross_entropy_with_logits(x.sum(1), labels) + F.softplus(x).mean()


def layers(x):
    hidden = F.dropout(F.leaky_relu(F.layer_norm(x, (WIDTH,)) @ x.t()), 0.3)
    return F.normalize(hidden.softmax(1), dim=1).topk(5).values.sum()


STEPS = [
    in_place,
    added_up_gradients,
    transposed_gradients,
    checkpointed,
    compressed,
    gathered,
    chosen,
    sparse_product,
    sparse_of_unknown_values,
    mixed_types,
    losses,
    layers,
]


def real_bytes(step, table) -> tuple[int, int]:
    with peak_bytes() as peak:
        with saved_tensors(inputs=[table, INDEX, MASK]) as saved:
            loss = step(table)
        loss.backward()
    return saved.num_bytes, peak.num_bytes


def simulated_bytes(step, table) -> tuple[int, int]:
    simulation = Simulation()
    simulation.forget(table)
    with simulation:
        simulation.start()
        with saved_tensors(inputs=[table, INDEX, MASK]) as saved:
            loss = step(table)
        loss.backward()
        simulation.stop()
    return saved.num_bytes, simulation.peak_bytes


@pytest.mark.parametrize("anomaly", [False, True])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_saved_and_peak_are_those_of_the_real_step(step, anomaly, table):
    with torch.autograd.set_detect_anomaly(anomaly):
        expected = real_bytes(step, table)
        table.grad = None
        saved, peak = simulated_bytes(step, table)
    assert saved == expected[0]
    assert peak == pytest.approx(expected[1], rel=0.03)


def test_what_is_forgotten_keeps_its_values(table):
    before = table.detach().clone()
    simulated_bytes(in_place, table)
    assert torch.equal(table, before)


def test_a_terabyte_needs_no_memory():
    simulation = Simulation()
    with simulation:
        simulation.start()
        x = torch.zeros(2**19, 2**19)
        y = (x @ x).relu_()
        assert y.shape == x.shape
        del x
        y = y + 1
    assert simulation.peak_bytes == 2 * 2**40


def test_what_leaves_a_simulation_can_be_printed(table):
    simulation = Simulation()
    simulation.forget(table)
    with simulation:
        leaving = table.detach() * 2
    assert "0." in repr(leaving) and leaving.shape == table.shape


def test_known_values_decide_shapes(table):
    simulation = Simulation()
    simulation.forget(table)
    with simulation:
        assert table[torch.unique(INDEX % 7)].shape == (7, WIDTH)
        assert INDEX.bincount().tolist() == torch.bincount(INDEX).tolist()


def sparse_neighbors(x):
    nearest = x.topk(2).indices.view(-1)
    index = torch.stack([torch.arange(ROWS).repeat_interleave(2), nearest])
    return torch.sparse_coo_tensor(index, torch.ones(2 * ROWS), x.shape, check_invariants=False)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda x: x[x > 0], r"aten\.index.*its result depends on values"),
        (lambda x: (x > 0).nonzero(), r"aten\.nonzero.*its result depends on values"),
        (lambda x: x.sum().item(), r"_local_scalar_dense"),
        (lambda x: bool(x.sum() > 0), r"_local_scalar_dense"),
        (lambda x: x.detach().tolist(), r"Tensor\.tolist"),
        (lambda x: x.detach().numpy(), r"Tensor\.numpy"),
        (lambda x: torch.unique(x), r"its result depends on values"),
        (lambda x: sparse_neighbors(x).coalesce(), r"its result depends on values"),
        (lambda x: sparse_neighbors(x).t(), r"its result depends on values"),
    ],
)
def test_reading_unknown_values_is_refused(read, message, table):
    simulation = Simulation()
    simulation.forget(table)
    with simulation, pytest.raises(SimulationError, match=message):
        read(table * 2)


def test_unknown_numbers_are_zero_where_a_loop_prints_them(table):
    simulation = Simulation()
    simulation.forget(table)
    with simulation, simulation.unknown_is_zero():
        loss = table.sum()
        assert loss.item() == 0.0 and not torch.isnan(loss)
        with simulation.unknown_is_refused(), pytest.raises(SimulationError):
            loss.item()


def test_optimizer_state_is_counted_without_its_step(table):
    optimizer = torch.optim.Adam([table])
    simulation = Simulation()
    simulation.forget(table)
    with simulation:
        table.sum().backward()
        optimizer.step()
    state = optimizer.state[table]
    assert state["exp_avg"].untyped_storage().nbytes() == table.nbytes


def test_blocks_of_an_allocator_round_up():
    allocations = Allocations(block_bytes=512)
    allocations.start()
    x, y = torch.zeros(1), torch.zeros(129)
    for tensor in (x, y, x):
        allocations.allocate(tensor.untyped_storage())
    assert allocations.peak_bytes == 3 * 512
    del x, tensor
    z, more = torch.zeros(1), torch.zeros(1)
    allocations.allocate(z.untyped_storage())  # takes the place of x
    assert allocations.peak_bytes == 3 * 512
    allocations.allocate(more.untyped_storage())
    assert allocations.peak_bytes == 4 * 512


def test_a_tentative_sum_takes_the_place_of_a_term_that_goes():
    allocations = Allocations()
    allocations.start()
    term, total = torch.zeros(100), torch.zeros(100)
    allocations.allocate(term.untyped_storage())
    allocations.allocate(total.untyped_storage(), tentative=True)
    del term
    assert allocations.peak_bytes == 400


SORTED = torch.arange(5000)
COO = torch.sparse_coo_tensor(torch.stack([INDEX, INDEX]), torch.ones(3000), (ROWS, ROWS))
ATEN = torch.ops.aten
CALLS = [
    (ATEN.add.Tensor, (torch.ones(9, 700, dtype=torch.int32), torch.ones(9, 1, dtype=torch.int64))),
    (ATEN.sum.default, (torch.ones(5000, dtype=torch.bool),)),
    (ATEN.index.Tensor, (torch.ones(ROWS, 2), [MASK])),
    (ATEN.sort.default, (SORTED,)),
    (ATEN._unique2.default, (SORTED,)),
    (ATEN.repeat_interleave.Tensor, (SORTED % 3,)),
    (ATEN.mm.default, (COO, torch.ones(ROWS, WIDTH))),
    (torch.ops.recbole_tinykg.spmm.default, (
        torch.arange(0, 4 * ROWS + 4, 2, dtype=torch.int32)[::2],
        torch.zeros(4 * ROWS, dtype=torch.int32),
        torch.ones(4 * ROWS),
        torch.ones(3, WIDTH),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("func", "args"), CALLS, ids=lambda value: str(value)[:30])
def test_workspace_is_what_the_profiler_finds(func, args):
    func(*args)  # loads the native library
    with peak_bytes() as peak:
        result = func(*args)
    results = list(result) if isinstance(result, tuple) else [result]
    beyond = peak.num_bytes - sum(tensor.untyped_storage().nbytes() for tensor in results)
    assert workspace_bytes(func, args, results) == pytest.approx(beyond, rel=0.25)
