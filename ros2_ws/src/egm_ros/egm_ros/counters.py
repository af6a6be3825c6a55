"""What the node has seen, refused and answered, as counters for the diagnostics topic. Knows nothing of ROS."""

from __future__ import annotations

import threading
from collections import Counter


class Counters:
    """Named counts, safe to raise from any thread.

    Names are "frames_rejected_<reason>", "answers_<OUTCOME>", "answers_failed", "commands", "commands_refused",
    "requests_refused".
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> int:
        """Count one more; returns the new count."""
        with self._lock:
            self._counts[name] += 1
            return self._counts[name]

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(self._counts.items()))
