"""Budget: how much a reply may still cost, in tokens and on the clock. Knows nothing of engines or syntax."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

FEW_TOKENS = 4  # what is planned with is a step of no more; longer drafts are for those who have time


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one reply.

    Attributes:
        max_new_tokens: upper bound on generated tokens.
        max_think_tokens: the thought is closed after this many; None for no bound.
        deadline: when the answer is due, an instant of `now`, seconds; infinite for never.
        answer_ms: how long a forced answer takes from a closed thought on, and one decode step; asked anew each time
            because the machine's speed is learned as it goes.
        now: the clock, seconds.
    """

    max_new_tokens: int
    max_think_tokens: int | None = None
    deadline: float = math.inf
    answer_ms: Callable[[], tuple[float, float]] = field(default=lambda: (0.0, 0.0))
    now: Callable[[], float] = time.monotonic

    @property
    def without_thought(self) -> bool:
        return self.max_think_tokens == 0

    def expired(self) -> bool:
        """The deadline has come."""
        return self.deadline < math.inf and self.now() >= self.deadline

    def last_step(self) -> bool:
        """There is no time for another decode step."""
        return self.deadline < math.inf and self.now() + self.answer_ms()[1] / 1e3 >= self.deadline

    def no_time_for_long_steps(self) -> bool:
        """A step of many tokens, if it was in vain, could cost the answer."""
        return self.deadline < math.inf and self.now() + 2 * self.answer_ms()[0] / 1e3 >= self.deadline

    def time_to_answer(self) -> bool:
        """What is left is just enough for one more step of thought and a forced answer, or less."""
        if self.deadline == math.inf:
            return False
        answer_ms, step_ms = self.answer_ms()
        return self.now() + (answer_ms + step_ms) / 1e3 >= self.deadline
