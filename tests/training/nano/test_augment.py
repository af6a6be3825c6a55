"""Accidents of camera and table: boxes follow the picture, objects stay what they are."""

from __future__ import annotations

import random

import numpy as np
import pytest

from egm_edge.synthetic import render, sample_scene
from training.nano import augment


@pytest.fixture
def shot() -> tuple[np.ndarray, object]:
    drawn = render(sample_scene(8, (4, 6), occlusion=1.0), 256, 192)
    return drawn.image, drawn.layout


def test_boxes_follow_the_shrunk_picture(shot: tuple) -> None:
    image, where = shot
    for seed in range(8):
        small, moved = augment.shrunk(image, where, random.Random(seed))
        assert small.shape == image.shape and small.dtype == np.uint8
        for index, box in enumerate(moved.modal):
            if box is None:
                continue
            seen = np.argwhere(moved.owner == index + 1)
            (y1, x1), (y2, x2) = seen.min(0), seen.max(0) + 1
            np.testing.assert_allclose(box.xyxy, (x1, y1, x2, y2), atol=3.5)  # a tip may fall between two pixels


def test_texture_goes_under_the_objects_and_shade_on_them(shot: tuple) -> None:
    image, where = shot
    table = where.owner == 0
    laid = augment.textured(image, where, random.Random(1))
    assert (laid[~table] == image[~table]).all() and (laid[table] != image[table]).mean() > 0.5
    lit = augment.shaded(image, where, random.Random(1))
    assert (lit[table] == image[table]).all() and (lit[~table] != image[~table]).mean() > 0.5


def test_a_camera_leaves_shape_and_type(shot: tuple) -> None:
    image, where = shot
    for seed in range(12):
        seen, _ = augment.augmented(image, where, random.Random(seed), drawn=True)
        assert seen.shape == image.shape and seen.dtype == np.uint8
