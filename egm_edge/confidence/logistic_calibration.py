"""LogisticCalibration: evidence to P(IoU >= 0.5), by logistic regression (Platt 1999 with several features). Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from egm_edge.confidence.features import FEATURES
from egm_edge.errors import BundleError, InputError

METHOD = "platt"
RIDGE = 1.0  # of every standardised weight: a normal prior of one log-odd, forgotten as data come
NEWTON_STEPS = 50
REFUSED_RIGHT = 0.01  # share of right boxes that the operating point gives up, in any split
MIN_RIGHT = 20  # fewer right boxes of a split say nothing about its surest hundredth
CLIP = 4.0  # standard deviations: evidence beyond what was fitted on says no more than its edge


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticCalibration:
    """A fitted map.

    Attributes:
        method: "platt".
        features: names of what is weighed, in order.
        mean, scale: of each feature on the data that it was fitted on.
        weights, bias: of the standardised features, log-odds.
        accept_from: the operating point: a box of less confidence is answered NOT_FOUND. It refuses REFUSED_RIGHT of the
            right boxes it was fitted on, of none of their splits more (of those with a thought, where there are any: the
            others look surer), and never a box that is likelier right than wrong.
        samples: the number of answers that voted when it was fitted; it holds for that number only.
        fitted_on: rows, share of right boxes, and the data's sha256, for the record.
    """

    method: str
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    accept_from: float
    samples: int
    fitted_on: dict[str, Any]

    def __post_init__(self) -> None:
        lengths = {len(self.features), len(self.mean), len(self.scale), len(self.weights)}
        numbers = [*self.mean, *self.scale, *self.weights, self.bias, self.accept_from]
        sane = all(isinstance(v, (int, float)) and math.isfinite(v) for v in numbers) and min(self.scale, default=0) > 0
        if self.method != METHOD or self.features != FEATURES or lengths != {len(FEATURES)} or not sane:
            raise BundleError("a calibration of this version", "another or a damaged one", "run egm calibrate again")

    def __call__(self, evidence: Mapping[str, float]) -> float:
        """P(IoU >= 0.5) of one answer, 0.0-1.0."""
        return float(self.probabilities([[evidence[name] for name in self.features]])[0])

    def probabilities(self, rows: ArrayLike) -> NDArray[np.float64]:
        """P(IoU >= 0.5), [N], of evidence [N, features]."""
        x = (np.asarray(rows, np.float64) - np.array(self.mean)) / np.array(self.scale)
        return _sigmoid(np.clip(x, -CLIP, CLIP) @ np.array(self.weights) + self.bias)

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LogisticCalibration:
        """Inverse of `to_dict`; BundleError for anything else."""
        names = {f.name for f in fields(cls)}
        if values.keys() != names or not all(
            isinstance(values[k], list) for k in ("features", "mean", "scale", "weights")
        ):
            raise BundleError("a calibration of this version", "another or a damaged one", "run egm calibrate again")
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**known)


def fit(
    rows: Sequence[Mapping[str, float]],
    right: ArrayLike,
    *,
    samples: int,
    fitted_on: dict[str, Any],
    splits: Sequence[str] = (),
) -> LogisticCalibration:
    """Fit a map.

    Args:
        rows: evidence of answers with a box. right: [N] whether each has IoU >= 0.5.
        splits: [N] which split each is of: where the extent of things is hard to tell, right boxes are less sure.

    Raises:
        InputError: too few answers, or all of them right or wrong.
    """
    y = np.asarray(right, np.float64)
    if len(rows) < MIN_ROWS or not 0 < y.sum() < len(y):
        raise InputError(
            f"at least {MIN_ROWS} answers with a box, some right and some wrong",
            f"{len(rows)} answers, {int(y.sum())} right",
            "give more data with --data",
        )
    x = np.array([[row[name] for name in FEATURES] for row in rows])
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    x = np.clip((x - mean) / scale, -CLIP, CLIP)
    # Platt's targets keep the log-odds finite where the data separate (Platt 1999, section 2.2).
    target = np.where(y > 0, (y.sum() + 1) / (y.sum() + 2), 1 / (len(y) - y.sum() + 2))
    design = np.column_stack([x, np.ones(len(x))])
    penalty = np.diag([RIDGE] * x.shape[1] + [0.0])
    theta = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(design @ theta)
        gradient = design.T @ (p - target) + penalty @ theta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + penalty + 1e-9 * np.eye(len(theta))
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step
        if float(np.abs(step).max()) < 1e-9:
            break
    with_thought = (y > 0) & np.array([not row["thought_left_out"] for row in rows])
    counted = with_thought if with_thought.any() else y > 0
    confidence, names = _sigmoid(design @ theta), np.array(splits or [""] * len(y))
    parts = [counted, *(counted & (names == name) for name in dict.fromkeys(splits))]
    sure = min(np.quantile(confidence[p], REFUSED_RIGHT) for p in parts if p is counted or p.sum() >= MIN_RIGHT)
    return LogisticCalibration(
        method=METHOD,
        features=FEATURES,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(theta[:-1].tolist()),
        bias=float(theta[-1]),
        accept_from=round(min(float(sure), 0.5), 4),
        samples=samples,
        fitted_on=fitted_on,
    )


MIN_ROWS = 100


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))
