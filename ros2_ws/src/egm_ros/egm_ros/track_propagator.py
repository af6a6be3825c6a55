"""Carries answers to now: every camera frame goes through the tracker, every answer starts a track on its own frame.

Knows nothing of ROS. Two threads: one takes each new frame of the mailbox, moves the tracks and reports the boxes at
camera rate; the other replays an answer from its frame to now, so that a long replay never holds a camera frame up. The
tracker's clock is the time of arrival, so a camera whose stamps jump or stand still is followed all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from egm_edge.boxes import Box
from egm_edge.errors import EgmError
from egm_edge.grounding import Task
from egm_edge.tracking import TrackedBox, Tracker, TrackerSettings, TrackState
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.requests import Answer
from egm_ros.settings import Settings

IDLE_WAIT_S, ANSWER_WAIT_S = 0.25, 0.05
MAX_FRAME_RATE_HZ = 60
MAX_TRACKS = 1000
SMOOTHING = 0.05


@dataclass(frozen=True, slots=True)
class TrackedAnswer:
    """One object at one frame: where it is now, and the answer it comes from."""

    tracked: TrackedBox
    answer: Answer


@dataclass(frozen=True, slots=True)
class TrackHealth:
    """For the diagnostics.

    Attributes:
        frames: tracked so far.
        tracks: of now; `thinned`: standing queries whose track was given up because there are too many.
        worst_quality: among the tracks, 0-1.
        frame_ms: what a frame takes lately; `ms_per_track`: the part of it that one more track costs.
    """

    frames: int
    tracks: int
    thinned: int
    worst_quality: float
    frame_ms: float
    ms_per_track: float


class TrackCost:
    """What tracking costs, in CPU time of its thread, and how many tracks that allows: base + tracks x cost of one.

    Args:
        budget_ms: for one frame.
    """

    def __init__(self, budget_ms: float) -> None:
        self._budget_ms = budget_ms
        self.frame_ms = self.base_ms = self.ms_per_track = 0.0

    def note(self, took_ms: float, tracks: int) -> None:
        """A frame took this long with so many tracks."""
        self.frame_ms += SMOOTHING * (took_ms - self.frame_ms)
        if tracks == 0:
            self.base_ms += SMOOTHING * (took_ms - self.base_ms)
        else:
            one_ms = max(0.0, took_ms - self.base_ms) / tracks
            self.ms_per_track += SMOOTHING * (one_ms - self.ms_per_track) if self.ms_per_track else one_ms

    @property
    def allowed(self) -> int:
        """At least one."""
        if self.ms_per_track <= 0:
            return MAX_TRACKS
        return max(1, min(MAX_TRACKS, int((self._budget_ms - self.base_ms) / self.ms_per_track)))


class TrackPropagator:
    """Owns the tracker while the node is active.

    Args:
        settings: read once, here.
        on_boxes: called for every frame from the first answer on, in the frame thread; empty while nothing is found.
        on_poor: called with the id of a track that is lost or poor, at every frame.
        on_refused: called with the reason when a frame cannot be used.
        standing_ids: what is still wanted; tracks of anything else end.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        settings: Settings,
        on_boxes: Callable[[CameraFrame, tuple[TrackedAnswer, ...]], None],
        on_poor: Callable[[str], None],
        on_refused: Callable[[EgmError], None],
        standing_ids: Callable[[], set[str]],
    ) -> None:
        self._mailbox, self._min_quality = mailbox, settings.reground_quality
        self._on_boxes, self._on_poor, self._on_refused = on_boxes, on_poor, on_refused
        self._standing_ids = standing_ids
        memory_s = settings.track_memory_s
        self._tracker = Tracker(
            TrackerSettings(
                working_side_px=settings.track_side_px,
                memory_s=memory_s,
                max_frames=min(3000, max(2, int(memory_s * MAX_FRAME_RATE_HZ))),
            )
        )
        self._answers: dict[tuple[str, int], Answer] = {}  # by id and arrival of the grounded frame, as tracks name it
        self._answered: set[str] = set()
        # By id: of several answers that wait, only the newest is worth replaying.
        self._to_start: dict[str, Answer] = {}
        self._arrived = threading.Condition()
        self._fresh = threading.Event()  # an answer has caught up and was not reported yet
        self._stopping = False
        self._cost = TrackCost(settings.track_budget_ms)
        self._frames, self._worst, self._tracks = 0, 1.0, 0
        self._thinned: set[str] = set()  # ids whose track was given up because there are too many
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._run, "egm-tracks"), (self._start_tracks, "egm-replay"))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, answer: Answer) -> None:
        """Follow the box of an answer from its frame on, or end the track when it has none; returns at once."""
        with self._arrived:
            self._to_start[answer.request.request_id] = answer
            self._arrived.notify()

    def health(self) -> TrackHealth:
        thinned, cost = len(self._thinned), self._cost
        return TrackHealth(self._frames, self._tracks, thinned, self._worst, cost.frame_ms, cost.ms_per_track)

    def stop(self) -> None:
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        for thread in self._threads:
            thread.join()

    def _next_answer(self) -> Answer | None:
        """The answer that waits longest; None when the propagator stops."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._to_start or self._stopping)
            return None if self._stopping else self._to_start.pop(next(iter(self._to_start)))

    def _start_tracks(self) -> None:
        while (answer := self._next_answer()) is not None:
            self._forget_ended(answer.request.request_id)
            grounding, frame, request_id = answer.grounding, answer.frame, answer.request.request_id
            if grounding is None or frame is None:
                continue
            if grounding.box is None:
                self._tracker.stop(request_id)
                self._answered.add(request_id)
                self._fresh.set()
                continue
            visible, whole = _boxes_to_follow(grounding.box, grounding.task, grounding.image_wh)
            key = (request_id, frame.arrived_ns)
            self._answers[key] = answer
            self._tracker.start(request_id, visible, frame.arrived_ns, whole)
            for old in [old for old in self._answers if old[0] == request_id and old != key]:
                del self._answers[old]
            self._answered.add(request_id)  # after the start: until then an empty report would be a false claim
            self._fresh.set()

    def _forget_ended(self, starting: str) -> None:
        """An answer holds its frame: let go of those to requests that do not stand any more."""
        standing = self._standing_ids() | {starting}
        self._answered &= standing
        for old in [key for key in self._answers if key[0] not in standing]:
            del self._answers[old]

    def _run(self) -> None:
        frame: CameraFrame | None = None
        reported = True
        while not self._stopping:
            wait_s = ANSWER_WAIT_S if self._fresh.is_set() else IDLE_WAIT_S
            newer = self._mailbox.wait_newer(frame.sequence if frame is not None else 0, wait_s)
            if newer is not None:
                frame, reported = newer, False
                if not self._push(frame):
                    reported = True
                    continue
            elif not self._fresh.is_set():
                continue
            self._fresh.clear()
            if (
                frame is not None and not reported
            ):  # one array a stamp: an answer that comes later shows on the next frame
                reported = self._report(frame)

    def _push(self, frame: CameraFrame) -> bool:
        started_s = time.thread_time()
        try:
            picture = frame.picture
            self._tracker.push(picture.array, frame.arrived_ns, color=picture.color)
        except EgmError as error:
            self._on_refused(error)
            return False
        self._frames += 1
        self._cost.note((time.thread_time() - started_s) * 1e3, self._tracks)
        return True

    def _report(self, frame: CameraFrame) -> bool:
        """Whether there was something to say about this frame."""
        standing, tracked_answers = self._standing_ids(), []
        for tracked in self._tracker.boxes():
            answer = self._answers.get((tracked.track_id, tracked.grounded_stamp_ns))
            if tracked.track_id not in standing:
                self._tracker.stop(tracked.track_id)
            if tracked.track_id not in standing or answer is None:
                continue
            tracked_answers.append(TrackedAnswer(tracked, answer))
            if tracked.state is TrackState.LOST or tracked.quality < self._min_quality:
                self._on_poor(tracked.track_id)
        self._thin(tracked_answers)
        self._thinned &= standing
        self._tracks = len(tracked_answers)
        self._worst = min((one.tracked.quality for one in tracked_answers), default=1.0)
        if not (tracked_answers or self._answered & standing):
            return False
        self._on_boxes(frame, tuple(tracked_answers))
        return True

    def _thin(self, tracked_answers: list[TrackedAnswer]) -> None:
        """Give up the tracks whose answers are oldest, where there are more than a frame has time for."""
        by_age = sorted(tracked_answers, key=lambda one: one.tracked.grounded_stamp_ns, reverse=True)
        for one in by_age[: self._cost.allowed]:
            self._thinned.discard(one.tracked.track_id)
        for one in by_age[self._cost.allowed :]:
            self._tracker.stop(one.tracked.track_id)
            self._thinned.add(one.tracked.track_id)


def _boxes_to_follow(box: Box, task: Task, image_wh: tuple[int, int]) -> tuple[Box, Box | None]:
    """What of the box can be seen, and the amodal box, if it is one: it moves with its visible part."""
    return (box, None) if task is Task.MODAL else (box.clipped(*image_wh), box)
