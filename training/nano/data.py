"""Batches: seeds become patches, dense vision targets and query rows. Knows nothing of losses or optimisers.

Notation: B images, N patches, M image tokens, K objects (at most MOST_OBJECTS), R rows, T tokens of the longest row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egm_edge.pixels import SMART_RESIZE, PixelSpec, normalise, preprocess
from egm_edge.synthetic import Layout, Query, Scene, layout, queries, render, sample_scene
from egm_edge.synthetic.household import render_household, sample_household
from egm_edge.synthetic.query import World
from egm_edge.synthetic.vocabulary import ALL_COLOURS, NOUNS, SIZE_RANK
from training.nano.augment import augmented
from training.nano.build import MERGE, PIXELS, TEMPORAL
from training.nano.build import PATCH as P
from training.nano.config import MOST_OBJECTS, TrainingPlan, TrainingStage
from training.nano.prompts import PromptRow, list_row, query_row

# A camera frame is resized to about PIXELS; a training picture is drawn at its final size and stays as it is.
CAMERA = PixelSpec(
    rule=SMART_RESIZE,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    patch_size=P,
    merge_size=MERGE,
    temporal_patch_size=TEMPORAL,
    min_pixels=PIXELS,
    max_pixels=PIXELS,
)
AS_DRAWN = replace(CAMERA, min_pixels=(2 * P) ** 2)
_SCENES_PER_STEP = 64
_SOLID_SHARE = 0.75
NOUN_INDEX = {name: i for i, name in enumerate(NOUNS)}
COLOUR_INDEX = {name: i for i, name in enumerate(ALL_COLOURS)} | {"": -1}


@dataclass(frozen=True, slots=True)
class Dense:
    """Per-patch and per-token truth of a batch.

    Attributes:
        patch_owner: [B, N] int64, object index seen in the patch's majority, -1 for the table.
        token_owner: [B, M] int64, likewise per image token (every visible object owns at least one).
        shape, colour, size: [B, K] int64 per object; colour -1 where no single word fits.
        modal, amodal: [B, K, 4] float32 boxes, 0-1 of width and height.
    """

    patch_owner: Tensor
    token_owner: Tensor
    shape: Tensor
    colour: Tensor
    size: Tensor
    modal: Tensor
    amodal: Tensor

    def to(self, device: torch.device) -> Dense:
        return Dense(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Rows:
    """Query rows, sorted by length.

    Attributes:
        ids: [R, T] int64, right-padded with 0.
        image: [R] int64.
        supervised: [R, T] bool, positions whose *next* token is part of the completion.
        coordinate: [R, T] bool, positions whose next token is a box coordinate.
    """

    ids: Tensor
    image: Tensor
    supervised: Tensor
    coordinate: Tensor

    def to(self, device: torch.device) -> Rows:
        return Rows(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Batch:
    """patches [B, N, 768] float32 -1..1, all of one grid; `groups` hold the rows in chunks of like length."""

    patches: Tensor
    grid_hw: tuple[int, int]
    dense: Dense
    groups: tuple[Rows, ...]

    def to(self, device: torch.device) -> Batch:
        groups = tuple(group.to(device) for group in self.groups)
        return Batch(self.patches.to(device), self.grid_hw, self.dense.to(device), groups)


@dataclass(frozen=True, slots=True)
class Questions:
    """Prompts without answers, for learning from one's own.

    Attributes:
        patches: [B, N, 768] float32 -1..1, all of one grid.
        grid_hw: patch rows and columns.
        image: image of every question.
        queries: what is asked and what is right.
        reasoning: per question, whether the thought is left open.
    """

    patches: Tensor
    grid_hw: tuple[int, int]
    image: list[int]
    queries: list[Query]
    reasoning: list[bool]

    def to(self, device: torch.device) -> Questions:
        return replace(self, patches=self.patches.to(device))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The pictures of a step, B of one size."""

    patches: Tensor
    grid_hw: tuple[int, int]
    scenes: list[World]
    layouts: list[Layout]


def patchify(image: NDArray[np.uint8], spec: PixelSpec = AS_DRAWN) -> NDArray[np.float32]:
    """[H, W, 3] uint8 -> [N, 768] float32 in -1..1: the robot's own pixel path, temporal half left out."""
    return normalise(preprocess(image, spec), spec, duplicate_temporal=False)


def picture(scene: Scene, width_px: int, height_px: int, oversample: float) -> tuple[NDArray[np.uint8], Layout]:
    """Render at model resolution, or larger and shrunk as a camera frame would be."""
    if oversample <= 1.0:
        drawn = render(scene, width_px, height_px)
        return drawn.image, drawn.layout
    large = render(scene, round(width_px * oversample), round(height_px * oversample))
    small = cv2.resize(large.image, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False), layout(scene, width_px, height_px)


def make_batch(plan: TrainingPlan, stage: TrainingStage, most_objects: int, step_seed: int, progress: float) -> Batch:
    """The batch of a step: the same step seed gives the same batch.

    Args:
        most_objects: upper end of the object count (the curriculum's).
        progress: share of the stage done, 0-1, for what changes along the way.
    """
    rng = random.Random(step_seed)
    drawn = _draw(plan, stage, step_seed, most_objects, rng)
    rows: list[tuple[int, PromptRow]] = []
    share = stage.list_share[0] + (stage.list_share[1] - stage.list_share[0]) * progress
    if stage.queries:
        for index, (scene, where) in enumerate(zip(drawn.scenes, drawn.layouts, strict=True)):
            rows += [(index, row) for row in _rows_of(stage, scene, where, rng, share)]
    groups = tuple(collate(part) for part in halves_by_length(rows))
    return Batch(drawn.patches, drawn.grid_hw, _dense(drawn.scenes, drawn.layouts), groups)


def make_questions(
    plan: TrainingPlan, stage: TrainingStage, most_objects: int, step_seed: int, _progress: float = 0.0
) -> Questions:
    """The questions of a GRPO step: the same step seed gives the same questions."""
    rng = random.Random(step_seed)
    drawn = _draw(plan, stage, step_seed, most_objects, rng)
    image, asked, reasoning = [], [], []
    for index, (scene, where) in enumerate(zip(drawn.scenes, drawn.layouts, strict=True)):
        for query in _asked(stage, scene, where, rng, stage.queries):
            image.append(index)
            asked.append(query)
            reasoning.append(rng.random() >= stage.direct_share)
    return Questions(drawn.patches, drawn.grid_hw, image, asked, reasoning)


def _draw(plan: TrainingPlan, stage: TrainingStage, step_seed: int, most_objects: int, rng: random.Random) -> _Drawn:
    width_px, height_px = _frame(plan, rng)
    pictures: list[NDArray[np.float32]] = []
    layouts: list[Layout] = []
    scenes: list[World] = []
    low = min(stage.objects[0], most_objects)
    for index in range(stage.images):
        seed = step_seed * _SCENES_PER_STEP + index
        scene: World
        world = rng.random()
        if world < stage.household + stage.solid:
            indoors = sample_household(
                seed, (low, most_objects), aspect=width_px / height_px, occlusion=stage.occlusion,
                solid=0.0 if world < stage.household else _SOLID_SHARE,
            )  # fmt: skip
            scene, shot = indoors, render_household(indoors, width_px, height_px)
            image, where = shot.image, shot.layout
        else:
            drawn = sample_scene(seed, (low, most_objects), aspect=width_px / height_px, occlusion=stage.occlusion)
            oversample = 1.0 if rng.random() < 0.75 else 1.0 + rng.random()
            scene, (image, where) = drawn, picture(drawn, width_px, height_px, oversample)
        if rng.random() < stage.augment:
            image, where = augmented(image, where, rng, drawn=isinstance(scene, Scene))
        scenes.append(scene)
        layouts.append(where)
        pictures.append(patchify(image))
    return _Drawn(torch.from_numpy(np.stack(pictures)), (height_px // P, width_px // P), scenes, layouts)


def halves_by_length(rows: list[tuple[int, PromptRow]]) -> list[list[tuple[int, PromptRow]]]:
    """Rows in two parts, short and long, so that little is padded."""
    rows = sorted(rows, key=lambda item: len(item[1].ids))
    middle = len(rows) // 2
    return [part for part in (rows[:middle], rows[middle:]) if part]


def _frame(plan: TrainingPlan, rng: random.Random) -> tuple[int, int]:
    """A frame size, as often as the configuration says."""
    roll = rng.random() * sum(plan.frames.values())
    chosen = ""
    for name, weight in plan.frames.items():
        chosen = name
        if roll < weight:
            break
        roll -= weight
    width, height = chosen.split("x")
    return int(width), int(height)


def _asked(stage: TrainingStage, scene: World, where: Layout, rng: random.Random, count: int) -> list[Query]:
    return queries(
        scene, rng, where=where, count=count, weights=stage.kinds, amodal=stage.amodal_share, variety=stage.variety
    )


def _rows_of(stage: TrainingStage, scene: World, where: Layout, rng: random.Random, share: float) -> list[PromptRow]:
    rows = [list_row(scene, where)] if rng.random() < share else []
    asked = _asked(stage, scene, where, rng, stage.queries - len(rows))
    return rows + [query_row(query, reasoning=rng.random() >= stage.direct_share) for query in asked]


def collate(rows: list[tuple[int, PromptRow]]) -> Rows:
    """Pad (image, row) pairs to one length."""
    longest = max(len(row.ids) for _, row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    supervised = np.zeros((len(rows), longest), bool)
    coordinate = np.zeros((len(rows), longest), bool)
    for i, (_, row) in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = row.ids
        supervised[i, row.prompt_length - 1 : length - 1] = True
        coordinate[i, : length - 1] = row.coordinate[1:]
    image = torch.tensor([index for index, _ in rows])
    return Rows(torch.from_numpy(ids), image, torch.from_numpy(supervised), torch.from_numpy(coordinate))


def _dense(scenes: Sequence[World], layouts: list[Layout]) -> Dense:
    count = len(scenes)
    words = np.zeros((3, count, MOST_OBJECTS), np.int64)
    modal, amodal = np.zeros((2, count, MOST_OBJECTS, 4), np.float32)
    patch_owner, token_owner = [], []
    for i, (scene, where) in enumerate(zip(scenes, layouts, strict=True)):
        size_wh = np.array([*where.wh, *where.wh], np.float32)
        for k, thing in enumerate(scene.objects):
            words[:, i, k] = NOUN_INDEX[thing.shape], COLOUR_INDEX[thing.colour], SIZE_RANK[thing.size]
            amodal[i, k] = where.amodal[k].xyxy / size_wh
            modal[i, k] = (where.modal[k] or where.amodal[k]).xyxy / size_wh
        patches, tokens = _owners(where, len(scene.objects))
        patch_owner.append(patches)
        token_owner.append(tokens)
    as_tensor = torch.from_numpy
    return Dense(
        as_tensor(np.stack(patch_owner)), as_tensor(np.stack(token_owner)),
        as_tensor(words[0]), as_tensor(words[1]), as_tensor(words[2]), as_tensor(modal), as_tensor(amodal),
    )  # fmt: skip


def _owners(where: Layout, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Majority owner per patch and per token, merge-block order, -1 for the table."""
    width_px, height_px = where.wh
    rows, cols = height_px // (2 * P), width_px // (2 * P)
    blocks = where.owner.reshape(rows, 2, P, cols, 2, P).transpose(0, 3, 1, 4, 2, 5).reshape(rows * cols, 4, P * P)
    cover = np.stack([(blocks == k + 1).mean(-1) for k in range(count)], -1)
    best = cover.argmax(-1)
    patches = np.where(cover.max(-1) > 0.25, best, -1).reshape(-1)
    cover = cover.mean(1)
    tokens = np.where(cover.max(-1) > 0.12, cover.argmax(-1), -1)
    for k in range(count):
        if where.visible[k] > 0.2:
            tokens[cover[:, k].argmax()] = k
    return patches.astype(np.int64), tokens.astype(np.int64)
