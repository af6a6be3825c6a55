"""Percentiles of a series, and the ratio of two series with its bootstrap interval. Pure, seeded NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50, 90, 95, 99)
DRAWS = 4000
FEWEST_FOR_INTERVAL = 3  # below this a bootstrap interval only looks certain


@dataclass(frozen=True, slots=True)
class Spread:
    """A measured series: how many values, percentiles by linear interpolation, mean and extremes."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    min: float
    max: float


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of a series; None when it is empty.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 100.0]).p50
        3.0
    """
    if not values:
        return None
    array = np.asarray(values, np.float64)
    p50, p90, p95, p99 = (float(v) for v in np.percentile(array, PERCENTILES))
    return Spread(len(array), p50, p90, p95, p99, float(array.mean()), float(array.min()), float(array.max()))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of one series over the median of another.

    Attributes:
        ratio: first over second.
        low, high: 95 % bootstrap interval; None with fewer than three values on a side.
        noise: there is no interval, or it holds 1: these runs do not tell which is larger.
    """

    ratio: float
    low: float | None
    high: float | None

    @property
    def noise(self) -> bool:
        return self.low is None or self.high is None or self.low <= 1.0 <= self.high

    @property
    def words(self) -> str:
        """The interval as text."""
        return "too few to tell" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"


def median_ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """Ratio of medians of two series measured apart; None where one is empty or its median is zero."""
    if not first or not second or not np.median(second) > 0:
        return None
    ratio = float(np.median(first) / np.median(second))
    if min(len(first), len(second)) < FEWEST_FOR_INTERVAL:
        return Ratio(ratio, None, None)
    rng = np.random.default_rng(seed)
    a, b = (_medians(np.asarray(values, np.float64), rng) for values in (first, second))
    usable = b > 0
    low, high = np.percentile(a[usable] / b[usable], (2.5, 97.5))
    return Ratio(ratio, float(low), float(high))


def paired_ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """Median of the ratios of pairs measured one right after the other, which share the machine's mood."""
    if not first or len(first) != len(second) or min(second) <= 0:
        return None
    ratios = np.asarray(first, np.float64) / np.asarray(second, np.float64)
    if len(ratios) < FEWEST_FOR_INTERVAL:
        return Ratio(float(np.median(ratios)), None, None)
    low, high = np.percentile(_medians(ratios, np.random.default_rng(seed)), (2.5, 97.5))
    return Ratio(float(np.median(ratios)), float(low), float(high))


def _medians(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.integers(0, len(values), (DRAWS, len(values)))
    return np.asarray(np.median(values[drawn], axis=1))
