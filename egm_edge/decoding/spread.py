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

from egm_edge.decoding.automaton import BOX_NUMBERS, State, bounds, complete, completions
from egm_edge.decoding.token_bytes import TokenBytes


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
    ids = tokens.digits[tokens.digits < len(logits)]
    ends_here = bool(state.digits) and complete(state.digits, state.numbers)
    if token not in ids and not ends_here:
        return None
    values = _branch_values(state, tokens)[: len(ids)]
    possible = np.isfinite(values)
    weights = np.exp(logits[ids[possible]].astype(np.float64) - float(logits.max()))
    means = values[possible]
    chosen = np.flatnonzero(ids[possible] == token)
    if ends_here:
        ending = np.exp(float(logits[token] - logits.max())) if token not in ids else 0.0
        weights, means = np.append(weights, ending), np.append(means, float(state.digits))
    if token in ids and not len(chosen):
        return None
    at = int(chosen[0]) if len(chosen) else len(means) - 1
    shares = weights / max(float(weights.sum()), 1e-300)
    entropy = -float((shares * np.log(np.maximum(shares, 1e-30))).sum())
    variance = float((shares * (means - means[at]) ** 2).sum())
    return NumberChoice(min(len(state.numbers), BOX_NUMBERS - 1), variance, entropy, float(shares[at]))


def _branch_values(state: State, tokens: TokenBytes) -> NDArray[np.float64]:
    """Per digit token the mean of the numbers that may follow it, NaN where none may, [n]."""
    if tokens.whole_numbers and not state.digits:
        low, high = bounds(state.numbers)
        values = tokens.digit_values
        return np.where((values >= low) & (values <= high), values, np.nan)
    return np.array([_mean(state.digits + tokens.of[i].decode(), state.numbers) for i in tokens.digits])


def _mean(digits: str, numbers: tuple[int, ...]) -> float:
    """The mean of the numbers that may be written after `digits`, NaN where there is none."""
    found = completions(digits, numbers)
    count = sum(map(len, found))
    return sum((r[0] + r[-1]) / 2 * len(r) for r in found) / count if count else float("nan")


def spread_norm1000(choices: list[NumberChoice]) -> tuple[float, float, float, float] | None:
    """Standard deviation of x1, y1, x2, y2 in norm1000 units; None unless all four were chosen by the model."""
    if {choice.number for choice in choices} != set(range(BOX_NUMBERS)):
        return None
    x1, y1, x2, y2 = (
        math.sqrt(sum(choice.variance for choice in choices if choice.number == number))
        for number in range(BOX_NUMBERS)
    )
    return x1, y1, x2, y2
