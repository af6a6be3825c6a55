"""Batches: seeds become patches, dense vision targets and query rows. Knows nothing of losses or optimisers.

Notation: B images, N patches, M image tokens, K objects (at most 8), R rows, T tokens of the longest row.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egm_edge.pixels import SMART_RESIZE, PixelSpec, normalise, preprocess
from training.nano.config import NanoConfig, Stage
from training.nano.prompts import Row, list_row, query_row
from training.scenes import Layout, Scene, layout, queries, render, sample_scene
from training.scenes.vocabulary import COLOURS, SHAPES, SIZE_RANK

P = 16
MODEL_PIXELS = 49_152  # 256 x 192; a 640x480 frame shrinks to exactly that
# A camera frame is resized to about MODEL_PIXELS; a training picture is drawn at its final size and stays as it is.
CAMERA = PixelSpec(
    rule=SMART_RESIZE,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    patch_size=P,
    merge_size=2,
    temporal_patch_size=2,
    min_pixels=MODEL_PIXELS,
    max_pixels=MODEL_PIXELS,
)
AS_DRAWN = replace(CAMERA, min_pixels=(2 * P) ** 2)
COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}


@dataclass(frozen=True, slots=True)
class Dense:
    """Per-patch and per-token truth of a batch.

    Attributes:
        patch_owner: [B, N] int64, object index seen in the patch's majority, -1 for the table.
        token_owner: [B, M] int64, likewise per image token (every visible object owns at least one).
        shape, colour, size: [B, 8] int64 per object.
        modal, amodal: [B, 8, 4] float32 boxes, 0-1 of width and height.
    """

    patch_owner: Tensor
    token_owner: Tensor
    shape: Tensor
    colour: Tensor
    size: Tensor
    modal: Tensor
    amodal: Tensor


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


@dataclass(frozen=True, slots=True)
class Batch:
    """patches [B, N, 768] float32 -1..1, all of one grid; `groups` hold the rows in chunks of like length."""

    patches: Tensor
    grid_hw: tuple[int, int]
    dense: Dense
    groups: tuple[Rows, ...]


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


def make_batch(config: NanoConfig, stage: Stage, step_seed: int, most_objects: int, progress: float) -> Batch:
    """The batch of a step: the same step seed gives the same batch.

    Args:
        most_objects: upper end of the object count (the curriculum's).
        progress: share of the stage done, 0-1, for what changes along the way.
    """
    rng = random.Random(step_seed)
    width_px, height_px = _frame(config, rng)
    pictures, layouts, scenes, rows = [], [], [], []
    share = stage.list_share[0] + (stage.list_share[1] - stage.list_share[0]) * progress
    for index in range(stage.images):
        low = min(stage.objects[0], most_objects)
        scene = sample_scene(
            step_seed * 64 + index, (low, most_objects), aspect=width_px / height_px, occlusion=stage.occlusion
        )
        image, where = picture(scene, width_px, height_px, 1.0 if rng.random() < 0.75 else 1.0 + rng.random())
        scenes.append(scene)
        layouts.append(where)
        pictures.append(patchify(image))
        if stage.queries:
            rows += [(index, row) for row in _rows_of(config, stage, scene, where, rng, share)]
    patches = torch.from_numpy(np.stack(pictures))
    rows.sort(key=lambda item: len(item[1].ids))
    middle = len(rows) // 2
    groups = tuple(_collate(part) for part in (rows[:middle], rows[middle:]) if part)
    return Batch(patches, (height_px // P, width_px // P), _dense(scenes, layouts), groups)


def _frame(config: NanoConfig, rng: random.Random) -> tuple[int, int]:
    """A frame size, as often as the configuration says."""
    roll = rng.random() * sum(config.frames.values())
    chosen = ""
    for name, weight in config.frames.items():
        chosen = name
        if roll < weight:
            break
        roll -= weight
    width, height = chosen.split("x")
    return int(width), int(height)


def _rows_of(
    config: NanoConfig, stage: Stage, scene: Scene, where: Layout, rng: random.Random, share: float
) -> list[Row]:
    rows = [list_row(scene, where)] if rng.random() < share else []
    asked = queries(
        scene, rng, where=where, count=stage.queries - len(rows), weights=stage.kinds, amodal=config.amodal_share
    )
    return rows + [query_row(query, reasoning=rng.random() >= config.direct_share) for query in asked]


def _collate(rows: list[tuple[int, Row]]) -> Rows:
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


def _dense(scenes: list[Scene], layouts: list[Layout]) -> Dense:
    count = len(scenes)
    words = np.zeros((3, count, 8), np.int64)
    modal, amodal = np.zeros((count, 8, 4), np.float32), np.zeros((count, 8, 4), np.float32)
    patch_owner, token_owner = [], []
    for i, (scene, where) in enumerate(zip(scenes, layouts, strict=True)):
        size_wh = np.array([*where.wh, *where.wh], np.float32)
        for k, thing in enumerate(scene.objects):
            words[:, i, k] = SHAPES.index(thing.shape), COLOUR_INDEX[thing.colour], SIZE_RANK[thing.size]
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
