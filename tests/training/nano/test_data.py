"""A step seed is a batch: repeatable, consistent with its scenes, of one frame size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from training.nano.config import NanoConfig, load_config
from training.nano.data import make_batch, patchify
from training.nano.prompts import tokenizer

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"


@pytest.fixture(scope="module")
def config() -> NanoConfig:
    return load_config(CONFIG)


def test_a_step_seed_gives_the_same_batch(config: NanoConfig) -> None:
    first, second = (make_batch(config, config.stages[1], 42, 4, 0.5) for _ in range(2))
    assert torch.equal(first.patches, second.patches)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first.groups, second.groups, strict=True))


def test_every_visible_object_owns_a_token(config: NanoConfig) -> None:
    batch = make_batch(config, config.stages[0], 7, 6, 0.0)
    assert batch.patches.shape == (16, batch.grid_hw[0] * batch.grid_hw[1], 768)
    owned = [set(row[row >= 0].tolist()) for row in batch.dense.token_owner]
    assert sum(map(len, owned)) >= 16
    for image, owners in enumerate(owned):
        for owner in owners:
            x1, y1, x2, y2 = batch.dense.amodal[image, owner].tolist()
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def test_only_completions_are_supervised(config: NanoConfig) -> None:
    batch = make_batch(config, config.stages[1], 9, 3, 0.0)
    for group in batch.groups:
        assert not (group.coordinate & ~group.supervised).any()
        for ids, flags in zip(group.ids, group.supervised, strict=True):
            text = tokenizer().decode(ids[1:][flags[:-1]].tolist(), skip_special_tokens=False)
            assert text.endswith("<|im_end|>") and "</think>" in text and "Locate" not in text


def test_all_frame_sizes_occur(config: NanoConfig) -> None:
    small = dataclasses.replace(config.stages[0], images=1)
    grids = {make_batch(config, small, seed, 2, 0.0).grid_hw for seed in range(60)}
    assert grids == {(12, 16), (10, 18), (12, 12)}


def test_patchify_is_channel_major_in_merge_blocks() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:32, 0:16, 2] = 255
    patches = patchify(image)
    assert patches.shape == (16, 768)
    assert patches[2, 512:].min() == 1.0 and patches[2, :512].max() == -1.0
    assert np.delete(patches, 2, 0).max() == -1.0
