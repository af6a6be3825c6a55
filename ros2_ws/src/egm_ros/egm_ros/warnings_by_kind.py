"""Warnings that come again and again, at most once in PERIOD_S of each kind. Knows nothing of ROS.

rclpy throttles by the line of the program that warns: of two troubles that share one, it shows whichever came first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

PERIOD_S = 5.0


class WarningsByKind:
    """Safe from any thread. Args: warn: takes the text of one."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn, self._lock = warn, threading.Lock()
        self._again_s: dict[Hashable, float] = {}

    def __call__(self, kind: Hashable, text: str) -> None:
        now_s = time.monotonic()
        with self._lock:
            if now_s < self._again_s.get(kind, now_s):
                return
            self._again_s[kind] = now_s + PERIOD_S
        self._warn(text)
