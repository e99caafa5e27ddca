"""The benchmark suite: variants compute what stock computes, tables say what numbers say."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from benchmarks.suite import charts, comparison, tables
from benchmarks.suite import run as suite
from benchmarks.suite.cases import CASES, Case, Models
from benchmarks.suite.comparison import Result, better_rows
from benchmarks.suite.memory import measure as measure_memory
from benchmarks.suite.memory import total
from benchmarks.suite.timing import measure as measure_time
from benchmarks.suite.variants import BLOCKS, DEFAULT, VARIANTS, choose_variants

CPU = torch.device("cpu")
EXACT = ("stock", "checkpoint", "offload", "compressed", "anomaly", "tiny32", "tiny2")
BF16 = 2.0**-8  # half a step of bfloat16 at 1


class SmallCase(Case):
    """A case on the test's own data, without dropout, which twins draw otherwise."""

    def given(self, variant, device):
        name, given = super().given(variant, device)
        return name, {**given, "mess_dropout": 0.0, "node_dropout_rate": 0.0, "state": "ERROR"}


@pytest.fixture
def kgat(tiny):
    return SmallCase("small", "TinyKGAT", {**tiny, "layers": [8]}, dataset="tiny", rounds=2)


def batch_of(experiment, state):
    experiment.train_data.set_mode(state)
    return next(iter(experiment.train_data))


def step(model, variant, batch, name="calculate_loss"):
    """Loss of a batch and the gradients of the parameters."""
    model.train().zero_grad()
    with variant.applied(model):
        torch.manual_seed(1)
        loss = total(getattr(model, name)(batch))
    loss.backward()
    return loss.item(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("key", VARIANTS)
def test_a_variant_has_stocks_loss_and_gives_gradients(tiny, kgat, key):
    takes_bf16 = SmallCase("small", "TinyKGCN", tiny, dataset="tiny")  # sparse products may not
    case = takes_bf16 if key == "bf16" else kgat
    models = Models(case, {"gpu_id": ""})
    stock = models.of(VARIANTS["stock"])
    batch = batch_of(stock, case.phases["rs"][0])
    stock_loss, stock_gradients = step(stock.model, VARIANTS["stock"], batch)
    loss, gradients = step(models.of(VARIANTS[key]).model, VARIANTS[key], batch)
    assert loss == pytest.approx(stock_loss, rel=1e-5 if key in EXACT or "tiny" in key else BF16)
    assert gradients.keys() == stock_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all() and gradient.any() == stock_gradients[name].any()


@pytest.mark.parametrize("stock_name", [*BLOCKS, "CFKG", "RippleNet"])
def test_checkpointing_changes_no_gradient(tiny, stock_name):
    (case,) = (case for case in CASES if case.name == f"Tiny{stock_name}")
    case = SmallCase("small", case.twin, tiny, dataset="tiny", phases=case.phases)
    experiment = Models(case, {"gpu_id": ""}).of(VARIANTS["stock"])
    for state, name in case.phases.values():
        if hasattr(experiment.model, name):
            batch = batch_of(experiment, state)
            stock, checkpointed = (
                step(experiment.model, VARIANTS[key], batch, name)[1]
                for key in ("stock", "checkpoint")
            )
            torch.testing.assert_close(checkpointed, stock, rtol=1e-4, atol=1e-6)


def test_a_variant_leaves_the_model_as_it_was(kgat):
    model = Models(kgat, {"gpu_id": ""}).of(VARIANTS["stock"]).model
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    for variant in VARIANTS.values():
        with variant.applied(model):
            pass
    assert before == {name: set(vars(module)) for name, module in model.named_modules()}


def test_stock_variants_share_a_model_and_bits_do_not(kgat):
    models = Models(kgat, {"gpu_id": ""})
    of = {key: models.of(variant).model for key, variant in VARIANTS.items()}
    assert of["checkpoint"] is of["bf16"] is of["stock"]
    assert of["tiny2"] is not of["tiny8"]
    assert [of[f"tiny{bits}"].quantizer.bits for bits in (32, 8, 1)] == [32, 8, 1]


def test_offload_needs_a_gpu_and_anomaly_detection_must_be_asked_for():
    assert "offload" not in [variant.key for variant in choose_variants(DEFAULT, CPU)]
    assert "offload" in [variant.key for variant in choose_variants(DEFAULT, torch.device("cuda"))]
    assert "anomaly" not in DEFAULT
    assert [variant.key for variant in choose_variants(["tiny2"], CPU)] == ["stock", "tiny2"]


@pytest.mark.parametrize(
    "choose", [lambda: choose_variants(["int2"], CPU), lambda: cases_of("KGAT")]
)
def test_an_unknown_name_is_told_with_those_that_exist(choose):
    with pytest.raises(SystemExit, match="must be of .*; got"):
        choose()


def cases_of(name):
    from benchmarks.suite.cases import select_cases

    return select_cases([name])


def test_what_a_stock_model_cannot_take_is_a_row_that_says_why(kgat, monkeypatch):
    def fails(model):
        raise RuntimeError("no kernel for bf16\nand more")

    variants = [VARIANTS["stock"], VARIANTS["bf16"]]
    monkeypatch.setattr(type(Models(kgat, {"gpu_id": ""}).of(variants[0]).model), "forward", fails)
    for measure in (measure_memory, measure_time):
        measured = measure(kgat, variants, {"gpu_id": ""})
        assert measured["errors"] == dict.fromkeys(
            ("stock", "bf16"), "RuntimeError: no kernel for bf16"
        )
    result = synthetic()
    result.memory["errors"] = result.time["errors"] = {"bf16": "RuntimeError: no | kernel"}
    result.time["seconds"].pop("bf16", None)
    assert tables.memory_table(result).count(r"fails: RuntimeError: no \| kernel") == 1


def test_memory_and_time_of_a_case_make_tables_and_charts(kgat, tmp_path):
    variants = choose_variants(["checkpoint", "tiny2"], CPU)
    about = {"stock": "KGAT", "twin": "TinyKGAT", "dataset": "tiny", "note": ""}
    about["request"] = {"settings": {}, "variants": [v.key for v in variants], "rounds": 2}
    about["where"] = suite.where(argparse.Namespace(gpu_id=""))
    for part, measure in (("memory", measure_memory), ("time", measure_time)):
        measured = measure(kgat, variants, {"gpu_id": ""})
        suite.write_whole(tmp_path / f"small.{part}.json", {**about, **measured})
    results = comparison.load(tmp_path)
    rows = {(row["variant"], row["phase"]): row for row in results["small"].memory["rows"]}
    assert rows["tiny2", "rs"]["saved"] < rows["checkpoint", "rs"]["saved"]
    assert rows["checkpoint", "rs"]["saved"] < rows["stock", "rs"]["saved"]
    assert all(row["step_peak"] >= row["peak"] > 0 for row in rows.values())
    assert all(len(rounds) == 2 for rounds in results["small"].time["seconds"].values())
    page = tables.page(results)
    assert "KGAT + checkpointing" in page and "TinyKGAT, 2 bits" in page
    charts.draw(results, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"memory.png", "memory_time.png"}


# Tables of made-up numbers.


def synthetic(**changes) -> Result:
    """Stock, bf16 and the twin; changes: bytes or rounds of bf16."""
    saved, peak = {"stock": 100, "bf16": 60, "tiny2": 10}, {"stock": 200, "bf16": 150, "tiny2": 50}
    epochs = {"stock": [4.0, 4.4], "bf16": [3.0, 3.0], "tiny2": [1.0, 1.1], "tiny32": [1.0, 1.0]}
    saved["bf16"] = changes.get("saved", saved["bf16"])
    epochs["bf16"] = changes.get("epoch", epochs["bf16"])
    resident = {"parameter_bytes": 10, "graph_bytes": 5, "optimizer_bytes": 20}
    rows = [
        {"variant": v, "phase": "rs", "saved": saved[v], "peak": peak[v], "step_peak": peak[v]}
        for v in saved
    ]
    about = {"stock": "KGAT", "twin": "TinyKGAT", "dataset": "none", "note": ""}
    about["request"] = {"settings": {}, "variants": list(epochs), "rounds": 2}
    memory = {"rows": rows, "resident": dict.fromkeys(saved, resident), "errors": {}}
    seconds = {v: [{"rs": s, "step_rs": s / 10, "epoch": s} for s in epochs[v]] for v in epochs}
    time = {"seconds": seconds, "steps": {"rs": [2, 39]}, "errors": {}}
    return Result("TinyKGAT", {**about, **memory}, {**about, **time})


IS_STOCK = {key: variant.is_stock for key, variant in VARIANTS.items()}


def test_no_row_is_better_where_none_is():
    assert better_rows(synthetic(), IS_STOCK) == []
    assert tables.verdict(synthetic()) == "Rows better than TinyKGAT INT2: none."


def test_a_better_row_is_named_with_its_quantity_and_ratio():
    assert better_rows(synthetic(saved=5), IS_STOCK) == [
        "bf16 in bytes kept, RS: 0.500 of the twin's"
    ]
    found = tables.verdict(synthetic(epoch=[0.5, 1.1]))
    assert "KGAT + bf16 autocast in seconds of an epoch: 0.750 (0.500 to 1.000)" in found


def test_a_tie_is_not_better_and_twins_are_not_compared():
    assert better_rows(synthetic(saved=10), IS_STOCK) == []
    assert "tiny32" not in " ".join(better_rows(synthetic(), IS_STOCK))


def test_ratios_are_paired_by_round():
    ratio = synthetic().ratio("epoch", "tiny2", "stock")
    assert (ratio.low, ratio.high) == pytest.approx((0.25, 0.25))


def test_bars_say_what_holds():
    table = tables.bars_table({"TinyKGAT": synthetic()})
    epoch, peak, itself = table.splitlines()[2:]
    assert "| 0.25 | 0.250 | yes |" in epoch.replace(" (0.250 to 0.250)", "")
    assert "| 1 | 0.250 | yes |" in peak
    assert "| 1.1 | 1.050 (1.000 to 1.100) | yes |" in itself
    assert "**no**" in tables.bars_table({"TinyKGIN": Result("TinyKGIN", {}, slow().time)})


def slow() -> Result:
    result = synthetic()
    result.time["seconds"]["tiny2"] = [{"epoch": 9.0}, {"epoch": 9.0}]
    return result


def test_a_cut_epoch_is_said_to_be_one():
    assert "2 of 39 batches of RS, scaled to all" in tables.time_note(synthetic())


def test_accuracy_is_the_mean_over_the_seeds_that_all_have(tmp_path):
    lines = [("stock", 1, 0.2), ("stock", 2, 0.4), ("2", 1, 0.3), ("scored", 1, 0.9)]
    (tmp_path / "accuracy_TinyX_ml-100k_lr0.005.jsonl").write_text(
        "\n".join(
            json.dumps({"variant": v, "seed": s, "test": {"recall@10": r}}) for v, s, r in lines
        )
    )
    assert comparison.accuracy("TinyX", "ml-100k", tmp_path) == {
        "stock": (0.2, 1),
        "tiny2": (0.3, 1),
    }


# What is measured again, and what is not.

ASKED = {"settings": {}, "variants": ["stock", "tiny2"], "device": "cpu", "threads": None}


def test_a_whole_file_with_the_variants_asked_for_is_done(tmp_path):
    path = tmp_path / "TinyKGAT.memory.json"
    assert not suite.is_done(path, ASKED)
    suite.write_whole(path, {"request": {**ASKED, "variants": ["stock", "bf16", "tiny2"]}})
    assert suite.is_done(path, ASKED)
    assert not suite.is_done(path, {**ASKED, "variants": ["stock", "tiny8"]})
    assert not suite.is_done(path, {**ASKED, "settings": {"layers": [64]}})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "{", '{"request": {"var', "[]", '{"rows": []}', "null"])
def test_half_a_file_is_not_done_and_makes_no_table(tmp_path, text):
    path = tmp_path / "TinyKGAT.time.json"
    path.write_text(text)
    assert not suite.is_done(path, ASKED)
    assert comparison.load(tmp_path) == {}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "TinyKGAT.time.json"
    suite.write_whole(path, {"request": ASKED})
    with pytest.raises(TypeError):
        suite.write_whole(path, {"request": CPU})
    assert suite.is_done(path, ASKED)


def test_every_twin_has_a_case_and_names_are_unique():
    from recbole_tinykg.model import MODELS

    assert {case.twin for case in CASES} == set(MODELS)
    assert len({case.name for case in CASES}) == len(CASES)
