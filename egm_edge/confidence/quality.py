"""How good a confidence is: expected calibration error, reliability and risk-coverage curves. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like confidence: how many, their mean confidence and the share that is right."""

    count: int
    confidence: float
    accuracy: float


def reliability(confidence: ArrayLike, right: ArrayLike) -> list[Bin]:
    """The non-empty ones of BINS bins of equal width, 0 to 1."""
    p, y = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        Bin(int((place == b).sum()), float(p[place == b].mean()), float(y[place == b].mean()))
        for b in range(BINS)
        if (place == b).any()
    ]


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike) -> float:
    """ECE: the mean gap between confidence and accuracy over bins, weighted by their size (Guo et al. 2017).

    Example:
        >>> round(expected_calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0]), 3)
        0.15
    """
    found = reliability(confidence, right)
    total = sum(b.count for b in found)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in found) / total if total else float("nan")


def risk_coverage(score: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(coverage, risk): the share of wrong boxes among the best-scored answers, for every share of them that is kept."""
    y = np.asarray(right, np.float64)[np.argsort(-np.asarray(score, np.float64), kind="stable")]
    kept = np.arange(1, len(y) + 1)
    return kept / max(len(y), 1), 1.0 - np.cumsum(y) / kept


def area_under_risk_coverage(score: ArrayLike, right: ArrayLike) -> float:
    """AURC, the mean risk over all coverages; lower is better (Geifman and El-Yaniv 2017)."""
    return float(risk_coverage(score, right)[1].mean())
