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
    """To the first look: log of the response of its filter, 1 at the first look itself, and the correlation of its pixels."""

    log_response: float
    correlation: float

    @staticmethod
    def of(response: float, correlation: float) -> Likeness:
        return Likeness(math.log(max(response, MIN_RESPONSE)), correlation)


class Identity:
    """One thing's usual likeness to its first look."""

    # Logit per fall beyond a usual one: by logistic regression of IoU >= 0.5 on six sequences with made absences,
    # then from 36 settings, by absences missed and boxes LOST while right on these six.
    RESPONSE_WEIGHT, USUAL_RESPONSE_FALL = 10.0, 0.45
    CORRELATION_WEIGHT, USUAL_CORRELATION_FALL = 6.0, 0.4

    def __init__(self) -> None:
        self._usual: Likeness | None = None
        self._times = 0

    def doubt(self, seen: Likeness) -> float:
        """What has to be added to the logit of being right because it may be something else; 0 or below."""
        if self._usual is None:
            return 0.0
        response = seen.log_response - self._usual.log_response + self.USUAL_RESPONSE_FALL
        correlation = seen.correlation - self._usual.correlation + self.USUAL_CORRELATION_FALL
        return self.RESPONSE_WEIGHT * min(0.0, response) + self.CORRELATION_WEIGHT * min(0.0, correlation)

    def remember(self, seen: Likeness) -> None:
        """Take one that is believed into the usual."""
        self._times += 1
        before, pace = self._usual or seen, max(1 / self._times, USUAL_PACE)
        self._usual = Likeness(
            before.log_response + pace * (seen.log_response - before.log_response),
            before.correlation + pace * (seen.correlation - before.correlation),
        )
