"""Seconds, launches and waits of a step in the run kit, as far as a CPU can tell."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.gpu import report
from benchmarks.gpu.launches import measure as measure_launches
from benchmarks.gpu.trace import summarize
from benchmarks.suite.cases import Case
from benchmarks.suite.steps import RepeatedBatches, step_seconds
from benchmarks.suite.variants import VARIANTS


def event(category: str, name: str, start: float = 0, duration: float = 0) -> dict:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration}


def test_a_trace_says_how_long_the_gpu_worked_and_who_waited():
    events = [
        event("kernel", "mm", 0, 100),
        event("kernel", "add", 50, 100),  # beside it: 150 microseconds for both
        event("gpu_memcpy", "copy", 200, 50),
        event("gpu_user_annotation", "step", 0, 1000),
        event("cpu_op", "aten::mm", 0, 1000),
        event("cuda_runtime", "cudaLaunchKernel"),
        event("cuda_driver", "cuLaunchKernelEx"),
        event("cuda_runtime", "cudaGraphLaunch"),
        event("cuda_runtime", "cudaMemcpyAsync"),
        event("cuda_runtime", "cudaStreamSynchronize"),
        event("cuda_runtime", "cudaDeviceSynchronize"),
        event("cuda_runtime", "cudaStreamIsCapturing"),
        {"ph": "M", "cat": "kernel", "name": "process_name"},
    ]
    step = summarize(events, num_steps=2)
    assert step["busy_ms"] == pytest.approx(0.1)
    assert (step["kernels"], step["launch_calls"], step["graph_launches"]) == (1, 2, 0.5)
    assert step["waits_by_name"] == {"cudaStreamSynchronize": 0.5, "cudaDeviceSynchronize": 0.5}
    assert step["waits"] == 1 and step["busiest"] == {"mm": 0.05, "add": 0.05, "copy": 0.025}


@pytest.fixture
def kgat(tiny) -> Case:
    return Case("small", "TinyKGAT", {**tiny, "layers": [8]}, dataset="tiny")


def test_a_pass_repeats_the_first_batches_of_a_loader():
    batches = RepeatedBatches(range(100), 10)
    assert list(batches) == [0, 1, 2, 3] * 2 + [0, 1] and len(batches) == 10
    assert batches.start == 0  # the loader's own


def test_steps_are_taken_by_the_trainers_pass(kgat, monkeypatch):
    from benchmarks.suite.cases import Models
    from recbole_tinykg.trainer import trainer

    taken = []
    train_pass = trainer.train_pass

    def counted(*args):
        taken.append(len(args[1]))
        return train_pass(*args)

    monkeypatch.setattr(trainer, "train_pass", counted)
    experiment = Models(kgat, {"gpu_id": ""}).of(VARIANTS["tiny2"])
    before = experiment.model.entity_embedding.weight.clone()
    seconds = step_seconds(kgat, VARIANTS["tiny2"], experiment, num_steps=7)
    assert taken == [7, 7] and seconds.keys() == {"step_rs", "step_kg"}
    assert not before.equal(experiment.model.entity_embedding.weight)


def test_an_epoch_on_a_gpu_is_of_the_loader_itself_which_is_drawn_ahead(kgat, monkeypatch):
    from benchmarks.suite import timing
    from benchmarks.suite.variants import choose_variants
    from recbole_tinykg.data.loaders import KnowledgeLoader
    from recbole_tinykg.trainer import trainer

    loaders = []
    train_pass = trainer.train_pass

    def seen(*args):
        loaders.append(type(args[1]))
        return train_pass(*args)

    monkeypatch.setattr(trainer, "train_pass", seen)
    monkeypatch.setattr(timing, "is_on_gpu", lambda experiment: True)
    case = dataclasses.replace(kgat.on_gpu(), rounds=1)
    variants = choose_variants(["tiny2"], torch.device("cpu"))
    (round_of_twin,) = timing.measure(case, variants, {"gpu_id": ""})["seconds"]["tiny2"]
    warm_up, own = [timing.Passes] * 2 + [RepeatedBatches] * 2, [KnowledgeLoader] * 2
    assert loaders == [*warm_up, *own, *[RepeatedBatches] * 2]
    assert round_of_twin["step_kg"] > 0 and round_of_twin["epoch"] > round_of_twin["step_kg"]


def test_launches_are_measured_for_stock_and_twin(kgat):
    found = measure_launches(kgat, {"gpu_id": ""}, num_steps=2)
    assert found.keys() == {"stock", "twin", "twin without graphs"}
    for phases in found.values():
        assert phases.keys() == {"rs", "kg"}
        assert all(one["wall_ms"] > 0 and one["kernels"] == 0 for one in phases.values())
    assert "| small | twin | kg |" in report.launches_table({"launches": {"small": found}})
