"""How sure a number is: Wilson and bootstrap intervals, McNemar's test and the paired bootstrap. The one place for both.

Pure, seeded NumPy.

Several expressions of one image are not independent, so the bootstraps draw whole *clusters* (images), not rows. All
intervals are 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
DRAWS, MEDIAN_DRAWS = 2000, 4000
SEED = 0
PERCENTILES = (2.5, 97.5)
Interval = tuple[float, float]


def wilson(successes: int, rows: int) -> Interval:
    """Wilson's score interval of a proportion; (0, 1) when there are no rows.

    Example:
        >>> tuple(round(v, 3) for v in wilson(9, 10))
        (0.596, 0.982)
    """
    if rows == 0:
        return (0.0, 1.0)
    share, z2 = successes / rows, Z95 * Z95
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    return (max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_mean(values: ArrayLike, clusters: Sequence[Hashable]) -> Interval:
    """Interval of the mean of `values`, [N], drawing clusters, N labels such as image names, with replacement."""
    means = _bootstrap_means(np.asarray(values, np.float64), clusters, np.random.default_rng(SEED))
    return interval95(means)


def bootstrap_average(groups: Sequence[tuple[ArrayLike, Sequence[Hashable]]]) -> Interval:
    """Interval of the unweighted mean of several groups' means; each group, (values, clusters), is drawn on its own."""
    rng = np.random.default_rng(SEED)
    means = [_bootstrap_means(np.asarray(values, np.float64), clusters, rng) for values, clusters in groups]
    return interval95(np.mean(means, 0))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same rows.

    Attributes:
        rows: rows both answered.
        acc50_first, acc50_second: Acc@0.5 of each, 0.0-1.0.
        only_first, only_second: rows that one got right (IoU > 0.5) and the other not.
        mcnemar_p: two-sided exact McNemar p-value: how likely such a split of the rows that differ is by chance.
        acc50_gain, acc50_gain95: second minus first, with its bootstrap interval over images.
        mean_iou_gain, mean_iou_gain95: likewise for mean IoU.
    """

    rows: int
    acc50_first: float
    acc50_second: float
    only_first: int
    only_second: int
    mcnemar_p: float
    acc50_gain: float
    acc50_gain95: Interval
    mean_iou_gain: float
    mean_iou_gain95: Interval

    @property
    def differs(self) -> bool:
        """Whether the runs differ in Acc@0.5 by more than chance, at 5 %, by both tests."""
        low, high = self.acc50_gain95
        return self.mcnemar_p < 0.05 and not low <= 0.0 <= high


def paired(first_iou: ArrayLike, second_iou: ArrayLike, clusters: Sequence[Hashable]) -> Paired:
    """Compare two runs row by row: IoUs [N] each, and N cluster labels."""
    first, second = np.asarray(first_iou, np.float64), np.asarray(second_iou, np.float64)
    right_first, right_second = first > 0.5, second > 0.5
    only_first = int((right_first & ~right_second).sum())
    only_second = int((~right_first & right_second).sum())
    gain = right_second.astype(np.float64) - right_first
    return Paired(
        rows=len(first),
        acc50_first=float(right_first.mean()),
        acc50_second=float(right_second.mean()),
        only_first=only_first,
        only_second=only_second,
        mcnemar_p=mcnemar(only_first, only_second),
        acc50_gain=float(gain.mean()),
        acc50_gain95=bootstrap_mean(gain, clusters),
        mean_iou_gain=float((second - first).mean()),
        mean_iou_gain95=bootstrap_mean(second - first, clusters),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that the discordant rows split by a fair coin.

    Example:
        >>> round(mcnemar(1, 9), 4)
        0.0215
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    logs = [_log_choose(count, k) - count * math.log(2.0) for k in range(fewer + 1)]
    return min(1.0, 2.0 * math.fsum(math.exp(value) for value in logs))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _bootstrap_means(
    values: NDArray[np.float64], clusters: Sequence[Hashable], rng: np.random.Generator
) -> NDArray[np.float64]:
    """[DRAWS] means, each over as many clusters as there are, drawn with replacement."""
    if not values.size:
        return np.full(DRAWS, np.nan)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    at = np.array([numbers[label] for label in clusters])
    sums, counts = np.bincount(at, values), np.bincount(at)
    means = np.empty(DRAWS)
    for i in range(DRAWS):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    return means


def bootstrap_medians(values: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
    """[MEDIAN_DRAWS] medians of `values`, [N], each over N of them drawn with replacement."""
    series = np.asarray(values, np.float64)
    drawn = rng.integers(0, len(series), (MEDIAN_DRAWS, len(series)))
    return np.asarray(np.median(series[drawn], axis=1), np.float64)


def interval95(draws: NDArray[np.float64]) -> Interval:
    """The 2.5th and 97.5th percentile of what a bootstrap drew."""
    low, high = np.percentile(draws, PERCENTILES)
    return (float(low), float(high))
