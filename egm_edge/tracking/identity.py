"""Identity: whether what is followed is still what was grounded, or something that took its place. Knows nothing of places.

How alike a thing and its first look are differs from thing to thing: what blinks or deforms never is much alike. So a likeness is
held against the thing's own usual one, which drifts with it; what takes its place makes it fall at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

USUAL_PACE = 0.15  # of one time of learning
MIN_RESPONSE = 0.02


@dataclass(frozen=True, slots=True)
class Likeness:
    """Log of the response of the filter that learns, 1 at the first look, and the correlation with the first look's pixels."""

    log_response: float
    correlation: float

    @staticmethod
    def of(response: float, correlation: float) -> Likeness:
        return Likeness(math.log(max(response, MIN_RESPONSE)), correlation)


MOST_FALL = Likeness(1.5, 1.0)
AT_FIRST = Likeness.of(0.4, 0.4)  # what hardly anything is less alike than a frame later: nothing is known of its own usual yet


class Identity:
    """One thing's usual likeness."""

    def __init__(self) -> None:
        self._usual, self._times = AT_FIRST, 0

    def fall(self, seen: Likeness) -> Likeness:
        """How far below the usual one it is, 0 or less, and no more than what proves that it is something else."""
        return Likeness(
            max(-MOST_FALL.log_response, min(0.0, seen.log_response - self._usual.log_response)),
            max(-MOST_FALL.correlation, min(0.0, seen.correlation - self._usual.correlation)),
        )

    def remember(self, seen: Likeness) -> None:
        """Take one that is believed into the usual."""
        self._times += 1
        before, pace = self._usual, max(1 / self._times, USUAL_PACE)
        self._usual = Likeness(
            before.log_response + pace * (seen.log_response - before.log_response),
            before.correlation + pace * (seen.correlation - before.correlation),
        )
