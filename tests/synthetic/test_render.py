"""Boxes are exact: against masks computed pixel by pixel from the outlines, and against the picture itself."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.synthetic import Scene, SceneObject, Surroundings, layout, render, sample_scene
from egm_edge.synthetic.shapes import PARTS
from egm_edge.synthetic.vocabulary import SHAPES


def brute_force_mask(thing: SceneObject, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """[H, W] by the even-odd rule at every pixel centre: no OpenCV, no rounding of corners."""
    side = thing.scale * math.sqrt(width_px * height_px)
    xs, ys = np.meshgrid(np.arange(width_px) + 0.5, np.arange(height_px) + 0.5)
    mask = np.zeros((height_px, width_px), bool)
    for part in PARTS[thing.shape]:
        flip = -1 if thing.mirrored else 1
        points = part.points * [flip * side, side] + [thing.x * width_px, thing.y * height_px]
        inside = np.zeros_like(mask)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
            if ay != by:
                inside ^= ((ay > ys) != (by > ys)) & (xs < (bx - ax) * (ys - ay) / (by - ay) + ax)
        mask = mask | inside if part.shade else mask & ~inside
    return mask


def bounds(mask: NDArray[np.bool_]) -> Box:
    ys, xs = np.nonzero(mask)
    return Box(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))


@pytest.mark.parametrize("seed", range(12))
def test_boxes_equal_brute_force_masks(seed: int) -> None:
    scene = sample_scene(seed, (3, 6), occlusion=1.0)
    where = layout(scene, 320, 240)
    masks = [brute_force_mask(thing, 320, 240) for thing in scene.objects]
    bottoms = [thing.outline(4 / 3)[3] for thing in scene.objects]
    for index, mask in enumerate(masks):
        visible = mask.copy()
        for other, front in enumerate(masks):
            if bottoms[other] > bottoms[index]:
                visible &= ~front
        # a tip narrower than a pixel may miss up to two rows of pixel centres
        assert where.amodal[index].xyxy == pytest.approx(bounds(mask).xyxy, abs=2.01)
        assert where.visible[index] == pytest.approx(visible.sum() / mask.sum(), abs=0.06)
        if visible.sum() > 30 and where.modal[index] is not None:
            assert where.modal[index].iou(bounds(visible)) > 0.85  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_picture_changes_inside_the_box_and_only_there(shape: str) -> None:
    plain = Surroundings(noise=0.0, shadow=0.0, texture=0.0)
    thing = SceneObject(shape, "blue", "large", 0.4, 0.5, 0.3)
    empty = render(Scene((), plain), 640, 480).image.astype(int)
    full = render(Scene((thing,), plain), 640, 480)
    changed = np.abs(full.image - empty).max(-1) > 12
    assert bounds(changed).xyxy == pytest.approx(full.layout.amodal[0].xyxy, abs=1.01)


def test_resolution_does_not_move_boxes() -> None:
    scene = sample_scene(3, (4, 4))
    small, large = layout(scene, 256, 192), layout(scene, 1280, 960)
    for a, b in zip(small.amodal, large.amodal, strict=True):
        assert a.to_norm1000(256, 192) == pytest.approx(b.to_norm1000(1280, 960), abs=8)


def test_layout_equals_that_of_the_picture() -> None:
    scene = sample_scene(5, (3, 6))
    drawn, alone = render(scene, 256, 192).layout, layout(scene, 256, 192)
    assert dataclasses.replace(drawn, owner=alone.owner) == alone
    assert np.array_equal(drawn.owner, alone.owner)


def test_a_hidden_object_keeps_its_amodal_box() -> None:
    behind = SceneObject("ball", "red", "small", 0.5, 0.4, 0.14)
    front = SceneObject("box", "blue", "large", 0.5, 0.45, 0.33)
    where = layout(Scene((behind, front), Surroundings()), 640, 480)
    assert where.modal[0] is None and where.visible[0] == 0.0
    assert where.amodal[0].area_px2 > 0


def test_scenes_per_second() -> None:
    """150 scenes a second of one core is the least that keeps data out of training's way."""
    start = time.process_time()
    for seed in range(60):
        render(sample_scene(seed, (3, 6)), 256, 192)
    rate = 60 / (time.process_time() - start)
    print(f"{rate:.0f} scenes/s (3-6 objects, 256x192, one core)")
    assert rate > 75, "half of the 150 that an idle core gives at least"
