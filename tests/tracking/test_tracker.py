"""The tracker's promises to its caller: stamps, clocks, sizes, threads. What it can follow is in test_following.py."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_edge.tracking import Tracker, TrackerSettings, TrackState
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.track import Track
from tests.tracking.drawings import PERIOD_NS, Shot, rectangle

BOX = Box(60, 200, 140, 260)


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    return rectangle(lambda index: (60 + 4 * index, 200), 40)


def pushed(shots: list[Shot], count: int = 40, settings: TrackerSettings | None = None) -> Tracker:
    tracker = Tracker(settings)
    for index in range(count):
        tracker.push(shots[index].image, index * PERIOD_NS)
    return tracker


def test_the_answer_for_the_newest_frame_is_grounded(shots: list[Shot]) -> None:
    tracker = pushed(shots, 1)
    tracked = tracker.start("a", BOX, 0)
    assert (tracked.state, tracked.quality, tracked.box, tracked.age_ms) == (TrackState.GROUNDED, 1.0, BOX, 0.0)
    tracker.push(shots[1].image, PERIOD_NS)
    (tracked,) = tracker.boxes()
    assert tracked.state is TrackState.PROPAGATED
    assert tracked.age_ms == pytest.approx(33.3, abs=0.1)


@pytest.mark.parametrize(
    ("stamp_ns", "state"),
    [
        (5 * PERIOD_NS + 10_000_000, TrackState.PROPAGATED),
        (-200_000_000, TrackState.LOST),
        (10**15, TrackState.LOST),
    ],
    ids=["between two frames: the nearest", "older than the ring", "from another clock"],
)
def test_stamps_that_are_not_in_the_ring(shots: list[Shot], stamp_ns: int, state: TrackState) -> None:
    tracker = pushed(shots, 20)
    true = shots[5].box
    assert true is not None
    tracked = tracker.start("a", true, stamp_ns)
    assert tracked.state is state
    assert tracked.grounded_stamp_ns == stamp_ns
    if state is TrackState.LOST:
        assert (tracked.quality, tracked.box) == (0.0, true)


def test_what_fell_out_of_the_ring_is_lost(shots: list[Shot]) -> None:
    tracker = pushed(shots, 40, TrackerSettings(memory_s=0.5))
    assert tracker.start("old", BOX, 0).state is TrackState.LOST
    assert tracker.start("new", shots[30].box or BOX, 30 * PERIOD_NS).state is TrackState.PROPAGATED


def test_before_the_first_frame_everything_is_lost() -> None:
    tracker = Tracker()
    assert tracker.start("a", BOX, 0).state is TrackState.LOST
    assert [tracked.track_id for tracked in tracker.boxes()] == ["a"]


def test_a_clock_that_jumps_back_loses_all_and_goes_on(shots: list[Shot]) -> None:
    tracker = pushed(shots, 10)
    tracker.start("a", BOX, 0)
    tracker.push(shots[0].image, -(10**12))
    assert [tracked.state for tracked in tracker.boxes()] == [TrackState.LOST]
    tracker.push(shots[1].image, -(10**12) + PERIOD_NS)
    assert tracker.start("a", BOX, -(10**12)).state is TrackState.PROPAGATED


def test_late_and_repeated_frames_are_ignored(shots: list[Shot]) -> None:
    tracker = pushed(shots, 10)
    before = tracker.start("a", BOX, 0)
    tracker.push(shots[3].image, 9 * PERIOD_NS)
    tracker.push(shots[3].image, 8 * PERIOD_NS)
    assert tracker.boxes() == (before,)


def test_another_image_size_loses_all_and_goes_on(shots: list[Shot]) -> None:
    tracker = pushed(shots, 10)
    tracker.start("a", BOX, 0)
    tracker.push(np.ascontiguousarray(shots[10].image[::2, ::2]), 10 * PERIOD_NS)
    assert [tracked.state for tracked in tracker.boxes()] == [TrackState.LOST]
    half = Box(50, 100, 90, 130)
    assert tracker.start("a", half, 10 * PERIOD_NS).state is TrackState.GROUNDED


def test_several_tracks_are_separate_and_stop_one_by_one(shots: list[Shot]) -> None:
    tracker = pushed(shots, 5)
    for name in ("a", "b", "c"):
        tracker.start(name, BOX, 0)
    tracker.stop("b")
    tracker.stop("nobody")
    assert [tracked.track_id for tracked in tracker.boxes()] == ["a", "c"]
    tracker.clear()
    assert tracker.boxes() == ()


def test_many_tracks_take_turns_and_are_carried_between(shots: list[Shot], monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = [], Track._look

    def counted(self: Track, *given) -> None:
        looks.append(self.track_id)
        look(self, *given)

    tracker = pushed(shots, 12)
    for name in range(12):
        tracker.start(str(name), BOX, 0)
    monkeypatch.setattr(Track, "_look", counted)
    for index in range(12, 24):
        looks.clear()
        tracker.push(shots[index].image, index * PERIOD_NS)
        true = shots[index].box
        assert true is not None
        assert len(looks) == len(set(looks)) == 12 / 2
        assert min(tracked.box.iou(true) for tracked in tracker.boxes()) > 0.9
        assert {tracked.stamp_ns for tracked in tracker.boxes()} == {index * PERIOD_NS}


def test_a_new_answer_replaces_the_track(shots: list[Shot]) -> None:
    tracker = pushed(shots, 20)
    tracker.start("a", BOX, 0)
    tracker.start("a", shots[10].box or BOX, 10 * PERIOD_NS)
    (tracked,) = tracker.boxes()
    assert tracked.grounded_stamp_ns == 10 * PERIOD_NS


def test_the_same_frames_give_the_same_boxes(shots: list[Shot]) -> None:
    """Replayed at once or followed frame by frame: the path must not matter."""
    replayed = pushed(shots, 30).start("a", BOX, 0)
    tracker = pushed(shots, 1)
    tracker.start("a", BOX, 0)
    for index in range(1, 30):
        tracker.push(shots[index].image, index * PERIOD_NS)
    assert tracker.boxes() == (replayed,)


def test_the_pushed_image_may_be_overwritten(shots: list[Shot]) -> None:
    tracker = Tracker()
    buffer = np.empty((240, 320, 3), np.uint8)
    for index in range(6):
        buffer[:] = shots[index].image[::2, ::2]
        tracker.push(buffer, index * PERIOD_NS)
        buffer[:] = 0
    true = shots[5].box
    assert true is not None
    got = tracker.start("a", Box(30, 100, 70, 130), 0).box
    assert got.iou(Box(true.x1 / 2, true.y1 / 2, true.x2 / 2, true.y2 / 2)) > 0.85


def test_a_replay_holds_no_camera_frame_up(shots: list[Shot], monkeypatch: pytest.MonkeyPatch) -> None:
    """While `start` is made to take seconds, `push` goes on; afterwards the track is at the newest frame."""
    tracker = pushed(shots, 30)
    replaying, go_on, move = threading.Event(), threading.Event(), Track.move_to

    def slow(self: Track, *given, **named) -> None:
        if threading.current_thread() is worker and not replaying.is_set():
            replaying.set()
            assert go_on.wait(20)
        move(self, *given, **named)

    monkeypatch.setattr(Track, "move_to", slow)
    worker = threading.Thread(target=tracker.start, args=("a", BOX, 0))
    worker.start()
    assert replaying.wait(20)
    for index in range(30, 40):
        tracker.push(shots[index].image, index * PERIOD_NS)  # would wait for ever, were the lock held
    assert tracker.boxes() == ()
    go_on.set()
    worker.join(20)
    (tracked,) = tracker.boxes()
    assert tracked.stamp_ns == 39 * PERIOD_NS
    assert shots[39].box is not None and tracked.box.iou(shots[39].box) > 0.9


@pytest.mark.parametrize("how", ["stop", "clear", "clock"])
def test_what_ends_during_a_replay_stays_ended(shots: list[Shot], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    tracker = pushed(shots, 30)
    move, calls = Track.move_to, []

    def interrupted(self: Track, *given, **named) -> None:
        if not calls:
            calls.append(1)
            if how == "stop":
                tracker.stop("a")
            elif how == "clear":
                tracker.clear()
            else:
                tracker.push(shots[0].image, -(10**12))
        move(self, *given, **named)

    monkeypatch.setattr(Track, "move_to", interrupted)
    assert tracker.start("a", BOX, 0).state is TrackState.LOST
    assert tracker.boxes() == ()


def test_pushes_and_starts_from_many_threads(shots: list[Shot]) -> None:
    tracker, failures, ended = Tracker(TrackerSettings(memory_s=1.0)), [], threading.Event()

    def camera() -> None:
        for index in range(120):
            tracker.push(shots[index % 40].image, index * PERIOD_NS)
        ended.set()

    def model(name: str) -> None:
        try:
            while not ended.is_set():
                newest = max((t.stamp_ns for t in tracker.boxes()), default=0)
                tracker.start(name, BOX, newest)
                tracker.stop(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=camera), *(threading.Thread(target=model, args=(str(i),)) for i in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert ended.is_set()


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (np.zeros((48, 64, 3), np.float32), "rgb"),
        (np.zeros((48, 64), np.uint8), "rgb"),
        (np.zeros((48, 64, 3), np.uint8), "grey"),
        (np.zeros((48, 64, 3), np.uint8), "hsv"),
        (np.zeros((0, 64, 3), np.uint8), "rgb"),
        ("picture", "rgb"),
    ],
    ids=["float", "grey called rgb", "rgb called grey", "unknown colour", "no rows", "no array"],
)
def test_unusable_images_are_refused_and_harmless(image, color: str) -> None:
    tracker = Tracker()
    with pytest.raises(InputError):
        tracker.push(image, 0, color=color)
    assert tracker.boxes() == ()


@pytest.mark.parametrize("wh", [(1, 1), (2, 7), (5000, 3)])
def test_odd_sizes_do_not_crash(wh: tuple[int, int]) -> None:
    tracker = Tracker()
    image = np.random.default_rng(0).integers(0, 255, (wh[1], wh[0], 3)).astype(np.uint8)
    tracker.push(image, 0)
    tracker.start("a", Box(0, 0, *wh), 0)
    tracker.push(image, PERIOD_NS)
    assert len(tracker.boxes()) == 1


@pytest.mark.parametrize(
    "box",
    [Box(5, 5, 5, 5), Box(-50, -50, -10, -10), Box(700, 500, 900, 600), Box(0, 0, 640, 480), Box(-30, -30, 30, 30)],
    ids=["empty", "outside above", "outside below", "the whole image", "half outside"],
)
def test_odd_boxes_do_not_crash(shots: list[Shot], box: Box) -> None:
    tracker = pushed(shots, 5)
    tracked = tracker.start("a", box, 0)
    assert 0.0 <= tracked.quality <= 1.0
    if box.clipped(640, 480).area_px2 == 0:
        assert tracked.state is TrackState.LOST


def test_settings_report_every_problem_at_once() -> None:
    with pytest.raises(InputError, match=r"working_side_px.*recover_s"):
        TrackerSettings(working_side_px=3, recover_s=-1.0)


@pytest.mark.slow
def test_memory_stays_bounded(shots: list[Shot]) -> None:
    tracker = Tracker(TrackerSettings(max_frames=30))
    started = time.monotonic()
    for index in range(300):
        tracker.push(shots[index % 40].image, index * PERIOD_NS)
        tracker.start("a", BOX, index * PERIOD_NS)
    assert len(tracker._ring) == 30
    assert time.monotonic() - started < 600


def test_a_replay_in_pieces_catches_up_with_frames_that_come_meanwhile(shots: list[Shot]) -> None:
    whole, pieces = pushed(shots, 30), pushed(shots, 20)
    replay = pieces.replay("a", BOX, 0)
    steps, newest = 0, 19
    while True:
        try:
            next(replay)
        except StopIteration as caught_up:
            tracked = caught_up.value
            break
        steps += 1
        assert pieces.boxes() == ()
        if steps % 2 == 0 and newest < 29:
            newest += 1
            pieces.push(shots[newest].image, newest * PERIOD_NS)
    assert tracked == whole.start("a", BOX, 0)
    assert 27 <= steps <= 29, "a piece a frame; the last two are done at once"


def test_a_replay_that_gets_less_time_than_the_camera_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames come whenever it has looked in one: it looks less often then, and is right in the end."""
    shots = rectangle(lambda index: (60 + 3 * index, 200), 150)
    tracker, looks, move, newest = pushed(shots, 20), 0, Track.move_to, 19

    def counted(track: Track, frame: SmallFrame, look: bool = True) -> None:
        nonlocal looks
        looks += look
        move(track, frame, look)

    monkeypatch.setattr(Track, "move_to", counted)
    for _ in tracker.replay("a", BOX, 0):
        while newest < 19 + 2 * looks:
            newest += 1
            tracker.push(shots[newest].image, newest * PERIOD_NS)
    (tracked,) = tracker.boxes()
    true = shots[newest].box
    assert true is not None and tracked.state is TrackState.PROPAGATED and tracked.box.iou(true) > 0.8


def test_a_replay_that_is_stopped_gives_up_at_the_next_piece(shots: list[Shot]) -> None:
    tracker = pushed(shots, 30)
    replay = tracker.replay("a", BOX, 0)
    next(replay)
    tracker.stop("a")
    assert [None for _ in replay] == []
    assert tracker.boxes() == ()
