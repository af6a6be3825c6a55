"""What the node has seen, refused and answered, as counters for the diagnostics topic. Knows nothing of ROS."""

from __future__ import annotations

import threading
from collections import Counter
from enum import Enum

from egm_edge.grounding import Outcome
from egm_ros.conversion import RejectReason


class Count(Enum):
    """What is counted; the value is its name in the diagnostics."""

    COMMANDS = "commands"
    COMMAND_SETS = "command_sets"
    ANNOTATED_IMAGES = "annotated_images"
    COMMANDS_REFUSED = "commands_refused"
    REQUESTS_REFUSED = "requests_refused"
    STAMPS_WENT_BACK = "stamps_went_back"
    CAMERA_WENT_SILENT = "camera_went_silent"
    ENGINE_LOST = "engine_lost"
    ANSWERS_FAILED = "answers_failed"
    PUBLISHES_SLOW = "publishes_slow"
    PUBLISHES_SKIPPED = "publishes_skipped"
    PUBLISHES_FAILED = "publishes_failed"
    CALLBACKS_FAILED = "callbacks_failed"
    REJECTED_SIZE = "frames_rejected_size"
    REJECTED_STEP = "frames_rejected_step"
    REJECTED_LENGTH = "frames_rejected_length"
    REJECTED_ENCODING = "frames_rejected_encoding"
    REJECTED_COMPRESSED = "frames_rejected_compressed"
    REJECTED_UNUSABLE = "frames_rejected_unusable"
    FOUND = "answers_FOUND"
    NOT_FOUND = "answers_NOT_FOUND"
    AMBIGUOUS = "answers_AMBIGUOUS"
    TIMED_OUT = "answers_TIMED_OUT"
    CANCELLED = "answers_CANCELLED"
    UNPARSABLE = "answers_UNPARSABLE"

    @property
    def is_trouble(self) -> bool:
        """Whether somebody should look when it grows."""
        return self not in _NO_TROUBLE


ANSWERED = {outcome: Count[outcome.name] for outcome in Outcome}
REJECTED = {reason: Count[f"REJECTED_{reason.name}"] for reason in RejectReason}
_NO_TROUBLE = {
    *(Count.COMMANDS, Count.COMMAND_SETS, Count.ANNOTATED_IMAGES, Count.PUBLISHES_SKIPPED),
    *ANSWERED.values(),
}


class Counters:
    """Counts, safe to raise from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Count] = Counter()

    def add(self, count: Count) -> int:
        """Count one more; returns the new count."""
        with self._lock:
            self._counts[count] += 1
            return self._counts[count]

    def snapshot(self) -> Counter[Count]:
        with self._lock:
            return Counter(self._counts)
