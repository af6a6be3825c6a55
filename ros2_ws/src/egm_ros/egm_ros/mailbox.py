"""One-slot mailbox: the newest camera frame, and nothing older.

Knows nothing of ROS. `put` swaps a pointer under a lock and wakes the readers; it never waits for them, so a slow model
cannot stall the camera, and a fast camera cannot queue up stale frames.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from egm_ros.conversion import Picture, to_picture
from egm_ros.times import nanoseconds

_keys = itertools.count(1)


@dataclass(eq=False)
class CameraFrame:
    """One image message as it arrived; treat it as read-only.

    Attributes:
        message: sensor_msgs/Image or CompressedImage, already checked; its header travels to the answer untouched.
        sequence: 1, 2, … in order of arrival; 0 for an image that came with a request.
        arrived_s: time.monotonic() at arrival, immune to clock jumps.
        max_pixels: cap on width * height of compressed images, known only when they are decoded.
        key: of this frame alone, among all cameras and requests.
    """

    message: Any
    sequence: int
    arrived_s: float
    max_pixels: int = 100_000_000
    key: int = field(default_factory=lambda: next(_keys))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def stamp_ns(self) -> int:
        return nanoseconds(self.message.header.stamp)

    @property
    def arrived_ns(self) -> int:
        """Time of arrival as the tracker takes it: it grows with every frame, whatever the camera's clock does."""
        return int(self.arrived_s * 1e9)

    @property
    def picture(self) -> Picture:
        """The pixels, converted once for everybody who asks.

        Raises:
            RejectedImageError: compressed bytes that do not decode.
        """
        with self._lock:
            return self._converted

    @cached_property
    def _converted(self) -> Picture:
        return to_picture(self.message, self.max_pixels)


class Mailbox:
    """The newest frame, shared between one writer (the camera callback) and its readers (model and tracker).

    Args:
        wake: shared by the mailboxes of several cameras, so that one dispatcher can wait for all of them.

    Attributes:
        wake: notified on every arrival; the readers wait on it for frames and requests alike.
        received: frames put so far.
        skipped: frames overwritten before the model or the tracker looked at them.
    """

    def __init__(self, wake: threading.Condition | None = None) -> None:
        self.wake = wake or threading.Condition()
        self.received = 0
        self.skipped = 0
        self._oldest_ms = self._longest_gap_ms = 0.0
        self._frame: CameraFrame | None = None
        self._seen = True

    def put(self, message: Any, max_pixels: int = 100_000_000) -> None:
        with self.wake:
            self.received += 1
            self.skipped += not self._seen
            now_s, last = time.monotonic(), self._frame
            if last is not None:
                self._longest_gap_ms = max(self._longest_gap_ms, (now_s - last.arrived_s) * 1e3)
            self._frame = CameraFrame(message, self.received, now_s, max_pixels)
            self._seen = False
            self.wake.notify_all()

    def newest(self, max_age_s: float) -> CameraFrame | None:
        """The newest frame if it is at most `max_age_s` old, else None."""
        with self.wake:
            frame = self.peek(max_age_s)
            return self.take(frame) if frame is not None else None

    def peek(self, max_age_s: float) -> CameraFrame | None:
        """The same without taking it: nobody has looked at it yet."""
        with self.wake:
            frame = self._frame
            return frame if frame is not None and time.monotonic() - frame.arrived_s <= max_age_s else None

    def silent_s(self) -> float:
        """Seconds since the last frame; infinite when there was none."""
        with self.wake:
            return time.monotonic() - self._frame.arrived_s if self._frame is not None else float("inf")

    def ages_ms(self) -> tuple[float, float]:
        """Since the last call: the oldest frame that was handed over, and the longest gap between two arrivals.

        The first is never much more than the second: only the newest frame is ever handed over.
        """
        with self.wake:
            ages = self._oldest_ms, self._longest_gap_ms
            self._oldest_ms = self._longest_gap_ms = 0.0
            return ages

    def wait_newer(self, after: int, unless: Callable[[], bool]) -> CameraFrame | None:
        """Block until there is a frame with a sequence greater than `after`, or there is other work.

        Args:
            unless: there is other work: None is returned then, if there is no such frame. Asked on every `wake`.
        """
        with self.wake:
            while self._frame is None or self._frame.sequence <= after:
                if unless():
                    return None
                self.wake.wait()
            return self.take(self._frame)

    def take(self, frame: CameraFrame) -> CameraFrame:
        """Note that somebody looks at this frame."""
        with self.wake:
            self._seen = True
            self._oldest_ms = max(self._oldest_ms, (time.monotonic() - frame.arrived_s) * 1e3)
            return frame

    def clear(self) -> None:
        with self.wake:
            self._frame = None
            self._seen = True
