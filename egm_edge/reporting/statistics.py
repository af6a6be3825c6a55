"""Percentiles of a series, and the ratio of two series with its interval. Pure, seeded NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egm_edge.reporting.intervals import SEED, bootstrap_medians, interval95

PERCENTILES = (50, 90, 95, 99)
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


def median_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Ratio of medians of two series measured apart; None where one is empty or its median is zero."""
    if not first or not second or not np.median(second) > 0:
        return None
    ratio = float(np.median(first) / np.median(second))
    if min(len(first), len(second)) < FEWEST_FOR_INTERVAL:
        return Ratio(ratio, None, None)
    rng = np.random.default_rng(SEED)
    a, b = (bootstrap_medians(values, rng) for values in (first, second))
    usable = b > 0
    return Ratio(ratio, *interval95(a[usable] / b[usable]))


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Median of the ratios of pairs measured one right after the other, which share the machine's mood."""
    if not first or len(first) != len(second) or min(second) <= 0:
        return None
    ratios = np.asarray(first, np.float64) / np.asarray(second, np.float64)
    if len(ratios) < FEWEST_FOR_INTERVAL:
        return Ratio(float(np.median(ratios)), None, None)
    return Ratio(float(np.median(ratios)), *interval95(bootstrap_medians(ratios, np.random.default_rng(SEED))))
