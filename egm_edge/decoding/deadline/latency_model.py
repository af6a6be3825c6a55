"""LatencyModel: what a request costs on this machine with this bundle, learned from every request. Pure arithmetic.

Image tokens are the big knob (vision tower and prefix prefill), decode steps the small one. Step times are kept as a high
percentile rather than a mean: a deadline is missed by the slow steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from egm_edge.decoding.deadline.budget import FEW_TOKENS

STEPS_REMEMBERED = 64
HIGH = 0.9  # the quantile that is planned with
INTERRUPTION_HIGH = 0.95  # a slower one is past the deadline already
FIRST_GUESS_STEP_MS = 20.0
SMOOTHING = 0.3
GROWTH_BEYOND = (
    1.5  # attention makes an image costlier than in proportion; used above the largest one that was measured
)
MORE_TOKENS = 0.2  # each further token of a step, in steps, until this machine was measured (4 tokens cost 1.6 steps)
FIRST_GUESS_INTERRUPTION_MS = 1.0
FIRST_GUESS_THINK_TOKENS = 96
FEW_THOUGHTS = 20  # among fewer, one long one is no reason to leave out all that follow
CUT_THOUGHT_LONGER = 1.5
FIRST_GUESS_FINISH_MS = 0.5


class LatencyModel:
    """Milliseconds of the stages, as far as they were seen."""

    def __init__(self) -> None:
        self._frame_ms: dict[int, float] = {}
        self._prompt_ms: deque[tuple[int, float]] = deque(maxlen=STEPS_REMEMBERED)
        self._step_ms: deque[tuple[int, float]] = deque(maxlen=STEPS_REMEMBERED)
        self._thoughts: deque[tuple[int, float]] = deque(maxlen=STEPS_REMEMBERED)
        self._interruption_ms: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._finish_ms: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._step_cache: float | None = None
        self._finish_cache: float | None = None

    def record_frame(self, image_tokens: int, ms: float) -> None:
        """Vision and prefix prefill of a frame took `ms`."""
        known = self._frame_ms.get(image_tokens)
        self._frame_ms[image_tokens] = ms if known is None else known + SMOOTHING * (ms - known)

    def record_prompt(self, tokens: int, ms: float) -> None:
        """A request's own prompt of `tokens` took `ms`."""
        self._prompt_ms.append((tokens, ms))

    def record_step(self, tokens: int, ms: float) -> None:
        """A decode step that fed `tokens` took `ms`."""
        self._step_ms.append((tokens, ms))
        self._step_cache = None

    def record_thought(self, tokens: int, ms: float, *, cut: bool = False) -> None:
        """A thought had `tokens` and took `ms`; one that was cut would have been longer. (Left out, the long ones would be
        missing from what is known, and thoughts would be begun that do not end in time.)"""
        longer = CUT_THOUGHT_LONGER if cut else 1.0
        self._thoughts.append((round(tokens * longer), ms * longer))

    def record_interruption(self, ms: float) -> None:
        """From the order to stop the engine to the answer that there is none took `ms`."""
        self._interruption_ms.append(ms)

    def record_finish(self, ms: float) -> None:
        """From the last token to the Grounding took `ms`."""
        self._finish_ms.append(ms)
        self._finish_cache = None

    @property
    def interruption_ms(self) -> float:
        """How long before a deadline the engine must be told to stop: the 95th percentile of what it took."""
        return _high(self._interruption_ms, INTERRUPTION_HIGH) if self._interruption_ms else FIRST_GUESS_INTERRUPTION_MS

    @property
    def finish_ms(self) -> float:
        """Text to box, and building the Grounding, at its 90th percentile."""
        if self._finish_cache is None:
            self._finish_cache = _high(self._finish_ms) if self._finish_ms else FIRST_GUESS_FINISH_MS
        return self._finish_cache

    def frame_ms(self, image_tokens: int) -> float:
        """Vision and prefix prefill of an image of this many tokens: between two measured sizes in proportion."""
        known = sorted(self._frame_ms.items())
        if not known:
            return 0.0
        sizes, times = np.array([k for k, _ in known], float), np.array([v for _, v in known])
        if image_tokens > sizes[-1]:
            return float(times[-1] * (image_tokens / sizes[-1]) ** GROWTH_BEYOND)
        if image_tokens < sizes[0]:
            return float(times[0])
        return float(np.interp(image_tokens, sizes, times))

    def prompt_ms(self, tokens: int) -> float:
        """A request's own prompt of `tokens`."""
        if not self._prompt_ms:
            return 2 * self.step_ms
        return _high(ms * tokens / max(count, 1) for count, ms in self._prompt_ms)

    @property
    def step_ms(self) -> float:
        """A decode step of a few tokens, at its 90th percentile."""
        if self._step_cache is None:
            few = [ms for tokens, ms in self._step_ms if tokens <= FEW_TOKENS]
            times = few or [ms for _, ms in self._step_ms]
            self._step_cache = _high(times) if times else FIRST_GUESS_STEP_MS
        return self._step_cache

    def step_ms_of(self, tokens: int) -> float:
        """A decode step of this many tokens: as seen, or in proportion to what was seen of others."""
        seen = [ms for count, ms in self._step_ms if count == tokens]
        if seen:
            return float(np.mean(seen))
        return self.step_ms * (1.0 + MORE_TOKENS * (tokens - 1))

    @property
    def think_tokens(self) -> float:
        """How long a thought usually is; 0 while none was seen."""
        return float(np.mean([tokens for tokens, _ in self._thoughts])) if self._thoughts else 0.0

    @property
    def long_thought_tokens(self) -> float:
        """How long a thought is at its 90th percentile; first guesses stand for those that were not seen yet."""
        guesses = [float(FIRST_GUESS_THINK_TOKENS)] * (FEW_THOUGHTS - len(self._thoughts))
        return _high([*guesses, *(tokens for tokens, _ in self._thoughts)])

    @property
    def thought_ms(self) -> float:
        """What a thought takes, at its 90th percentile; 0 while none was seen."""
        return _high(ms for _, ms in self._thoughts) if self._thoughts else 0.0

    def answer_ms(self, steps: int) -> tuple[float, float]:
        """(a forced answer of `steps` decode steps, one decode step)."""
        return steps * self.step_ms + self.finish_ms, self.step_ms


def _high(seen: Iterable[float], quantile: float = HIGH) -> float:
    """A high quantile, by linear interpolation. (`np.percentile` takes as long as a tenth of a small model's step.)"""
    ordered = sorted(seen)
    below, share = divmod(quantile * (len(ordered) - 1), 1)
    low = ordered[int(below)]
    return low + share * (ordered[min(int(below) + 1, len(ordered) - 1)] - low)
