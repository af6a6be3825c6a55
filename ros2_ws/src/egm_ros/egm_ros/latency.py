"""Latencies of the model's last answers, for the diagnostics. Knows nothing of ROS."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from egm_edge.grounding import Grounding

WINDOW = 200


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Of the last `count` answers: milliseconds in the model, tokens per second of decoding, share that reused a frame."""

    count: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    tokens_per_s: float = 0.0
    reuse_ratio: float = 0.0


class LatencyLog:
    """Keeps the last WINDOW answers; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: deque[tuple[float, float, int, bool]] = deque(maxlen=WINDOW)

    def add(self, grounding: Grounding) -> None:
        timings = grounding.timings
        if timings.total_ms > 0:
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
