"""A step seed is a batch: repeatable, consistent with its scenes, of one frame size."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from egm_edge.grounding import Task
from egm_edge.synthetic import layout, queries, sample_scene
from training.nano.config import TrainingPlan, load_plan
from training.nano.data import make_batch, make_questions, patchify
from training.nano.prompts import tokenizer

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"


@pytest.fixture(scope="module")
def plan() -> TrainingPlan:
    return load_plan(CONFIG)


def test_a_step_seed_gives_the_same_batch(plan: TrainingPlan) -> None:
    first, second = (make_batch(plan, plan.runs[0].stages[1], 4, 42, 0.5) for _ in range(2))
    assert torch.equal(first.patches, second.patches)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first.groups, second.groups, strict=True))


def test_every_visible_object_owns_a_token(plan: TrainingPlan) -> None:
    batch = make_batch(plan, plan.runs[0].stages[0], 6, 7, 0.0)
    assert batch.patches.shape == (16, batch.grid_hw[0] * batch.grid_hw[1], 768)
    owned = [set(row[row >= 0].tolist()) for row in batch.dense.token_owner]
    assert sum(map(len, owned)) >= 16
    for image, owners in enumerate(owned):
        for owner in owners:
            x1, y1, x2, y2 = batch.dense.amodal[image, owner].tolist()
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def test_only_completions_are_supervised(plan: TrainingPlan) -> None:
    batch = make_batch(plan, plan.runs[0].stages[1], 3, 9, 0.0)
    for group in batch.groups:
        assert not (group.coordinate & ~group.supervised).any()
        for ids, flags in zip(group.ids, group.supervised, strict=True):
            text = tokenizer().decode(ids[1:][flags[:-1]].tolist(), skip_special_tokens=False)
            assert text.endswith("<|im_end|>") and "</think>" in text and "Locate" not in text


def test_all_frame_sizes_occur(plan: TrainingPlan) -> None:
    small = dataclasses.replace(plan.runs[0].stages[0], images=1)
    grids = {make_batch(plan, small, 2, seed, 0.0).grid_hw for seed in range(60)}
    assert grids == {(12, 16), (10, 18), (12, 12)}


def test_patchify_is_channel_major_in_merge_blocks() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:32, 0:16, 2] = 255
    patches = patchify(image)
    assert patches.shape == (16, 768)
    assert patches[2, 512:].min() == 1.0 and patches[2, :512].max() == -1.0
    assert np.delete(patches, 2, 0).max() == -1.0


def test_a_step_seed_gives_the_same_questions(plan: TrainingPlan) -> None:
    stage = plan.run("grpo").stages[0]
    first, second = (make_questions(plan, stage, 6, 42) for _ in range(2))
    assert first.queries == second.queries and first.reasoning == second.reasoning
    assert torch.equal(first.patches, second.patches)
    assert len(first.queries) == len(first.image) == len(first.reasoning) > stage.images
    assert max(first.image) < len(first.patches)


def test_amodal_questions_in_training_are_mostly_about_hidden_things(plan: TrainingPlan) -> None:
    """Of the amodal queries that the arms train on, at least 40 % have a target that another object covers."""
    for name in ("reasoning", "direct", "grpo"):
        stage = plan.run(name).stages[0]
        hidden = asked = 0
        for seed in range(700):
            scene = sample_scene(seed, stage.objects, occlusion=stage.occlusion)
            where = layout(scene, 256, 192)
            rng = random.Random(seed)
            for query in queries(scene, rng, where=where, count=4, weights=stage.kinds, amodal=stage.amodal_share):
                if query.task is Task.AMODAL and query.target is not None:
                    asked += 1
                    hidden += where.visible[query.target] < 0.9
        assert asked > 400
        assert hidden / asked >= 0.4, f"{name}: {hidden} of {asked}"
