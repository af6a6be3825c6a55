"""Frames that arrive at a fixed rate, a grounder that takes the newest when it is free: how many frames are missed.

The mailbox has one slot: a newer frame replaces one that nobody took. The clock is the caller's, so the rule can be tested
without waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """One answered frame; seconds since the first frame arrived.

    Attributes:
        frame: its number, from 0.
        arrived_s, started_s, finished_s: frame in the mailbox, taken from it, answer there.
    """

    frame: int
    arrived_s: float
    started_s: float
    finished_s: float

    @property
    def wait_ms(self) -> float:
        return (self.started_s - self.arrived_s) * 1e3

    @property
    def age_ms(self) -> float:
        """How old the frame is when its answer is there."""
        return (self.finished_s - self.arrived_s) * 1e3


@dataclass(frozen=True, slots=True)
class FixedRate:
    """A run at a fixed rate.

    Attributes:
        rate_hz: how often frames arrived. answered: in order.
        missed: frames that arrived up to the last one taken and were replaced unseen.
    """

    rate_hz: float
    answered: list[TimedAnswer]
    missed: int

    @property
    def missed_share(self) -> float:
        return self.missed / (self.missed + len(self.answered))

    @property
    def answers_per_s(self) -> float:
        return len(self.answered) / self.answered[-1].finished_s


def run_at_rate(
    answer: Callable[[int], object],
    rate_hz: float,
    count: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> FixedRate:
    """Answer `count` frames of a camera of `rate_hz`; `answer` is given the number of the frame."""
    started = clock()
    answered: list[TimedAnswer] = []
    last = -1
    while len(answered) < count:
        now = clock() - started
        newest = int(now * rate_hz + 1e-9)
        if newest <= last:
            sleep(max((last + 1) / rate_hz - now, 0.0))
            continue
        answer(newest)
        answered.append(TimedAnswer(newest, min(newest / rate_hz, now), now, clock() - started))
        last = newest
    return FixedRate(rate_hz, answered, last + 1 - len(answered))
