"""Followers by name, what textured things need, and whose expression is to be asked again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_edge.tracking import Tracker, TrackerSettings, TrackState
from egm_edge.tracking.identity import Identity, Likeness
from egm_edge.tracking.opencv_follower import OpenCvFollower
from egm_edge.tracking.optical_flow import background_motion
from egm_edge.tracking.similarity import Similarity
from tests.tracking.drawings import PERIOD_NS, Shot, background, follow, rectangle, worst_iou

TEXTURE = cv2.resize(background("textured", (90, 90)), (70, 50))


def textured(count: int = 40, change: float = 0.0, camera: float = 0.0) -> list[Shot]:
    """A patch of texture on other texture, moving; `change` turns its brightness into another picture's by that share a
    frame, `camera` moves everything by so many pixels a frame."""
    wide = background("textured", (1200, 480))[:, ::-1]
    other = np.rot90(TEXTURE, 2).astype(np.float32)
    shots = []
    for index in range(count):
        pan = round(camera * index)
        image = wide[:, pan : pan + 640].copy()
        x, y = round(200 + 4 * index * (camera == 0)), round(150 + 2 * index)
        share = min(1.0, change * index)
        image[y : y + 50, x : x + 70] = ((1 - share) * TEXTURE + share * other).astype(np.uint8)
        shots.append(Shot(image, Box(x, y, x + 70, y + 50)))
    return shots


@pytest.mark.parametrize(
    "shots",
    [
        pytest.param(textured(), id="on a background like it"),
        pytest.param(textured(change=0.012), id="its look changes"),
        pytest.param(textured(camera=8), id="the camera turns"),
    ],
)
def test_textured_things_are_followed_and_known_to_be(shots: list[Shot]) -> None:
    assert worst_iou(shots) > 0.7
    assert min(tracked.quality for _, tracked in follow(shots)) > 0.5


def test_the_background_motion_of_a_turning_camera() -> None:
    first = cv2.cvtColor(background("textured", (320, 240)), cv2.COLOR_RGB2GRAY)
    wanted = cv2.getRotationMatrix2D((160, 120), 2.0, 1.0)
    wanted[:, 2] += (5, -3)
    turned = cv2.warpAffine(first, wanted, (320, 240))
    turned[60:140, 100:200] = 90  # something moves on its own
    motion = background_motion(first, turned)
    for x, y in ((20, 20), (300, 30), (40, 220), (290, 200)):
        seen = motion(complex(x, y))
        assert abs(seen - complex(*(wanted @ [x, y, 1]))) < 0.7


@pytest.mark.parametrize("noise_seed", [0, 1])
def test_a_box_of_two_pixels_neither_grows_nor_is_sure(noise_seed: int) -> None:
    random, tracker = np.random.default_rng(noise_seed), Tracker()
    still = background("textured", (640, 480))
    for index in range(40):
        image = np.clip(still + random.normal(0, 5, still.shape), 0, 255).astype(np.uint8)
        tracker.push(image, index * PERIOD_NS)
        if index == 0:
            tracker.start("t", Box(300, 200, 302, 202), 0)
    (tracked,) = tracker.boxes()
    assert tracked.box.x2 - tracked.box.x1 < 4
    assert tracked.quality < 0.6


def followed(shots: list[Shot], answered: range, tracker: Tracker) -> float:
    """IoU on the last frame; the model answers about each of those frames at once."""
    for index, shot in enumerate(shots):
        tracker.push(shot.image, index * PERIOD_NS)
        if index in answered:
            assert shot.box is not None
            tracker.start("t", shot.box, index * PERIOD_NS)
    (tracked,) = tracker.boxes()
    assert shots[-1].box is not None
    return tracked.box.iou(shots[-1].box)


def test_what_hides_half_of_it_in_one_answer_is_not_taken_for_it() -> None:
    """Three answers showed it before the one on which a leaf is in front of more than half of it. The leaf rests there."""
    leaf = cv2.resize(background("textured", (60, 60))[::-1], (50, 70)) // 4 + np.array((0, 130, 0), np.uint8)
    shots = textured(66)
    for shot in shots:
        shot.image[240:310, 380:430] = leaf
    assert followed(shots, range(0, 49, 16), Tracker()) > 0.6


def test_a_thing_that_was_stopped_is_not_remembered() -> None:
    shots, tracker, fresh = textured(8), Tracker(), Tracker()
    for index, shot in enumerate(shots[::-1]):
        tracker.push(shot.image, index * PERIOD_NS)
    tracker.start("t", Box(0, 0, 60, 60), 0)
    tracker.stop("t")
    fresh._started = tracker._started  # when in a period it learns
    assert followed(shots, range(1), tracker) == followed(shots, range(1), fresh)


def test_whose_expression_to_ask_again() -> None:
    """One object stays, one is gone for long, one vanishes now."""

    def others(image: np.ndarray, index: int) -> None:
        if index < 10:
            image[300:360, 300:380] = (40, 200, 40)
        if index < 29:
            image[100:160, 450:530] = (40, 40, 200)

    shots = rectangle(lambda index: (100, 200), 32, extra=others)
    tracker = Tracker()
    for index, shot in enumerate(shots):
        tracker.push(shot.image, index * PERIOD_NS)
        if index == 0:
            tracker.start("stays", Box(100, 200, 180, 260), 0)
            tracker.start("gone", Box(300, 300, 380, 360), 0)
            tracker.start("vanishes", Box(450, 100, 530, 160), 0)
            assert tracker.reground_order() == ()
    assert tracker.reground_order() == ("vanishes", "gone")
    assert set(tracker.reground_order(below=1.1)) == {"vanishes", "gone", "stays"}


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("boosting", (), "hybrid, csrt, kcf, vit, nano"),
        ("vit", (), "1 model files"),
        ("nano", ("a.onnx",), "2 model files"),
        ("vit", (str(Path(__file__)),), "ONNX files"),
        ("hybrid", ("a.onnx",), "no model file"),
    ],
)
def test_a_follower_that_cannot_be_is_refused_at_once(name: str, files: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tracker(TrackerSettings(follower=name, model_files=files))


@pytest.mark.parametrize("name", ["csrt", "kcf"])
def test_trackers_of_contrib(name: str) -> None:
    if not hasattr(cv2, f"Tracker{name.upper()}"):
        with pytest.raises(InputError, match="opencv-contrib"):
            Tracker(TrackerSettings(follower=name))
        return
    assert worst_iou(textured(15), Tracker(TrackerSettings(follower=name))) > 0.6


def test_a_tracker_of_opencv_is_a_follower() -> None:
    """MIL is in OpenCV's main modules: it stands for those that are not."""
    tracker = Tracker()
    tracker._make_follower = lambda *where: OpenCvFollower(*where, make=cv2.TrackerMIL.create)
    shots = textured(8)
    states = [tracked for _, tracked in follow(shots, tracker)]
    assert shots[-1].box is not None and states[-1].box.iou(shots[-1].box) > 0.6
    assert states[-1].state is TrackState.PROPAGATED and states[-1].quality > 0.5


def test_the_identity_where_nothing_moves() -> None:
    still = cv2.cvtColor(background("textured", (320, 240)), cv2.COLOR_RGB2GRAY)
    assert abs(background_motion(still, still)(100 + 100j) - (100 + 100j)) < 0.05
    assert background_motion(np.zeros_like(still), np.zeros_like(still)) == Similarity()


def test_what_takes_the_place_of_a_thing_is_not_taken_for_it() -> None:
    """Its place shows its surroundings from the 20th frame on, as if it had been lifted off the table."""
    wide = background("textured", (1200, 480))[:, ::-1]
    shots = textured(45)
    for shot in shots[20:]:
        assert shot.box is not None
        x1, y1, x2, y2 = (round(v) for v in shot.box.xyxy)
        shot.image[y1:y2, x1:x2] = wide[y1:y2, x1:x2]
    states = [tracked.state for _, tracked in follow(shots)]
    assert TrackState.LOST not in states[:20]
    assert set(states[26:]) == {TrackState.LOST}


def test_what_is_gone_on_the_frame_after_the_first_is_lost() -> None:
    """Nothing is known yet of what is usual for it; what takes its place must not become it."""
    noise = np.random.default_rng(7)
    shots = [textured(1)[0], *(Shot(noise.integers(0, 255, (480, 640, 3), np.uint8), None) for _ in range(20))]
    states = [tracked.state for _, tracked in follow(shots)]
    assert set(states[-10:]) == {TrackState.LOST}


def test_a_likeness_is_held_against_the_usual_one() -> None:
    identity = Identity()
    poor = Likeness.of(0.2, 0.4)
    nothing = Likeness(0.0, 0.0)
    assert identity.fall(Likeness.of(0.5, 0.6)) == nothing, "no usual one is known yet"
    assert identity.fall(Likeness.of(0.02, 0.0)).log_response == -1.5
    for _ in range(5):
        identity.remember(poor)
    assert identity.fall(poor) == identity.fall(Likeness.of(1.0, 1.0)) == nothing
    assert identity.fall(Likeness.of(0.05, 0.4)).log_response < -1
    assert identity.fall(Likeness.of(0.2, -0.4)).correlation < -0.7
