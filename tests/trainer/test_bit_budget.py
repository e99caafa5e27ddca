"""Bits under a budget: what is measured is true, what is chosen fits, and nobody notices."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from test_resume import train

from helpers.identical import assert_identical
from recbole_tinykg.data.upcoming import upcoming_batches
from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.memory.byte_sizes import format_bytes, read_bytes
from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.model import MODELS, get_model
from recbole_tinykg.quantization import BITS
from recbole_tinykg.quantization.budget import allocate_bits
from recbole_tinykg.quantization.sensitivity import Sensitivity, measure_sensitivity
from recbole_tinykg.quick_start import prepare, run_recbole_tinykg

CASES = [
    ("TinyKGAT", {"layers": [8, 6, 4], "mess_dropout": 0.2}),
    ("TinyKGAT", {"layers": [8, 4], "aggregator_type": "gcn"}),
    ("TinyKGAT", {"layers": [8, 4], "aggregator_type": "graphsage"}),
    ("TinyKGCN", {"n_iter": 2}),
    ("TinyKGCN", {"n_iter": 3, "aggregator": "neighbor"}),
    ("TinyKGNNLS", {"aggregator": "concat"}),
    ("TinyKGIN", {"context_hops": 3}),
]
ENOUGH = "1TiB"


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]))
def case(request, tiny):
    """A model and two batches."""
    name, settings = request.param
    return prepared(name, {**tiny, **settings})


def prepared(name, parameters):
    experiment = prepare(name, "tiny", config_dict=parameters)
    return experiment.model.train(), upcoming_batches(experiment.train_data, 2)


def gradients(model, batch, bits, step=1):
    with model.compression(bits):
        model.streams.step = step
        loss = model.calculate_loss(batch)
    found = torch.autograd.grad(loss.sum(), list(model.parameters()), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def distance(some, others) -> float:
    return float(sum((a - b).square().sum() for a, b in zip(some, others, strict=True)))


def chosen_at_random(model, seed=0):
    draw = random.Random(seed)
    return {name: draw.choice(BITS) for name in model.map_sites}


def test_every_code_of_a_step_is_a_named_map(case):
    model, (batch, _) = case
    bits = dict.fromkeys(model.map_sites, 32)
    for own, exact in zip(gradients(model, batch, bits), gradients(model, batch, 32), strict=True):
        assert torch.equal(own, exact)


def test_each_map_has_a_site_of_its_own(case):
    sites = list(case[0].map_sites.values())
    assert len(set(sites)) == len(sites)
    assert max(sites) < len(case[0].streams.sites)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_of_any_choice_are_foretold_exactly(case, seed):
    model, batches = case
    found = measure_sensitivity(model, model.calculate_loss, batches[:1], read_bytes(ENOUGH))
    bits = chosen_at_random(model, seed)
    model.choose_bits(bits)
    with saved_tensors(model, batches[0]) as saved:
        loss = model.calculate_loss(batches[0])
    del loss
    assert saved.num_bytes == found.saved_bytes(bits)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("TinyKGAT", {"layers": [8, 6], "mess_dropout": 0.0}),
        ("TinyKGCN", {"n_iter": 2}),
        ("TinyKGIN", {"context_hops": 2, "mess_dropout_rate": 0.0, "node_dropout_rate": 0.0}),
    ],
)
def test_foretold_variance_is_that_of_the_gradient(name, settings, tiny):
    """Both are means of independent draws: they differ by what the draws scatter, and rounding."""
    count = 24
    model, (batch, _) = prepared(name, {**tiny, **settings})
    exact = gradients(model, batch, 32)
    square = sum(float(gradient.square().sum()) for gradient in exact)
    rounding = square * torch.finfo(torch.float32).eps ** 2
    found = measure_sensitivity(model, model.calculate_loss, [batch] * count, read_bytes(ENOUGH))
    for own in found.maps:
        for bits in (1, 2):
            chosen = {**dict.fromkeys(model.map_sites, 32), own.name: bits}
            drawn = [gradients(model, batch, chosen, step) for step in range(1, count + 1)]
            squares = torch.tensor([distance(noisy, exact) for noisy in drawn])
            scatter = float(squares.std()) * (2 / count) ** 0.5  # of a difference of two means
            foretold = own.options[BITS.index(bits)].variance
            assert abs(foretold - float(squares.mean())) <= 5 * scatter + rounding, own.name


def test_measuring_leaves_no_trace(case):
    model, batches = case
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state, step, sites = torch.get_rng_state(), model.streams.step, model.streams.sites
    table = model.site_table
    model.eval()
    measure_sensitivity(model, model.calculate_loss, batches, read_bytes(ENOUGH))
    assert_identical(before, dict(model.state_dict()))
    assert torch.equal(random_state, torch.get_rng_state())
    assert model.streams.step == step and model.streams.sites is sites
    assert model.site_table is table and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_chosen_bits_fit_and_more_bytes_mean_less_noise(case):
    model, batches = case
    everything = allocate_bits(model, model.calculate_loss, batches, read_bytes(ENOUGH))
    assert set(everything.bits.values()) == {32} and everything.relative_variance == 0
    least = everything.sensitivity.saved_bytes(dict.fromkeys(model.map_sites, 1))
    noise = []
    for budget in (least, 2 * least, 4 * least):
        allocation = allocate_bits(model, model.calculate_loss, batches, budget)
        assert allocation.saved_bytes <= budget
        noise.append(allocation.relative_variance)
    assert noise == sorted(noise, reverse=True)
    with pytest.raises(ConfigurationError, match=f"must be at least {least} bytes .*; got 10 "):
        allocate_bits(model, model.calculate_loss, batches, 10)


@pytest.mark.parametrize("model", ["TinyKGAT", "TinyKGCN", "TinyKGIN", "TinyRippleNet"])
def test_a_budget_for_everything_trains_as_32_bits_do(model, tiny):
    """The same batches in the same order: the epochs did not notice that some were drawn ahead."""
    parameters = {**tiny, "epochs": 3, "run_name": "same"}
    budgeted = train(model, {**parameters, "compress_budget": ENOUGH}).outcome()
    plain = train(model, {**parameters, "compress_bits": 32}).outcome()
    for outcome in (budgeted, plain):
        outcome["other_parameter"].pop("map_bits")
    assert_identical(budgeted, plain)


BUDGETED = {"layers": [8, 4], "mess_dropout": 0.2, "epochs": 4, "compress_budget": "8KiB"}


@pytest.mark.parametrize("stop_after", [0, 2])
def test_resumed_run_keeps_its_bits(tiny, stop_after):
    parameters = {**tiny, **BUDGETED}
    whole = train("TinyKGAT", parameters)
    begun = train("TinyKGAT", parameters, stop_after=stop_after)
    resumed = train("TinyKGAT", parameters, resume=begun.last_file)
    assert len(set(whole.trainer.model.map_bits.values())) > 1
    assert_identical(whole.outcome(), resumed.outcome())


def test_bits_are_chosen_at_epochs_further_and_further_apart(tiny):
    trainer = train("TinyKGAT", {**tiny, **BUDGETED, "epochs": 7}).trainer
    assert list(trainer._budget.allocations) == [0, 1, 2, 4]


def test_result_and_checkpoint_tell_the_bits_and_the_step_keeps_what_was_promised(tiny):
    result = run_recbole_tinykg("TinyKGAT", "tiny", config_dict={**tiny, **BUDGETED})
    written = json.loads(Path(result["files"]["result"]).read_text())
    assert written["map_bits"] == result["map_bits"] != {}
    assert result["memory"]["rs"]["saved_activation_bytes"] <= 8 * 1024
    uniform = run_recbole_tinykg("TinyKGAT", "tiny", config_dict=tiny)
    assert uniform["map_bits"] == {}


def test_bits_of_another_model_are_refused(tiny):
    model = prepare("TinyKGAT", "tiny", config_dict=tiny).model
    with pytest.raises(CheckpointError, match="layer1.head_gradient.*of TinyKGAT; got hop1.users"):
        model.choose_bits({"hop1.users": 2})


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("TinyKGAT", {"compress_budget": "1B"}, r"compress_budget must be at least \d+ bytes"),
        ("TinyRippleNet", {"compress_budget": 1}, r"compress_budget must be at least \d+ bytes"),
        ("TinyKGAT", {"compress_budget": "2XB"}, "such as 256MiB, .*; got '2XB'"),
        ("TinyKGAT", {"compress_budget": 0}, "positive number of bytes .*; got 0"),
        ("TinyKGAT", {"compress_budget": "-1MB"}, "positive number of bytes .*; got '-1MB'"),
        ("TinyMKR", {"compress_budget": ENOUGH}, "is for TinyKGAT, .*; got it with TinyMKR"),
        ("KGAT", {"compress_budget": ENOUGH}, "compress_budget belongs to the Tiny models"),
        ("KGCN", {"compress_budget": "1B", "compressed_saves": True}, "got it with KGCN"),
        ("TinyKGAT", {"compress_budget": ENOUGH, "compress_bits": 4}, "must be left out with"),
        (
            "TinyKGAT",
            {"compress_budget": ENOUGH, "compress_rounding": "nearest"},
            "compress_rounding must be stochastic with compress_budget",
        ),
    ],
)
def test_wrong_budget_is_refused(model, changes, message, tiny):
    with pytest.raises(ConfigurationError, match=message):
        train(model, {**tiny, **changes})


def test_bits_beside_a_budget_are_refused(tiny, tmp_path):
    file = tmp_path / "bits.yaml"
    file.write_text("compress_bits: 4\n")
    with pytest.raises(ConfigurationError, match="compress_bits must be left out"):
        prepare("TinyKGAT", "tiny", [file], {**tiny, "compress_budget": ENOUGH})


def test_a_choice_is_shown_beside_the_widest_uniform_bits(tiny):
    model, batches = prepared("TinyKGAT", {**tiny, "layers": [8, 4]})
    allocation = allocate_bits(model, model.calculate_loss, batches, 8 * 1024)
    uniform = {bits: allocation._uniform_bytes(bits) for bits in BITS}
    assert allocation.uniform_bits == max(bits for bits in BITS if uniform[bits] <= 8 * 1024)
    lines = allocation.table().splitlines()
    assert [line.split()[0] for line in lines[2:-3]] == list(model.map_sites)
    assert lines[-1].startswith("all maps alike")


def test_bits_that_do_not_exist_change_nothing(tiny):
    model = prepare("TinyKGAT", "tiny", config_dict=tiny).model
    table = model.site_table
    with pytest.raises(ConfigurationError, match="bits must be one of 1, 2, 4, 8, 32; got 3"):
        model.choose_bits(dict.fromkeys(model.map_sites, 3))
    assert model.map_bits == {} and model.site_table is table


def test_a_gradient_of_zero_is_no_reason_to_stop():
    assert Sensitivity((), 0, 0.0).relative(1.0) == math.inf
    assert Sensitivity((), 0, 0.0).relative(0.0) == 0.0


def test_twins_that_cannot_choose_name_no_map():
    for name in MODELS:
        twin = get_model(name)
        assert twin.chooses_bits or not twin.name_sites({}).stored


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("2 KiB", 2048),
        ("2KB", 2000),
        ("1.5MiB", 1572864),
        ("3GB", 3 * 10**9),
    ],
)
def test_sizes_are_read(text, num_bytes):
    assert read_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    ["", "MiB", "1 m", "1mib", "1e3", -1, 0, True, 1.5, None, "0B", "0.5B", "9" * 400, 2**63],
)
def test_other_sizes_are_refused(text):
    with pytest.raises(ConfigurationError, match="size must be a positive number of bytes"):
        read_bytes(text)


def test_sizes_are_written():
    assert [format_bytes(n) for n in (None, 5, 2048, 3 * 2**20)] == [
        "-",
        "5 B",
        "2.00 KiB",
        "3.00 MiB",
    ]
