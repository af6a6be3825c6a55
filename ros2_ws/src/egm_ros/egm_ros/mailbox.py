"""One-slot mailbox: the newest camera frame, and nothing older.

Knows nothing of ROS. `put` swaps a pointer under a lock and wakes the model's thread; it never waits for the model, so a
slow model cannot stall the camera, and a fast camera cannot queue up stale frames.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class CameraFrame:
    """One image message as it arrived.

    Attributes:
        message: sensor_msgs/Image or CompressedImage, already checked; its header travels to the answer untouched.
        sequence: 1, 2, … in order of arrival; 0 for an image that came with a request.
        arrived_s: time.monotonic() at arrival, immune to clock jumps.
    """

    message: Any
    sequence: int
    arrived_s: float

    @property
    def stamp_ns(self) -> int:
        stamp = self.message.header.stamp
        return stamp.sec * 1_000_000_000 + stamp.nanosec


class Mailbox:
    """The newest frame, shared between one writer (the camera callback) and one reader (the worker).

    Attributes:
        wake: notified on every arrival; the worker waits on it for frames and requests alike.
        received: frames put so far.
        skipped: frames overwritten before anybody looked at them.
    """

    def __init__(self) -> None:
        self.wake = threading.Condition()
        self.received = 0
        self.skipped = 0
        self._frame: CameraFrame | None = None
        self._seen = True

    def put(self, message: Any) -> None:
        with self.wake:
            self.received += 1
            self.skipped += not self._seen
            self._frame = CameraFrame(message, self.received, time.monotonic())
            self._seen = False
            self.wake.notify_all()

    def newest(self, max_age_s: float, *, after: int = 0) -> CameraFrame | None:
        """The newest frame if it is at most `max_age_s` old and its sequence is greater than `after`, else None."""
        with self.wake:
            frame = self._frame
            if frame is None or frame.sequence <= after or time.monotonic() - frame.arrived_s > max_age_s:
                return None
            self._seen = True
            return frame

    def clear(self) -> None:
        with self.wake:
            self._frame = None
            self._seen = True
