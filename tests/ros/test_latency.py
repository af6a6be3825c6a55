"""What the diagnostics say of the model's answers and of the boxes' rate."""

from __future__ import annotations

import pytest
from egm_ros.latency import LatencyLog, smoothed_rate

from egm_edge.boxes import Box
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts


def answer(outcome: Outcome, total_ms: float) -> Grounding:
    timings = Timings(total_ms=total_ms, answer_ms=total_ms / 2)
    box = Box(1, 2, 30, 40) if outcome is Outcome.FOUND else None
    return Grounding(outcome, "the mug", Task.MODAL, (64, 48), box, tokens=TokenCounts(completion=10), timings=timings)


def test_what_was_cancelled_on_its_way_is_no_latency() -> None:
    log = LatencyLog()
    for outcome, total_ms in ((Outcome.FOUND, 100.0), (Outcome.CANCELLED, 2.0), (Outcome.TIMED_OUT, 300.0)):
        log.add(answer(outcome, total_ms))
    summary = log.summary()
    assert (summary.count, summary.p50_ms, summary.tokens_per_s) == (2, 200.0, 100.0)


@pytest.mark.parametrize(
    ("intervals_s", "rate_hz"),
    [((1 / 30,), 30.0), ((0.01, 0.09), 20.0), ((0.001, 0.001, 0.298), 10.0)],
    ids=["even", "in twos", "in bursts"],
)
def test_a_rate_is_events_over_time_however_unevenly_they_come(intervals_s: tuple[float, ...], rate_hz: float) -> None:
    rate, seen = smoothed_rate(0.0, 600.0), []
    for _ in range(200):
        for interval_s in intervals_s:
            rate = smoothed_rate(rate, interval_s)
            seen.append((interval_s, rate))
    steady = seen[-20 * len(intervals_s) :]
    mean = sum(interval_s * rate for interval_s, rate in steady) / sum(interval_s for interval_s, _ in steady)
    assert mean == pytest.approx(rate_hz, rel=0.2)
