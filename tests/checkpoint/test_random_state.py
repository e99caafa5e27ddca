"""Random numbers drawn in a block, or after a checkpoint, do not change those that follow."""

from __future__ import annotations

import random

import numpy as np
import torch

from recbole_tinykg.checkpoint import checkpoint, random_state
from recbole_tinykg.quick_start import prepare

DRAWS = (random.random, np.random.rand, np.random.randn, lambda: torch.rand(1).item())


def test_drawing_inside_the_block_does_not_show_after_it():
    with random_state.preserved():
        first = [draw() for draw in DRAWS]
    assert [draw() for draw in DRAWS] == first


def test_loaders_draw_the_same_batches_after_the_block(tiny):
    loader = prepare("KGAT", "tiny", config_dict=tiny).train_data
    generators = random_state.generators(train=loader)
    before = {name: generator.get_state() for name, generator in generators.items()}
    with random_state.preserved(loader, None):
        for generator in generators.values():
            torch.rand(1, generator=generator)
    for name, generator in generators.items():
        assert torch.equal(generator.get_state(), before[name]), name


def test_state_comes_back_through_a_file(tmp_path):
    np.random.randn()  # leaves the second of a pair behind, which belongs to the state
    checkpoint.save(tmp_path / "state.pth", {"random_state": random_state.capture()})
    first = [draw() for draw in DRAWS]
    random_state.restore(checkpoint.load(tmp_path / "state.pth")["random_state"])
    assert [draw() for draw in DRAWS] == first


def test_every_loader_of_a_knowledge_model_has_its_generator(tiny):
    experiment = prepare("KGAT", "tiny", config_dict=tiny)
    found = random_state.generators(train=experiment.train_data, valid=experiment.valid_data)
    assert list(found) == ["train.general_dataloader", "train.kg_dataloader", "valid"]
    assert found["train.kg_dataloader"] is experiment.train_data.kg_dataloader.generator


def test_missing_loader_has_no_generator():
    assert random_state.generators(train=None) == {}
