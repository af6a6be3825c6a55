"""What the tracker can follow, on drawings that have nothing to do with the tabletop it was tuned on."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.tracking import Tracker, TrackState
from tests.tracking.drawings import PERIOD_NS, follow, rectangle, worst_iou


def straight(index: int) -> tuple[float, float]:
    return 60 + 5 * index, 200 + 2 * index


def circle(index: int) -> tuple[float, float]:
    return 280 + 150 * math.cos(index / 8), 200 + 120 * math.sin(index / 8)


def zigzag(index: int) -> tuple[float, float]:
    leg, step = divmod(index, 10)
    return 100 + 12 * (step if leg % 2 == 0 else 10 - step), 120 + 5 * index


@pytest.mark.parametrize("path", [straight, circle, zigzag], ids=["straight", "circle", "sudden turns"])
@pytest.mark.parametrize("behind", ["plain", "gradient", "textured"])
def test_a_flat_rectangle(path, behind: str) -> None:
    assert worst_iou(rectangle(path, behind=behind)) > 0.8


@pytest.mark.parametrize("latency", [9, 30], ids=["0.3 s", "1 s"])
def test_an_answer_that_comes_late_is_carried_to_now(latency: int) -> None:
    shots = rectangle(straight)
    first, tracked = next(follow(shots, latency=latency))
    now = shots[first].box
    assert now is not None and shots[0].box is not None
    assert tracked.box.iou(now) > 0.9
    assert shots[0].box.iou(now) < 0.35
    assert tracked.state is TrackState.PROPAGATED
    assert (tracked.grounded_stamp_ns, tracked.stamp_ns) == (0, first * PERIOD_NS)


@pytest.mark.parametrize(
    "change",
    [
        {"noise": 15.0},
        {"blur": 3.0},
        {"colour": (120, 170, 110)},
        {"colour": (150, 108, 66)},
        {"size": (24, 18)},
        {"size": (300, 220)},
        {"size": (160, 14)},
        {"gain": lambda index: 0.55 if index % 20 >= 10 else 1.0},
        {"wh": (1280, 720)},
        {"wh": (320, 240), "size": (40, 30)},
    ],
    ids=[
        "strong noise", "strong blur", "pale", "as bright as the table", "small", "large", "thin", "light on and off",
        "1280x720", "320x240",
    ],
)  # fmt: skip
def test_hard_to_see(change: dict) -> None:
    assert worst_iou(rectangle(lambda index: (20 + 2 * index, 100 + index), **change)) > 0.7


def test_growing_and_turning() -> None:
    shots = []
    from tests.tracking.drawings import Shot, background

    for index in range(45):
        image = background("textured", (640, 480))
        scale, angle = 1 + 0.02 * index, 3.0 * index
        corners = cv2.boxPoints(((320.0, 240.0), (120 * scale, 60 * scale), angle))
        cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], (30, 60, 200))
        low, high = corners.min(0), corners.max(0)
        shots.append(Shot(image, Box(*map(float, (*low, *high)))))
    assert worst_iou(shots) > 0.75


def test_a_grey_camera() -> None:
    tracker, shots = Tracker(), rectangle(straight, 30)
    for index, shot in enumerate(shots):
        tracker.push(cv2.cvtColor(shot.image, cv2.COLOR_RGB2GRAY), index * PERIOD_NS, color="grey")
        if index == 10:
            assert shots[0].box is not None
            tracker.start("t", shots[0].box, 0)
    (tracked,) = tracker.boxes()
    assert shots[-1].box is not None
    assert tracked.box.iou(shots[-1].box) > 0.9


def test_it_stays_behind_when_something_passes_in_front() -> None:
    def passer(image: np.ndarray, index: int) -> None:
        x = 40 + 14 * index
        image[150:330, x : x + 70] = (40, 90, 200)

    shots = rectangle(lambda _index: (280.0, 200.0), 50, extra=passer)
    states = list(follow(shots))
    assert states[-1][1].box.iou(Box(280, 200, 360, 260)) > 0.9
    assert min(tracked.quality for _, tracked in states) < 0.6, "the quality says that it was hidden"


def test_it_is_found_again_after_it_was_behind_something() -> None:
    def wall(image: np.ndarray, _index: int) -> None:
        image[:, 280:400] = (90, 140, 90)

    shots = rectangle(lambda index: (120 + 6.0 * index, 200.0), 70, extra=wall)
    last = list(follow(shots))[-1][1]
    assert last.state is TrackState.PROPAGATED
    assert last.box.iou(Box(120 + 6 * 69, 200, 200 + 6 * 69, 260).clipped(640, 480)) > 0.7


def test_an_identical_neighbour_does_not_take_over() -> None:
    def twin(image: np.ndarray, _index: int) -> None:
        image[275:335, 300:380] = (200, 40, 40)

    assert worst_iou(rectangle(lambda index: (100 + 8.0 * index, 200.0), 50, extra=twin)) > 0.8


def test_leaving_the_frame_is_lost_and_the_neighbour_is_not_it() -> None:
    def other(image: np.ndarray, _index: int) -> None:
        image[350:410, 100:180] = (40, 40, 200)

    shots = rectangle(lambda index: (400 + 10.0 * index, 200.0), 60, extra=other)
    states = [tracked.state for _, tracked in follow(shots)]
    gone = next(index for index, shot in enumerate(shots) if shot.box is None)
    assert states[gone + 2] is TrackState.LOST
    assert set(states[gone + 2 :]) == {TrackState.LOST}


def test_coming_back_is_seen() -> None:
    def swing(index: int) -> tuple[float, float]:
        return (480 + 12.0 * index if index < 15 else 480 + 12.0 * (30 - index)), 200.0

    shots = rectangle(swing, 45)
    last = list(follow(shots))[-1][1]
    assert last.state is TrackState.PROPAGATED
    assert shots[-1].box is not None and last.box.iou(shots[-1].box) > 0.8


def test_something_that_vanishes_is_lost() -> None:
    def gone(image: np.ndarray, index: int) -> None:
        if index > 10:
            image[:] = (120, 118, 110)

    last = list(follow(rectangle(lambda _i: (280.0, 200.0), 45, extra=gone)))[-1][1]
    assert (last.state, last.quality) == (TrackState.LOST, 0.0)


def test_the_amodal_box_keeps_its_relation() -> None:
    tracker, shots = Tracker(), rectangle(straight, 30)
    for index, shot in enumerate(shots):
        tracker.push(shot.image, index * PERIOD_NS)
        if index == 5:
            assert shots[0].box is not None
            tracker.start("t", shots[0].box, 0, amodal_box=Box(40, 200, 140, 300))  # 20 to the left, 40 below
    (tracked,) = tracker.boxes()
    assert tracked.amodal_box is not None and shots[-1].box is not None
    true = shots[-1].box
    assert tracked.amodal_box.iou(Box(true.x1 - 20, true.y1, true.x2, true.y2 + 40)) > 0.9


def test_an_amodal_box_leaves_the_image_and_the_modal_one_does_not() -> None:
    tracker, shots = Tracker(), rectangle(lambda index: (500 + 2.0 * index, 200.0), 40)
    for index, shot in enumerate(shots):
        tracker.push(shot.image, index * PERIOD_NS)
        if index == 0:
            assert shot.box is not None
            tracker.start("t", shot.box, 0, amodal_box=Box(500, 200, 620, 260))
    (tracked,) = tracker.boxes()
    assert tracked.amodal_box is not None
    assert tracked.box.x2 <= 640
    assert tracked.amodal_box.x2 == pytest.approx(698, abs=4)


def test_a_box_without_any_structure_is_lost_not_guessed() -> None:
    tracker = Tracker()
    plain = np.full((480, 640, 3), 128, np.uint8)
    for index in range(3):
        tracker.push(plain, index * PERIOD_NS)
    assert tracker.start("t", Box(100, 100, 200, 200), 0).state is TrackState.LOST
