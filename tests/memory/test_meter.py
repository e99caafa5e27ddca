"""Bytes are counted exactly, and counting changes nothing.

Oracles: small computations counted by hand, and for a whole stock model a walk over its autograd
graph that reads the saved tensors from the nodes, without any hook.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_tinykg.memory import meter
from recbole_tinykg.memory.meter import optimizer_bytes, peak_bytes, resident_bytes, saved_tensors
from recbole_tinykg.quick_start import prepare

N = 1000
FLOATS = 4 * N  # bytes of N floats


def leaf(size=N):
    return torch.linspace(0.1, 1, size).requires_grad_()


def test_saved_input_and_saved_output_are_counted_once():
    with saved_tensors() as saved:
        x = leaf() * 1  # saves nothing: the factor is a number
        y = x.exp()  # saves its output y
        loss = (y * x).sum()  # saves y again, and x
    assert saved.num_bytes == 2 * FLOATS
    assert {tensor.shape for tensor in saved.tensors} == {(N,)}
    loss.backward()


def test_views_of_one_storage_count_once_and_whole():
    with saved_tensors() as saved:
        x = leaf() * 1
        loss = (x[:10].exp() * x[10:20]).sum()  # exp keeps its 10 outputs, the product a slice of x
    assert sorted(tensor.num_bytes for tensor in saved.tensors) == [40, FLOATS]
    assert loss.requires_grad


def test_only_what_is_alive_at_the_end_counts():
    with saved_tensors() as saved:
        (leaf() ** 2).sum()  # the loss is not held, so its graph is gone
    assert saved.num_bytes == 0


def test_after_backward_nothing_is_kept():
    with saved_tensors() as saved:
        loss = (leaf() ** 2).sum()
        loss.backward()
    assert saved.num_bytes == 0


def test_breakdown_names_shape_type_and_line():
    with saved_tensors() as saved:
        loss = torch.nn.functional.normalize(leaf(12).view(4, 3) * 1).sum()
    (largest, *_) = sorted(saved.tensors, key=lambda tensor: -tensor.num_bytes)
    assert (largest.shape, largest.dtype, largest.num_bytes) == ((4, 3), torch.float32, 48)
    assert largest.where.startswith("test_meter.py:")
    assert largest.where.endswith(" test_breakdown_names_shape_type_and_line")
    assert loss.requires_grad


@dataclass
class Tables:
    weights: torch.Tensor


class Model(nn.Module):
    """Multiplies its parameter by tensors held in every way that a module can hold one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(N))
        self.register_buffer("buffer", torch.ones(N), persistent=False)
        self.attribute = torch.ones(N)
        self.nested = {"list": [torch.ones(N)], "tuple": (Tables(torch.ones(N)),)}
        self.graph = torch.eye(N).to_sparse()
        self.csr = torch.sparse_csr_tensor(range(N + 1), range(N), torch.ones(N))
        self.child = nn.Linear(N, N, bias=False)

    def forward(self):
        x = self.weight * self.buffer
        x = x + self.weight * self.attribute
        x = x + self.weight * self.nested["list"][0]
        x = x + self.weight * self.nested["tuple"][0].weights
        x = x + torch.sparse.mm(self.graph, self.weight[:, None])[:, 0]
        return x + self.child(self.weight)


def test_parameters_buffers_and_attributes_are_resident():
    model = Model()
    with saved_tensors(model) as saved:
        loss = model().sum()
    assert saved.num_bytes == 0
    with saved_tensors() as without_model:
        loss = model().sum()
    assert without_model.num_bytes > 5 * FLOATS + N * FLOATS  # or the test above shows nothing
    assert loss.requires_grad


def test_activation_that_a_module_keeps_for_itself_still_counts():
    model = Model()

    def forward():
        model.kept = model.weight * 2  # as RippleNet keeps its batch's embeddings
        return model.kept.exp().sum() + (model.kept**2).sum()

    with saved_tensors(model) as saved:
        loss = forward()
    assert saved.num_bytes == 2 * FLOATS
    assert loss.requires_grad


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: Interaction({"x": x})])
def test_batch_is_not_counted_even_through_a_view(wrap):
    batch = torch.ones(2 * N)
    with saved_tensors(inputs=wrap(batch)) as saved:
        loss = (leaf() * batch[:N]).sum()
    assert saved.num_bytes == 0
    assert loss.requires_grad


def test_resident_bytes_tells_parameters_from_the_rest():
    model = Model()
    eye_coo = N * (2 * 8 + 4)  # int64 row and column, float32 value
    eye_csr = (N + 1) * 8 + N * (8 + 4)
    assert resident_bytes(model) == {
        "parameter_bytes": FLOATS + N * FLOATS,
        "graph_bytes": 4 * FLOATS + eye_coo + eye_csr,
    }


def test_optimizer_bytes_are_adams_two_moments_and_step():
    model = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    assert optimizer_bytes(optimizer) == 0
    model(torch.ones(10)).sum().backward()
    optimizer.step()
    assert optimizer_bytes(optimizer) == 2 * 400 + 4


def test_nothing_outlives_the_graph():
    gc.disable()
    try:
        with saved_tensors():
            y = (leaf() * 1).exp()
            loss = y.sum()
        storage = StorageWeakRef(y.untyped_storage())
        del y
        assert not storage.expired()  # exp saved it
        del loss
        assert storage.expired()
    finally:
        gc.enable()


def test_gradients_are_the_same_while_counting():
    def gradients():
        x = leaf()
        (first,) = torch.autograd.grad((x.exp() * x.sin()).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        return first, second

    plain = gradients()
    with saved_tensors():
        counted = gradients()
    assert all(map(torch.equal, plain, counted))


def test_counting_without_keeping_finds_the_same_and_holds_nothing():
    def forward():
        x = leaf() * 1
        for _ in range(20):
            x = x.exp().sin()
        return x.sum()

    with saved_tensors() as saved, peak_bytes() as peak:
        loss = forward()
    with saved_tensors(keep=False) as counted, peak_bytes() as peak_without:
        unusable = forward()
    assert counted.tensors == saved.tensors
    assert saved.num_bytes == 20 * FLOATS  # exp saves its output, and sin the same as its input
    assert peak.num_bytes >= 20 * FLOATS
    assert peak_without.num_bytes < 5 * FLOATS
    loss.backward()
    with pytest.raises(RuntimeError, match="keeps nothing"):
        unusable.backward()


def test_inner_hooks_keep_working():
    with saved_tensors() as saved, save_on_cpu():
        loss = (leaf() * 1).exp().sum()
    assert saved.num_bytes == 0  # only the innermost hooks see a tensor
    loss.backward()


def test_peak_is_the_highest_running_sum():
    before = torch.empty(50 * N)
    with peak_bytes("cpu") as peak:
        a = torch.empty(N)
        b = torch.empty(3 * N)
        del a
        c = torch.empty(2 * N)  # 3 + 2, the highest
        del b, before
        d = torch.empty(2 * N)
    assert peak.num_bytes == 5 * FLOATS
    assert len(c) == len(d)


def test_peak_covers_backward_and_gradient():
    x = leaf()
    with peak_bytes() as peak:
        y = x.exp()
        loss = y.sum()
        loss.backward()  # y is alive, beside it the loss, its gradient 1, and the gradient of x
    assert peak.num_bytes == 2 * FLOATS + 8
    assert y.shape == x.grad.shape


def test_peak_is_unknown_inside_another_profiler():
    with torch.autograd.profiler.profile(), peak_bytes() as peak:
        torch.empty(N)
    assert peak.num_bytes is None


def test_profiler_is_quiet(capfd):
    with peak_bytes():
        torch.empty(N)
    assert capfd.readouterr() == ("", "")


def test_backwards_first_kernel_in_the_warm_up_is_no_matrix_product():
    """On a GPU, cuBLAS warns in a thread in which nothing else has run; sums only expand."""

    class Recorded(TorchDispatchMode):
        names: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.name())
            return func(*args, **kwargs or {})

    with Recorded() as recorded:
        meter._warm_up_matmul(torch.device("cpu"))
    backward = recorded.names[recorded.names.index("aten::sum") + 1 :]
    products = {"aten::mm", "aten::addmm"}
    kernels = [name for name in backward if name in products | {"aten::mul.Tensor"}]
    assert kernels[0] == "aten::mul.Tensor" and products & set(kernels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_on_cuda_is_the_allocators():
    before = torch.empty(50 * 2**20, device="cuda")
    with peak_bytes("cuda") as peak:
        a = torch.empty(2**20, device="cuda") @ torch.empty(2**20, device="cuda")
        b = torch.empty(3 * 2**20, device="cuda")
        del b
    assert 3 * 2**22 <= peak.num_bytes <= 3 * 2**22 + 2**12  # and no workspace of cuBLAS
    assert len(before) > len(a.view(1))


def walk(loss):
    """Return address and bytes of the storages that the nodes of an autograd graph have saved."""
    nodes, todo, found = set(), [loss.grad_fn], {}
    while todo:
        node = todo.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        todo += [parent for parent, _ in node.next_functions]
        for name in dir(node):
            value = getattr(node, name) if name.startswith("_saved_") else None
            for tensor in value if isinstance(value, tuple) else [value]:
                if torch.is_tensor(tensor) and not tensor.is_sparse and not is_number(tensor):
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def is_number(tensor):
    """Whether it is a Python number by which a model divides: PyTorch wraps it, past all hooks."""
    return tensor.dim() == 0 and tensor.dtype in (torch.float64, torch.int64)


def kept_by_graph(loss, model, batch):
    held = walk(loss)
    for tensor in [*model.parameters(), *batch.interaction.values()]:
        held.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(held.values())


@pytest.mark.parametrize(
    ("layers", "phase", "megabytes"),
    [([64], "RS", 76), ([64, 32, 16], "RS", 146), ([64], "KG", 38)],
)
def test_stock_kgat_keeps_what_its_graph_holds(layers, phase, megabytes, ml_100k):
    experiment = prepare("KGAT", "ml-100k", config_dict={**ml_100k, "layers": layers})
    model, batch = experiment.model, first_batch(experiment, phase)
    loss_func = model.calculate_loss if phase == "RS" else model.calculate_kg_loss
    with saved_tensors(model, batch) as saved:
        loss = loss_func(batch)
    assert round(saved.num_bytes / 1e6) == megabytes
    assert loss.requires_grad
    assert saved.num_bytes == kept_by_graph(loss_func(batch), model, batch)


def first_batch(experiment, phase):
    experiment.train_data.set_mode(KGDataLoaderState[phase])
    return next(iter(experiment.train_data))
