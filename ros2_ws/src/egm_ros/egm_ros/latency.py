"""Latencies of the model's last answers and the rate of its boxes, for the diagnostics. Knows nothing of ROS."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from egm_edge.grounding import Grounding, Outcome

WINDOW = 200
RATE_TIME_S = 1.0


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Of the last `count` answers: milliseconds in the model, tokens per second of decoding, share that reused a frame."""

    count: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    tokens_per_s: float = 0.0
    reuse_ratio: float = 0.0


class LatencyLog:
    """Keeps the last WINDOW answers, not what was cancelled on its way; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: deque[tuple[float, float, int, bool]] = deque(maxlen=WINDOW)

    def add(self, grounding: Grounding) -> None:
        timings = grounding.timings
        if timings.total_ms > 0 and grounding.outcome is not Outcome.CANCELLED:
            decode_ms = timings.think_ms + timings.answer_ms
            with self._lock:
                self._rows.append((timings.total_ms, decode_ms, grounding.tokens.completion, timings.frame_reused))

    def summary(self) -> LatencySummary:
        with self._lock:
            rows = list(self._rows)
        if not rows:
            return LatencySummary()
        total_ms, decode_ms, tokens, reused = (np.array(column, float) for column in zip(*rows, strict=True))
        p50_ms, p95_ms = np.percentile(total_ms, (50, 95))
        rate = tokens.sum() / decode_ms.sum() * 1e3 if decode_ms.sum() > 0 else 0.0
        return LatencySummary(len(rows), float(p50_ms), float(p95_ms), float(rate), float(reused.mean()))


def smoothed_rate(rate_hz: float, interval_s: float) -> float:
    """The rate over about the last RATE_TIME_S, with one more event `interval_s` after the last. An interval weighs as much as it
    is long: 10 and 90 ms in turns are 20 Hz, not the mean of 100 and 11."""
    interval_s = max(1e-3, interval_s)
    return rate_hz + (1 - math.exp(-interval_s / RATE_TIME_S)) * (1 / interval_s - rate_hz)
