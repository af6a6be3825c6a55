"""How widely a coordinate is spread: from the distribution over its digits to a standard deviation. Pure NumPy.

A coordinate is written in one token or digit by digit. Every token is a choice among branches; a branch stands for the mean of
the numbers that can still be written after it, and the number after the chosen branch for the one that was written. Choices
along one path are taken as independent, so variances add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egm_edge.decoding.constrained.fsm import BOX_NUMBERS, State, bounds, complete, completions
from egm_edge.decoding.constrained.token_bytes import TokenBytes


@dataclass(frozen=True, slots=True)
class NumberChoice:
    """One token of a coordinate.

    Attributes:
        number: which of the box's four, 0-3.
        variance: of the coordinate's value given the tokens before, squared norm1000 units.
        entropy: of the choice, nats.
        probability: of the chosen branch among those allowed, 0-1.
    """

    number: int
    variance: float
    entropy: float
    probability: float


def number_choice(logits: NDArray[np.float32], state: State, token: int, tokens: TokenBytes) -> NumberChoice | None:
    """The choice that picked `token` where a digit could stand; None where it did not decide about the number.

    Args:
        logits: [V] float32. state: before the token.
    """
    if tokens.whole_numbers and state.digits:
        return None
    ids, means = _branches(state, tokens, len(logits))
    ends_here = bool(state.digits) and complete(state.digits, state.numbers)
    chosen = np.flatnonzero(ids == token)
    if not len(chosen) and (token in tokens.digit_ids or not ends_here):
        return None
    top = float(logits.max())
    weights = np.exp(logits[ids].astype(np.float64) - top)
    if ends_here:
        ending = 0.0 if len(chosen) else np.exp(float(logits[token]) - top)
        weights, means = np.append(weights, ending), np.append(means, float(state.digits))
    at = int(chosen[0]) if len(chosen) else len(means) - 1
    shares = weights / max(float(weights.sum()), 1e-300)
    entropy = -float((shares * np.log(np.maximum(shares, 1e-30))).sum())
    variance = float((shares * (means - means[at]) ** 2).sum())
    return NumberChoice(min(len(state.numbers), BOX_NUMBERS - 1), variance, entropy, float(shares[at]))


def _branches(state: State, tokens: TokenBytes, vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The digit tokens that may come next, [n], and the mean of the numbers that may be written after each."""
    if tokens.whole_numbers:
        low, high = bounds(state.numbers)
        inside = slice(*np.searchsorted(tokens.sorted_values, (low, high + 1)))
        ids, means = tokens.sorted_digits[inside], tokens.sorted_values[inside]
    else:
        ids = tokens.digits
        means = np.array([_mean(state.digits + tokens.of[i].decode(), state.numbers) for i in ids])
    possible = np.isfinite(means) & (ids < vocabulary)
    return ids[possible], means[possible]


def _mean(digits: str, numbers: tuple[int, ...]) -> float:
    """The mean of the numbers that may be written after `digits`, NaN where there is none."""
    found = completions(digits, numbers)
    count = sum(map(len, found))
    return sum((r[0] + r[-1]) / 2 * len(r) for r in found) / count if count else float("nan")


def std_norm1000(choices: list[NumberChoice]) -> tuple[float, float, float, float] | None:
    """Standard deviation of x1, y1, x2, y2 in norm1000 units; None unless all four were chosen by the model."""
    if {choice.number for choice in choices} != set(range(BOX_NUMBERS)):
        return None
    x1, y1, x2, y2 = (
        math.sqrt(sum(choice.variance for choice in choices if choice.number == number))
        for number in range(BOX_NUMBERS)
    )
    return x1, y1, x2, y2
