"""DecodingOptions: how one request is decoded. Plain values, checked once; what they do is the decoder's business."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from egm_edge.errors import InputError

MAX_SAMPLES = 32
MAX_DEADLINE_MS = 3_600_000.0
MAX_TEMPERATURE = 2.0


class DecodingKeywords(TypedDict, total=False):
    """The keyword arguments of `Grounder.ground` that are decoding options; see DecodingOptions."""

    max_new_tokens: int | None
    deadline_ms: float | None
    deadline_at: float | None
    max_think_tokens: int | None
    samples: int | None
    temperature: float
    top_p: float
    top_k: int | None
    seed: int | None
    force_syntax: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """How one request is decoded.

    Attributes:
        max_new_tokens: cap on generated tokens; None for the bundle's own. The model's context caps them too. A thought that
            would leave no room for the answer is left out.
        deadline_ms: a box is due this many milliseconds after the call; None for no hurry. Image tokens, thought and
            samples are cut to meet it, and the Grounding says which.
        deadline_at: the same as an instant, `time.monotonic()` seconds: one clock for every process of a machine, so that
            whoever handed the request on has not to say what is left. Not both.
        max_think_tokens: a thought is closed after this many tokens, and left out where it would not end within them; 0 for
            no reasoning, None for the model's own end.
        samples: answers that vote; None lets the deadline decide (one where there is none). The first one is always the
            answer of a single request with the same temperature.
        temperature: 0 takes the most likely token.
        top_p: with a temperature, only the most likely tokens that together reach this probability are drawn from.
        top_k: with a temperature, only so many of the most likely tokens are drawn from; None for all.
        seed: of the draws; None for a fresh one.
        force_syntax: hold the answer to the family's own syntax, so that it can always be read. The box is that of free
            decoding wherever free decoding was well formed.
    """

    max_new_tokens: int | None = None
    deadline_ms: float | None = None
    deadline_at: float | None = None
    max_think_tokens: int | None = None
    samples: int | None = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    force_syntax: bool = True

    def __post_init__(self) -> None:
        _whole("max_new_tokens", self.max_new_tokens, 1, 2**31 - 1, "raise it")
        _whole("max_think_tokens", self.max_think_tokens, 0, 2**31 - 1, "pass 0 for no reasoning, None for no limit")
        _whole("samples", self.samples, 1, MAX_SAMPLES, "pass 1 for one answer, None to let the deadline decide")
        _whole("top_k", self.top_k, 1, 2**31 - 1, "pass None for all tokens")
        _whole("seed", self.seed, 0, 2**63 - 1, "pass a whole number from 0 on")
        if self.deadline_ms is not None:
            _real("deadline_ms", self.deadline_ms, 0.0, MAX_DEADLINE_MS, "pass milliseconds from the call on")
            if self.deadline_ms == 0.0:
                raise InputError("a deadline of more than 0 ms", "0", "raise it, or leave it out")
        if self.deadline_at is not None:
            _real("deadline_at", self.deadline_at, 0.0, math.inf, "pass an instant of time.monotonic()")
            if self.deadline_ms is not None:
                raise InputError("deadline_ms or deadline_at", "both", "pass one of the two")
        _real("temperature", self.temperature, 0.0, MAX_TEMPERATURE, "pass 0 for the most likely token")
        _real("top_p", self.top_p, 0.0, 1.0, "pass 1 for all tokens")
        if self.top_p == 0.0:
            raise InputError("top_p above 0", "0", "pass a small value, or temperature=0 for the most likely token")
        if not isinstance(self.force_syntax, bool):
            raise InputError("force_syntax True or False", repr(self.force_syntax)[:40], "pass one of the two")

    def due_at(self, started: float) -> float:
        """When a box is due, `time.monotonic()` seconds, of a call that began at `started`; infinite for never."""
        if self.deadline_at is not None:
            return self.deadline_at
        return math.inf if self.deadline_ms is None else started + self.deadline_ms / 1e3


def _whole(name: str, value: object, low: int, high: int, hint: str) -> None:
    if value is not None and not (type(value) is int and low <= value <= high):
        raise InputError(f"{name} as a whole number from {low:,} to {high:,}", repr(value)[:40], hint)


def _real(name: str, value: object, low: float, high: float, hint: str) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (good and low <= value <= high):  # type: ignore[operator]
        raise InputError(f"{name} from {low:g} to {high:g}", repr(value)[:40], hint)
