"""The calibration report: numbers as a dict, Markdown for people, curves as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.confidence.features import FEATURES, MEAN_LOG_PROBABILITY
from egm_edge.confidence.logistic_calibration import LogisticCalibration
from egm_edge.confidence.quality import area_under_risk_coverage, expected_calibration_error, reliability, risk_coverage
from egm_edge.confidence.run import Answered
from egm_edge.grounding import Outcome
from egm_edge.reporting.intervals import wilson
from egm_edge.reporting.page import markdown_table
from egm_edge.reporting.svg import Line, plot

CURVE_POINTS = 50
SURE = 0.5
SHOWN = {
    "share_right_of_boxes": "right", "ece": "ECE", "aurc": "AURC",
    "aurc_mean_log_probability": "AURC of mean log-probability", "wrongly_not_found": "there: not found",
    "right_turned_down": "right, turned down",
    "ambiguous": "ambiguous", "false_positives": "negatives: found",
    "false_positives_of_confidence_0.5": "of confidence >= 0.5", "ambiguous_negatives": "ambiguous",
}  # fmt: skip


def part(name: str, answered: Sequence[Answered], fitted: LogisticCalibration) -> dict[str, Any]:
    """Everything about one set of answers.

    Returns:
        JSON-ready: counts, accuracy, ECE, AURC of the confidence and of the mean log-probability, false positives on
        negatives, the reliability bins and the two risk-coverage curves.
    """
    there = np.array([a.there for a in answered], bool)
    right = np.array([a.right for a in answered], bool)
    boxed = np.array([bool(a.evidence) for a in answered], bool)
    ended = {outcome: np.array([a.outcome is outcome for a in answered], bool) for outcome in Outcome}
    evidence = np.array([[a.evidence[f] for f in FEATURES] for a in answered if a.evidence]).reshape(-1, len(FEATURES))
    p, y = fitted.probabilities(evidence), right[boxed].astype(np.float64)
    plain = evidence[:, FEATURES.index(MEAN_LOG_PROBABILITY)]
    sure, turned_down = np.zeros((2, len(answered)), bool)
    sure[boxed], turned_down[boxed] = p >= SURE, p < fitted.accept_from
    false = ended[Outcome.FOUND] & ~turned_down & ~there
    return {
        "name": name,
        "rows": len(answered),
        "answers_with_a_box": len(y),
        "acc50_where_there": _share(right, there),
        "share_right_of_boxes": _share(right, boxed),
        "ece": expected_calibration_error(p, y) if len(y) else None,
        "aurc": area_under_risk_coverage(p, y) if len(y) else None,
        "aurc_mean_log_probability": area_under_risk_coverage(plain, y) if len(y) else None,
        "negatives": int((~there).sum()),
        "false_positives": _share(false, ~there),
        "false_positives_ci95": list(wilson(int(false.sum()), int((~there).sum()))),
        "false_positives_of_confidence_0.5": _share(sure, ~there),
        "wrongly_not_found": _share(ended[Outcome.NOT_FOUND] | turned_down, there),
        "right_turned_down": _share(turned_down, right & boxed),
        "ambiguous": _share(ended[Outcome.AMBIGUOUS], there),
        "ambiguous_negatives": _share(ended[Outcome.AMBIGUOUS], ~there),
        "reliability": [[b.count, round(b.confidence, 4), round(b.accuracy, 4)] for b in reliability(p, y)],
        "risk_coverage": _curve(p, y),
        "risk_coverage_mean_log_probability": _curve(plain, y),
    }


def to_markdown(parts: Sequence[dict[str, Any]], fitted: LogisticCalibration) -> str:
    """The table that `egm calibrate` prints."""
    rows = [[p["name"], str(p["answers_with_a_box"]), *(_number(p[name]) for name in SHOWN)] for p in parts]
    head = f"Confidence map ({fitted.method}, {fitted.samples} sample(s)), fitted on {fitted.fitted_on['answers']} answers."
    point = f"Operating point: a box of confidence below {fitted.accept_from:g} is answered NOT_FOUND."
    return "\n".join([head, point, "", markdown_table(("data", "boxes", *SHOWN.values()), rows)])


def pictures(parts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """File name -> SVG: reliability of every part, and risk against coverage of the first."""
    lines = [Line("perfect", [(0.0, 0.0), (1.0, 1.0)])]
    lines += [Line(p["name"], [(c, a) for _, c, a in p["reliability"]]) for p in parts if p["reliability"]]
    held = parts[0]
    risks = [
        Line("confidence", held["risk_coverage"]),
        Line("mean log-probability", held["risk_coverage_mean_log_probability"]),
    ]
    return {
        "reliability.svg": plot("Reliability", "confidence", "share with IoU >= 0.5", lines, y_range=(0.0, 1.0)),
        "risk-coverage.svg": plot(f"Risk against coverage, {held['name']}", "coverage", "share wrong", risks),
    }


def _curve(score: Any, right: Any) -> list[tuple[float, float]]:
    if not len(score):
        return []
    coverage, risk = risk_coverage(score, right)
    places = np.unique(np.linspace(0, len(risk) - 1, CURVE_POINTS).astype(int))
    return [(round(float(coverage[i]), 4), round(float(risk[i]), 4)) for i in places]


def _share(what: NDArray[np.bool_], of: NDArray[np.bool_]) -> float | None:
    return float(what[of].mean()) if of.any() else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
