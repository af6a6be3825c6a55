"""Drawing: boxes land where they should, nothing else changes, and saving is all or nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.draw import PALETTE, draw_groundings, save_image
from egm_edge.errors import InputError
from egm_edge.grounding import Grounding, Outcome, Task


def grounding(box: Box | None, task: Task = Task.MODAL, expression: str = "the red mug", **values: object) -> Grounding:
    outcome = Outcome.FOUND if box else Outcome.NOT_FOUND
    return Grounding(outcome=outcome, expression=expression, task=task, image_wh=(640, 480), box=box, **values)  # type: ignore[arg-type]


@pytest.fixture
def frame() -> np.ndarray:
    return np.full((480, 640, 3), 200, np.uint8)


def test_the_box_is_drawn_on_a_copy(frame: np.ndarray) -> None:
    drawn = draw_groundings(frame, [grounding(Box(100, 200, 300, 400))])
    assert (frame == 200).all()
    for x, y in ((200, 200), (200, 400), (100, 300), (300, 300)):
        assert tuple(drawn[y, x]) == PALETTE[0]
    assert (drawn[210:390, 110:290] == 200).all()


def test_amodal_boxes_are_dashed(frame: np.ndarray) -> None:
    drawn = draw_groundings(frame, [grounding(Box(100, 200, 300, 400), Task.AMODAL)])
    edge = (drawn[400, 110:290] == PALETTE[0]).all(-1)
    assert 0.3 < edge.mean() < 0.9


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(Box(-200, -300, 100, 100), id="leaves at the top left"),
        pytest.param(Box(600, 400, 5000, 5000), id="leaves at the bottom right"),
        pytest.param(Box(-1e12, -1e12, 1e12, 1e12), id="very large"),
        pytest.param(Box(50, 50, 50, 50), id="empty"),
        pytest.param(Box(0, 0, 640, 480), id="the whole image"),
    ],
)
@pytest.mark.parametrize("task", list(Task))
def test_any_box_can_be_drawn(frame: np.ndarray, box: Box, task: Task) -> None:
    drawn = draw_groundings(frame, [grounding(box, task)])
    assert drawn.shape == frame.shape
    assert (drawn != frame).any()


@pytest.mark.parametrize("expression", ["", "左边的红色杯子", "x" * 2000, "two\nlines", "الكوب"])
def test_any_label_can_be_drawn(frame: np.ndarray, expression: str) -> None:
    drawn = draw_groundings(frame, [grounding(Box(600, 10, 630, 40), expression=expression)])
    assert (drawn == PALETTE[0]).all(-1).any()


def test_labels_of_the_same_box_do_not_cover_each_other(frame: np.ndarray) -> None:
    drawn = draw_groundings(frame, [grounding(Box(100, 200, 300, 400), expression=text) for text in ("a", "b", "c")])
    strips = [(drawn == colour).all(-1).sum() for colour in PALETTE[:2]]  # covered boxes: only their strips are left
    assert min(strips) > 200


def test_a_tiny_image_can_be_drawn_on() -> None:
    assert draw_groundings(np.zeros((1, 1, 3), np.uint8), [grounding(Box(0, 0, 1, 1))]).shape == (1, 1, 3)


def test_an_answer_without_a_box_is_written_out(frame: np.ndarray) -> None:
    drawn = draw_groundings(frame, [grounding(None), grounding(None)])
    assert (drawn[460:478, 4:60] == PALETTE[0]).all(-1).any()
    assert (drawn[430:455, 4:60] == PALETTE[1]).all(-1).any()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_saved_pictures_open_again(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[..., 0] = 255
    save_image(tmp_path / f"out{suffix}", image)
    read = cv2.imread(str(tmp_path / f"out{suffix}"))
    assert read.shape == (10, 20, 3)
    assert read[5, 5, 2] > 240  # red, as given, in OpenCV's BGR
    assert os.listdir(tmp_path) == [f"out{suffix}"]


@pytest.mark.parametrize(
    ("name", "found"), [("out.gif", "out.gif"), ("out", "out"), ("missing/out.png", "nothing there")]
)
def test_unusable_paths_are_refused(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        save_image(tmp_path / name, np.zeros((2, 2, 3), np.uint8))


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match="too large"):
            save_image(tmp_path / "out.png", np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.png"]
