"""A seed is a scene: the same everywhere, inside the frame, with the asked number of objects."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from egm_edge.errors import InputError
from egm_edge.synthetic import SceneObject, layout, render, sample_scene

GOLDEN_SHA256 = "2c5a139fe58e7890efa749117865fbeb668b520c1a3b0547dae44197cebc7f2c"


def test_a_seed_gives_the_same_scene_on_every_machine() -> None:
    scenes = repr([sample_scene(seed, (1, 6)) for seed in range(50)])
    assert hashlib.sha256(scenes.encode()).hexdigest() == GOLDEN_SHA256


def test_a_scene_gives_the_same_picture_twice() -> None:
    scene = sample_scene(7, (3, 6))
    assert np.array_equal(render(scene, 320, 240).image, render(sample_scene(7, (3, 6)), 320, 240).image)


def test_different_seeds_give_different_scenes() -> None:
    assert len({sample_scene(seed) for seed in range(200)}) == 200


@pytest.mark.parametrize("aspect", [4 / 3, 16 / 9, 1.0], ids=["4:3", "16:9", "square"])
def test_objects_lie_inside_the_frame(aspect: float) -> None:
    for seed in range(200):
        for thing in sample_scene(seed, (3, 6), aspect=aspect).objects:
            x1, y1, x2, y2 = thing.outline(aspect)
            assert 0 < x1 < x2 < 1 and 0 < y1 < y2 < 1


def test_the_object_count_is_respected() -> None:
    counts = {len(sample_scene(seed, (2, 4)).objects) for seed in range(300)}
    assert counts == {2, 3, 4}


def test_about_a_third_of_crowded_scenes_hide_something() -> None:
    hidden = sum(min(layout(sample_scene(seed, (3, 6)), 640, 480).visible) < 0.9 for seed in range(300))
    assert 60 <= hidden <= 150


def test_an_object_can_be_moved_for_a_camera_stream() -> None:
    scene = sample_scene(11, (2, 2))
    first = scene.objects[0]
    moved = dataclasses.replace(scene, objects=(dataclasses.replace(first, x=first.x + 0.05), *scene.objects[1:]))
    before, after = layout(scene, 640, 480).amodal[0], layout(moved, 640, 480).amodal[0]
    assert after.x1 - before.x1 == pytest.approx(32, abs=1)
    assert after.y1 == before.y1


def test_an_unknown_word_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="mug, ball, box"):
        SceneObject("kettle", "red", "small", 0.5, 0.5, 0.2)
