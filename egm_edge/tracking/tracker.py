"""Tracker: camera frames and slow answers in, boxes at camera rate out.

Every camera frame goes through `push`, which keeps it small in a ring and moves every track to it. An answer about an
older frame goes through `start`, which replays the ring from that frame to the newest one; the replay runs outside the
lock, so a camera callback never waits for it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from typing import cast

import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.tracking.followers import follower_maker
from egm_edge.tracking.frames import FrameRing, SmallFrame, grey_of, shrink
from egm_edge.tracking.optical_flow import background_motion
from egm_edge.tracking.settings import TrackerSettings
from egm_edge.tracking.similarity import Similarity
from egm_edge.tracking.track import Track
from egm_edge.tracking.tracked import TrackedBox

LATE_FRAME_NS = 100_000_000
LAST_STEPS = 2
MAX_LOOKS = 8  # tracks looked for in one frame; more take turns and are carried by their last motion between
SPREAD = 0.618  # of a period between the phases of one track and the next: any number of them are far apart
REGROUND_BELOW = 0.6


class Tracker:
    """Several objects through one camera. Safe to call from several threads.

    Args:
        settings: how much to remember, what follows and when to give up.

    Raises:
        InputError: the settings name a follower that is not installed.

    Example:
        >>> import numpy as np
        >>> from egm_edge.boxes import Box
        >>> tracker = Tracker()
        >>> for frame in range(10):
        ...     image = np.full((120, 160), 90, np.uint8)
        ...     image[40:70, 20 + 3 * frame : 60 + 3 * frame] = 200
        ...     tracker.push(image, stamp_ns=frame * 33_000_000, color="grey")
        >>> tracked = tracker.start("cmd-1", Box(20, 40, 60, 70), stamp_ns=0)
        >>> tracked.state.value, round(tracked.box.x1), tracked.age_ms
        ('PROPAGATED', 47, 297.0)
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._make_follower = follower_maker(self.settings.follower, self.settings.model_files)
        self._ring = FrameRing(self.settings.memory_s, self.settings.max_frames)
        self._tracks: dict[str, Track] = {}
        self._starting: dict[str, object] = {}
        self._started = self._pushed = 0
        self._format: tuple[tuple[int, int], str] | None = None
        self._lock = threading.Lock()  # of everything above
        self._push_lock = threading.Lock()  # keeps frames in order

    def push(self, image: NDArray[np.uint8], stamp_ns: int, color: str = "rgb") -> None:
        """Take the next camera frame.

        A stamp that is not newer than the last frame's is a late frame and ignored; one that lies further back is a clock
        that jumped: everything is forgotten and every track is LOST. So it is when the image changes its size or colour.

        Args:
            image: [H, W, 3] (or [H, W] with color="grey") uint8; not kept.
            stamp_ns: the camera's stamp.
            color: "rgb", "bgr" or "grey".

        Raises:
            InputError: the image is of another type or shape.
        """
        levels = shrink(image, self.settings.working_side_px, color)
        greys = tuple(grey_of(level) for level in levels)
        original_wh = (int(image.shape[1]), int(image.shape[0]))
        small_wh = (levels[0].shape[1], levels[0].shape[0])
        to_small = (small_wh[0] / original_wh[0], small_wh[1] / original_wh[1])
        with self._push_lock:
            with self._lock:
                newest = self._ring.newest
                if newest is not None and -LATE_FRAME_NS < stamp_ns - newest.stamp_ns <= 0:
                    return
                if self._format != (original_wh, color) or (newest is not None and stamp_ns < newest.stamp_ns):
                    self._forget()
                self._format = (original_wh, color)
                previous = self._ring.newest
            camera = Similarity() if previous is None else background_motion(previous.grey, greys[0])
            frame = SmallFrame(stamp_ns, levels, greys, original_wh, to_small, camera)
            with self._lock:
                self._ring.add(frame)
                self._pushed += 1
                turns = self._turns
                for place, track in enumerate(self._tracks.values(), self._pushed):
                    track.move_to(frame, look=place % turns == 0)

    def start(self, track_id: str, box: Box, stamp_ns: int, amodal_box: Box | None = None) -> TrackedBox:
        """Follow the object of an answer, from the frame it was given for to the newest one.

        A track of the same id goes on until the new one has caught up, and is replaced then; what its answers showed is
        remembered, as of one object: `stop` it before an answer about another. `stop` and `clear` meanwhile win, and so does
        a clock that jumps: the answer comes back LOST and nothing is followed.

        Args:
            track_id: any name; one track each.
            box: modal box, pixels of the original image.
            stamp_ns: stamp of the frame that was looked at, as given to `push`.
            amodal_box: whole extent; keeps its place and size relative to `box`.

        Returns:
            The boxes at the newest frame. LOST when no frame of that stamp is kept (or the box is empty).
        """
        replay = self.replay(track_id, box, stamp_ns, amodal_box)
        while True:
            try:
                next(replay)
            except StopIteration as caught_up:
                return cast(TrackedBox, caught_up.value)

    def replay(
        self, track_id: str, box: Box, stamp_ns: int, amodal_box: Box | None = None
    ) -> Generator[None, None, TrackedBox]:
        """`start` in pieces: comes back before every frame that it replays, for a caller that has more urgent work.

        Where that work lets it come only slowly nearer to the newest frame, it looks for the object in every second frame, then
        in every fourth and so on, so that it ends however little time it gets.
        """
        token, apart = object(), 1
        with self._lock:
            frames = self._ring.since(stamp_ns, int(self.settings.stamp_tolerance_s * 1e9))
            self._starting[track_id], before = token, self._tracks.get(track_id)
            phase = self._started * SPREAD % 1
            self._started += 1
        first = frames[0] if frames else None
        track = Track(track_id, box, amodal_box, first, stamp_ns, self.settings, self._make_follower, phase, before)
        frames = frames[1:]
        while len(frames) > LAST_STEPS and len(frames) >= apart:
            replayed = len(frames)
            for frame, look in zip(frames, self._looks(replayed, apart), strict=True):
                yield
                if self._starting.get(track_id) is not token:
                    break
                track.move_to(frame, look=look)
            with self._lock:
                frames = self._ring.after(track.stamp_ns) if self._starting.get(track_id) is token else []
            if 2 * len(frames) > replayed:
                apart *= 2
        with self._lock:
            wanted = self._starting.get(track_id) is token
            if wanted:
                del self._starting[track_id]
                frames = self._ring.after(track.stamp_ns)
                for frame, look in zip(frames, self._looks(len(frames), apart), strict=True):
                    track.move_to(frame, look=look)
                self._tracks[track_id] = track
            else:
                track.lose()
            return track.result()

    def stop(self, track_id: str) -> None:
        """Forget a track; an unknown id is fine."""
        with self._lock:
            self._tracks.pop(track_id, None)
            self._starting.pop(track_id, None)

    def clear(self) -> None:
        """Forget every track and every frame."""
        with self._lock:
            self._tracks.clear()
            self._starting.clear()
            self._ring.clear()

    def boxes(self) -> tuple[TrackedBox, ...]:
        """Every track at the newest frame, in the order they were started."""
        with self._lock:
            return tuple(track.result() for track in self._tracks.values())

    def reground_order(self, below: float = REGROUND_BELOW) -> tuple[str, ...]:
        """Whose expressions to ask again, the most urgent first.

        Args:
            below: quality; a track that is not expected to stay above it is named. One whose quality falls comes before one
                that is steadily as good, the lost one that was seen last before those lost longer.
        """
        with self._lock:
            urgent = [track for track in self._tracks.values() if track.expected_quality < below]
            urgent.sort(key=lambda track: (track.expected_quality, -track.seen_ns))
            return tuple(track.track_id for track in urgent)

    @property
    def _turns(self) -> int:
        """In how many frames each track is looked for once."""
        return max(1, math.ceil(len(self._tracks) / MAX_LOOKS))

    def _looks(self, count: int, apart: int) -> list[bool]:
        """In which of so many frames that are replayed a track is looked for: so far apart in its turns, and in the last one."""
        turns = apart * self._turns
        return [left % turns == 0 for left in range(count - 1, -1, -1)]

    def _forget(self) -> None:
        """After a clock jump or another image format: nothing kept is comparable with what comes."""
        self._ring.clear()
        self._starting.clear()
        for track in self._tracks.values():
            track.lose()
