"""Carrying answers to now, without ROS: a bright block that moves, and answers that come late."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.requests import Answer, Request
from egm_ros.settings import Settings
from egm_ros.track_budget import MAX_TRACKS, PROMISED, TrackBudget
from egm_ros.track_propagator import TrackedAnswer, TrackPropagator
from test_conversion import rgb_message

from egm_edge.boxes import Box
from egm_edge.grounding import Grounding, Outcome, Task
from egm_edge.tracking import TrackState

WIDTH, HEIGHT, SPEED_PX_S = 320, 240, 30.0


class _Header:
    def __init__(self, stamp_ns: int) -> None:
        self.stamp = self
        self.sec, self.nanosec = divmod(stamp_ns, 1_000_000_000)


class Bench:
    """A mailbox, a propagator, and everything it reported."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.reported: list[tuple[CameraFrame, tuple[TrackedAnswer, ...]]] = []
        self.poor: list[tuple[str, ...]] = []
        self.refused: list[Exception] = []
        self.errors: list[Exception] = []
        self.standing = {"cmd-1"}
        self.started_s = time.monotonic()
        self.truth: dict[int, Box] = {}  # by sequence
        rng = np.random.default_rng(1)
        # Blurred: a tracker that works on small frames needs structure larger than a pixel, as pictures have.
        self.texture = cv2.GaussianBlur(rng.integers(0, 160, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 4)
        self.block = cv2.GaussianBlur(rng.integers(60, 255, (60, 70, 3), np.uint8), (0, 0), 4)
        self.block[..., 0] = 230
        self.propagator = TrackPropagator(
            self.mailbox,
            Settings(),
            lambda frame, followed: self.reported.append((frame, followed)),
            self.poor.append,
            self.refused.append,
            self.errors.append,
            lambda: self.standing,
        )

    def show(self, stamp_ns: int | None = None) -> CameraFrame:
        """The block where it is now, as a new frame; waits until the propagator has it. It moves with the clock, not by frame."""
        time.sleep(0.02)
        x = 40 + round(SPEED_PX_S * (time.monotonic() - self.started_s)) % 200
        pixels = self.texture.copy()
        pixels[80:140, x : x + 70] = self.block
        image = rgb_message(pixels)
        image.header = _Header(time.time_ns() if stamp_ns is None else stamp_ns)  # type: ignore[attr-defined]
        frames = self.propagator.health().frames
        self.mailbox.put(image)
        wait_for(lambda: self.propagator.health().frames > frames)
        frame = self.mailbox.newest(60.0)
        assert frame is not None
        self.truth[frame.sequence] = Box(x, 80, x + 70, 140)
        return frame

    def answer(self, frame: CameraFrame | None, box: Box | None, task: Task = Task.MODAL) -> Answer:
        outcome = Outcome.NOT_FOUND if box is None else Outcome.FOUND
        grounding = Grounding(outcome, "the block", task, (WIDTH, HEIGHT), box=box)
        return Answer(Request("cmd-1", "the block", task), grounding, frame, standing=True)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.propagator.stop()
    assert made.errors == []


def wait_for(ready: Callable[[], object], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


def test_a_late_answer_is_carried_to_the_newest_frame_and_on(bench: Bench) -> None:
    grounded = bench.show()
    for _ in range(14):
        bench.show()
    bench.propagator.take(bench.answer(grounded, bench.truth[1]))
    wait_for(lambda: bench.reported)
    for _ in range(10):
        bench.show()
    wait_for(lambda: bench.reported[-1][0].sequence == 25)
    for frame, followed in bench.reported:
        tracked = followed[0].tracked
        assert tracked.state is TrackState.PROPAGATED
        assert tracked.box.iou(bench.truth[frame.sequence]) > 0.7
        assert followed[0].answer.frame is grounded


def test_an_answer_on_the_newest_frame_is_reported_though_no_other_frame_comes(bench: Bench) -> None:
    frame = bench.show()
    bench.propagator.take(bench.answer(frame, bench.truth[1]))
    wait_for(lambda: bench.reported)
    assert bench.reported[0][0] is frame
    assert bench.reported[0][1][0].tracked.state is TrackState.GROUNDED


def test_a_camera_whose_stamps_stand_still_or_jump_back_is_followed(bench: Bench) -> None:
    bench.propagator.take(bench.answer(bench.show(stamp_ns=5_000_000_000), bench.truth[1]))
    wait_for(lambda: bench.reported)
    for number in range(1, 8):
        bench.show(stamp_ns=5_000_000_000 if number < 4 else 3_000_000_000 - number)
    wait_for(lambda: bench.reported[-1][0].sequence == 8)
    assert bench.reported[-1][1][0].tracked.box.iou(bench.truth[8]) > 0.7


def test_nothing_found_ends_the_track(bench: Bench) -> None:
    bench.propagator.take(bench.answer(bench.show(), bench.truth[1]))
    wait_for(lambda: bench.reported)
    bench.propagator.take(bench.answer(bench.show(), None))
    wait_for(lambda: bench.show() and bench.reported[-1][1] == ())
    frame = bench.show()
    wait_for(lambda: bench.reported[-1][0] is frame)
    assert bench.reported[-1][1] == (), "an empty report for every frame: looked, and nothing is there"


def test_a_track_that_nobody_wants_any_more_ends(bench: Bench) -> None:
    bench.propagator.take(bench.answer(bench.show(), bench.truth[1]))
    wait_for(lambda: bench.propagator.health().tracks == 1)
    bench.standing = set()
    bench.show()
    wait_for(lambda: bench.propagator.health().tracks == 0)


def test_an_object_that_vanishes_is_asked_for_again(bench: Bench) -> None:
    bench.propagator.take(bench.answer(bench.show(), bench.truth[1]))
    wait_for(lambda: bench.reported)
    noise = np.random.default_rng(7)
    end = time.monotonic() + 20.0
    while not bench.poor and time.monotonic() < end:
        bench.texture = noise.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        bench.block = noise.integers(0, 255, (60, 70, 3), np.uint8)
        bench.show()
    assert bench.poor[0] == ("cmd-1",)


def test_an_amodal_box_may_leave_the_image_and_moves_along(bench: Bench) -> None:
    frame = bench.show()
    whole = Box(bench.truth[1].x1, 80, bench.truth[1].x2, 300)
    bench.propagator.take(bench.answer(frame, whole, Task.AMODAL))
    wait_for(lambda: bench.reported)
    tracked = bench.reported[0][1][0].tracked
    assert tracked.amodal_box is not None
    assert tracked.amodal_box.y2 > HEIGHT >= tracked.box.y2


def test_frames_of_requests_that_ended_are_let_go(bench: Bench) -> None:
    """A new command a second for an hour must not keep an hour's frames."""
    held = []
    for number in range(1, 6):
        bench.standing = {f"cmd-{number}"}
        frame = bench.show()
        held.append(weakref.ref(frame.picture.array))
        answer = bench.answer(frame, bench.truth[frame.sequence])
        bench.propagator.take(replace(answer, request=replace(answer.request, request_id=f"cmd-{number}")))
        sequence = frame.sequence
        wait_for(lambda: any(seen.sequence == sequence and followed for seen, followed in bench.reported))  # noqa: B023
        bench.reported.clear()
        bench.truth.clear()
        del frame, answer
    bench.show()
    bench.reported.clear()
    gc.collect()
    assert [ref() is None for ref in held[:-1]] == [True] * 4


def test_of_answers_that_wait_only_the_newest_is_replayed(bench: Bench) -> None:
    budget = bench.propagator._budget
    budget._budget_ms, budget._credit_ms = 0.0, -1e-9
    frames = [bench.show() for _ in range(5)]
    for frame in frames:
        bench.propagator.take(bench.answer(frame, bench.truth[frame.sequence]))
    assert bench.propagator.health().waiting == 1
    budget._credit_ms = 1e9
    wait_for(lambda: bench.show() and bench.reported)
    assert {one.answer.frame for _, followed in bench.reported for one in followed} == {frames[-1]}


def test_a_long_replay_gives_way_to_every_frame(bench: Bench) -> None:
    grounded = bench.show()
    for _ in range(30):
        bench.show()
    budget = bench.propagator._budget
    steps = 0

    def one_at_a_time(took_ms: float) -> None:
        nonlocal steps
        steps += 1
        budget._credit_ms = -1e-9  # until the next frame

    budget._owed_ms = -1e9
    budget.note_replay = one_at_a_time  # type: ignore[method-assign]
    bench.propagator.take(bench.answer(grounded, bench.truth[1]))
    wait_for(lambda: steps == 1)
    budget._budget_ms = 1e3
    for _ in range(5):
        bench.show()
    assert steps <= 7, "a step a frame: it is not there yet"
    assert not bench.reported
    del budget.note_replay
    wait_for(lambda: bench.show() and bench.reported)
    frame, followed = bench.reported[-1]
    assert followed[0].tracked.box.iou(bench.truth[frame.sequence]) > 0.7


def test_a_replay_goes_on_though_a_newer_frame_always_waits(bench: Bench) -> None:
    """A machine that cannot keep up with the camera drops frames, not answers."""
    grounded = bench.show()
    for _ in range(10):
        bench.show()
    wait_newer = bench.mailbox.wait_newer
    bench.mailbox.wait_newer = lambda after, _: wait_newer(after, lambda: bench.propagator._stopping)  # type: ignore[method-assign]
    bench.propagator.take(bench.answer(grounded, bench.truth[1]))
    wait_for(lambda: bench.show() and bench.reported)


def test_what_cannot_be_followed_is_forgotten_and_the_next_answer_starts_anew(bench: Bench) -> None:
    bench.propagator.take(bench.answer(bench.show(), bench.truth[1]))
    wait_for(lambda: bench.reported)
    (track,) = bench.propagator._tracker._tracks.values()
    track.move_to = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    bench.mailbox.put(bench.mailbox.newest(60.0).message)  # type: ignore[union-attr]
    wait_for(lambda: bench.errors)
    assert isinstance(bench.errors.pop(), ZeroDivisionError)
    bench.reported.clear()
    frame = bench.show()
    bench.propagator.take(bench.answer(frame, bench.truth[frame.sequence]))
    wait_for(lambda: bench.show() and bench.reported and bench.reported[-1][1])


def test_the_cost_of_a_track_says_how_many_a_frame_has_time_for() -> None:
    budget = TrackBudget(budget_ms=20.0)
    assert budget.allowed == MAX_TRACKS, "nothing measured yet"
    for _ in range(200):
        budget.note_frame(2.0, 0)
    for _ in range(200):
        budget.note_frame(2.0 + 4 * 0.9, 4)
    assert budget.ms_per_track == pytest.approx(0.9, rel=0.05)
    assert 18 <= budget.allowed <= 20
    for _ in range(200):
        budget.note_frame(2.0 + 10 * 30.0, 10)
    assert budget.allowed == 1, "one is always carried on"


def test_where_frames_are_skipped_there_are_fewer_tracks_but_never_fewer_than_promised() -> None:
    budget = TrackBudget(budget_ms=1000.0)
    for frame in range(300):
        budget.note_frame(1.0, 40, skipped=frame % 20 == 0)
    assert budget.allowed > 40, "one frame in twenty is nobody's fault"
    for _ in range(20):
        budget.note_frame(1.0, 40, skipped=1)
    fewer = budget.allowed
    assert fewer < 40
    for _ in range(1000):
        budget.note_frame(1.0, budget.allowed, skipped=1)
    assert budget.allowed == PROMISED
    for _ in range(1000):
        budget.note_frame(1.0, PROMISED)
    assert budget.allowed > fewer, "the processor has time again"


@pytest.mark.parametrize(
    ("frame_ms", "share"), [(0.0, 0.25), (16.0, 0.2), (30.0, 0.1)], ids=["idle", "busy", "over the budget"]
)
def test_replays_take_what_the_frames_leave_of_the_budget(frame_ms: float, share: float) -> None:
    budget, replayed_ms = TrackBudget(budget_ms=20.0), 0.0
    for frame in range(1100):
        if frame == 100:
            replayed_ms = 0.0  # what was saved up is used
        budget.note_frame(frame_ms, 16)
        while budget.may_replay:
            budget.note_replay(9.0)
            replayed_ms += 9.0
    assert replayed_ms / 1000 == pytest.approx(share * 20.0, rel=0.02)


def test_the_answers_that_wait_for_time_are_replayed_by_need(bench: Bench) -> None:
    """What is not followed yet, then the poor one, then the one whose answer is oldest; what found nothing does not wait."""
    ids = ("old", "poor", "young", "new", "gone")
    bench.standing = set(ids)
    started: list[str] = []
    tracker, budget = bench.propagator._tracker, bench.propagator._budget
    for name in ("old", "poor", "young", "gone"):
        frame = bench.show()
        answer = bench.answer(frame, bench.truth[frame.sequence])
        bench.propagator.take(replace(answer, request=replace(answer.request, request_id=name)))
        wait_for(lambda: bench.show() and name in bench.propagator._answered)  # noqa: B023
    tracker.reground_order = lambda below: ("poor",)  # type: ignore[method-assign]
    bench.show()
    replay, stop = tracker.replay, tracker.stop
    tracker.replay = lambda name, *rest: started.append(name) or replay(name, *rest)  # type: ignore[method-assign, func-returns-value]
    tracker.stop = lambda name: started.append(f"not {name}") or stop(name)  # type: ignore[method-assign, func-returns-value]
    budget.note_frame = lambda took_ms, tracks, skipped: None  # type: ignore[method-assign]
    budget._credit_ms = -1e-9
    frame = bench.show()
    for name in ("young", "old", "new", "poor", "gone"):
        answer = bench.answer(frame, None if name == "gone" else bench.truth[frame.sequence])
        bench.propagator.take(replace(answer, request=replace(answer.request, request_id=name)))
    wait_for(lambda: started)
    assert started == ["not gone"]
    assert bench.propagator.health().waiting == 4
    budget._credit_ms = 1e9
    wait_for(lambda: bench.show() and len(started) == 5)
    assert started == ["not gone", "new", "poor", "old", "young"]


def test_beyond_the_budget_the_oldest_answers_are_not_carried_on(bench: Bench) -> None:
    bench.standing = {"old", "middle", "new"}
    for name in ("old", "middle", "new"):
        frame = bench.show()
        answer = bench.answer(frame, bench.truth[frame.sequence])
        bench.propagator.take(replace(answer, request=replace(answer.request, request_id=name)))
        wait_for(lambda: bench.show() and bench.propagator.health().tracks == 1 + ("old", "middle", "new").index(name))  # noqa: B023
    budget = bench.propagator._budget
    budget._budget_ms = budget.base_ms + 2.5 * budget.ms_per_track
    wait_for(lambda: bench.show() and bench.propagator.health().thinned >= 1)
    wait_for(lambda: bench.show() and len(bench.reported[-1][1]) < 3)
    ids = {one.tracked.track_id for one in bench.reported[-1][1]}
    assert "new" in ids
    assert "old" not in ids
