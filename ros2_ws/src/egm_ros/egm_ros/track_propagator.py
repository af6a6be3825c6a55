"""Carries answers to now: every camera frame goes through the tracker, every answer starts a track on its own frame.

Knows nothing of ROS. One thread: a new frame of the mailbox moves the tracks and reports the boxes, at camera rate; between
frames an answer is replayed from its frame to now, a step at a time. So a long replay never holds a camera frame up, nor
do two threads fight for the interpreter. A model that answers faster than this machine replays must not slow the camera
either: an answer waits until the frames have left time for it, what is not followed yet and the poorest track first, and
gives way to a newer one. The tracker's clock is the time of arrival, so a camera whose stamps jump or stand still is
followed all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from egm_edge.boxes import Box
from egm_edge.errors import EgmError
from egm_edge.grounding import Task
from egm_edge.tracking import TrackedBox, Tracker, TrackerSettings
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.requests import Answer
from egm_ros.settings import Settings
from egm_ros.track_budget import TrackBudget

MAX_FRAME_RATE_HZ = 60
ENDED = object()


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
        waiting: answers that wait for time to be replayed.
        worst_quality: among the tracks, 0-1.
        frame_ms: what a frame takes lately; `ms_per_track`: the part of it that one more track costs.
    """

    frames: int
    tracks: int
    thinned: int
    waiting: int
    worst_quality: float
    frame_ms: float
    ms_per_track: float


class TrackPropagator:
    """Owns the tracker while the node is active.

    Args:
        settings: read once, here.
        on_boxes: called for every frame from the first answer on, in the thread; empty while nothing is found.
        on_poor: called at every frame with the ids of the tracks that are lost, poor or soon will be, the most urgent first;
            once more when there are none any more.
        on_refused: called with the reason when a frame cannot be used.
        on_error: called with what went wrong unexpectedly; everything that was followed is forgotten then.
        standing_ids: what is still wanted; tracks of anything else end.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        settings: Settings,
        on_boxes: Callable[[CameraFrame, tuple[TrackedAnswer, ...]], None],
        on_poor: Callable[[tuple[str, ...]], None],
        on_refused: Callable[[EgmError], None],
        on_error: Callable[[Exception], None],
        standing_ids: Callable[[], set[str]],
    ) -> None:
        self._mailbox, self._min_quality = mailbox, settings.reground_quality
        self._on_boxes, self._on_poor, self._on_refused, self._on_error = on_boxes, on_poor, on_refused, on_error
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
        # By id, guarded by the mailbox's `wake`: of several answers that wait, only the newest is worth replaying.
        self._to_start: dict[str, Answer] = {}
        self._replay: Generator[None, None, None] | None = None
        self._stopping = False
        self._budget = TrackBudget(settings.track_budget_ms, len(settings.camera_names))
        self._frames, self._worst, self._tracks = 0, 1.0, 0
        self._poor: tuple[str, ...] = ()
        self._replay_order: tuple[str, ...] = ()  # ids that are followed, the one to be replayed first first
        self._thinned: set[str] = set()  # ids whose track was given up because there are too many
        self._thread = threading.Thread(target=self._run, name="egm-tracks", daemon=True)
        self._thread.start()

    def take(self, answer: Answer) -> None:
        """Follow the box of an answer from its frame on, or end the track when it has none; returns at once."""
        with self._mailbox.wake:
            self._to_start[answer.request.request_id] = answer
            self._mailbox.wake.notify_all()

    def health(self) -> TrackHealth:
        thinned, waiting, cost = len(self._thinned), len(self._to_start), self._budget
        return TrackHealth(self._frames, self._tracks, thinned, waiting, self._worst, cost.frame_ms, cost.ms_per_track)

    def stop(self) -> None:
        with self._mailbox.wake:
            self._stopping = True
            self._mailbox.wake.notify_all()
        self._thread.join()

    def _run(self) -> None:
        frame: CameraFrame | None = None
        reported = True
        while not self._stopping:
            after = frame.sequence if frame is not None else 0
            newer = self._mailbox.wait_newer(after, lambda: self._stopping or self._may_replay())
            try:
                if newer is not None:
                    frame, reported = newer, True
                    reported = not self._push(newer, newer.sequence - after - 1 if after else 0) or self._report(newer)
                has_caught_up = newer is None and self._step_replay()
                while self._budget.must_replay and self._may_replay():
                    has_caught_up |= self._step_replay()
                if has_caught_up and frame is not None and not reported:
                    reported = self._report(frame)  # one array a stamp: a later answer shows on the next frame
            except Exception as error:
                self._tracker.clear()  # of what it cannot follow; the answers to come start anew
                self._replay = None
                self._on_error(error)

    def _may_replay(self) -> bool:
        with self._mailbox.wake:
            return self._budget.may_replay if self._replay is not None else self._next_id() is not None

    def _next_id(self) -> str | None:
        """What is not followed yet goes first, then the poorest track, then the oldest; what found nothing costs nothing."""
        for request_id, answer in self._to_start.items():
            if answer.grounding is None or answer.grounding.box is None:
                return request_id
        if not (self._to_start and self._budget.may_replay):
            return None
        place = {request_id: number for number, request_id in enumerate(self._replay_order)}
        return min(self._to_start, key=lambda request_id: place.get(request_id, -1))

    def _step_replay(self) -> bool:
        """Go on with the replay, or begin the next one; whether one has caught up."""
        started_s = time.thread_time()
        if self._replay is None:
            with self._mailbox.wake:
                request_id = self._next_id()
                if request_id is None:
                    return False
                self._replay = self._start_track(self._to_start.pop(request_id))
        has_caught_up = next(self._replay, ENDED) is ENDED
        if has_caught_up:
            self._replay = None
        self._budget.note_replay((time.thread_time() - started_s) * 1e3)
        return has_caught_up

    def _start_track(self, answer: Answer) -> Generator[None, None, None]:
        grounding, frame, request_id = answer.grounding, answer.frame, answer.request.request_id
        standing = self._standing_ids()
        self._forget_all_but(standing)
        if grounding is None or frame is None or request_id not in standing:
            return
        if grounding.box is None:
            self._tracker.stop(request_id)
        else:
            visible, whole = _boxes_to_follow(grounding.box, grounding.task, grounding.image_wh)
            key = (request_id, frame.arrived_ns)
            self._answers[key] = answer
            yield from self._tracker.replay(request_id, visible, frame.arrived_ns, whole)
            for old in [old for old in self._answers if old[0] == request_id and old != key]:
                del self._answers[old]
        self._answered.add(request_id)  # after the start: until then an empty report would be a false claim

    def _forget_all_but(self, standing: set[str]) -> None:
        """An answer holds its frame: let go of those to requests that do not stand any more."""
        self._answered &= standing
        with self._mailbox.wake:
            self._to_start = {key: answer for key, answer in self._to_start.items() if key in standing}
        for old in [key for key in self._answers if key[0] not in standing]:
            del self._answers[old]

    def _push(self, frame: CameraFrame, skipped: int) -> bool:
        started_s = time.thread_time()
        try:
            picture = frame.picture
            self._tracker.push(picture.array, frame.arrived_ns, color=picture.color)
        except EgmError as error:
            self._on_refused(error)
            return False
        self._frames += 1
        self._budget.note_frame((time.thread_time() - started_s) * 1e3, self._tracks, skipped)
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
        by_age = sorted(tracked_answers, key=lambda one: one.tracked.grounded_stamp_ns)
        self._say_poor([one.tracked.track_id for one in by_age])
        self._thin(by_age)
        self._thinned &= standing
        self._tracks = len(tracked_answers)
        self._worst = min((one.tracked.quality for one in tracked_answers), default=1.0)
        if not (tracked_answers or self._answered & standing):
            return False
        self._on_boxes(frame, tuple(tracked_answers))
        return True

    def _say_poor(self, oldest_first: list[str]) -> None:
        poor = [one for one in self._tracker.reground_order(self._min_quality) if one in oldest_first]
        self._replay_order = tuple(dict.fromkeys([*poor, *oldest_first]))
        unanswered = tuple(one for one in poor if one not in self._to_start)
        if unanswered or self._poor:
            self._on_poor(unanswered)
        self._poor = unanswered

    def _thin(self, oldest_first: list[TrackedAnswer]) -> None:
        """Give up the tracks whose answers are oldest, where there are more than a frame has time for."""
        too_many = max(0, len(oldest_first) - self._budget.allowed)
        for one in oldest_first[:too_many]:
            self._tracker.stop(one.tracked.track_id)
            self._thinned.add(one.tracked.track_id)
        self._thinned -= {one.tracked.track_id for one in oldest_first[too_many:]}


def _boxes_to_follow(box: Box, task: Task, image_wh: tuple[int, int]) -> tuple[Box, Box | None]:
    """What of the box can be seen, and the amodal box, if it is one: it moves with its visible part."""
    return (box, None) if task is Task.MODAL else (box.clipped(*image_wh), box)
