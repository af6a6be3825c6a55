"""Summary: every number of an evaluation report, computed from its records and nothing else. Pure.

Positives (rows with a target) carry accuracy; negatives (nothing to find) carry the false-positive rate. The two are never
mixed. Amodal rows are scored against their amodal box only, which is what the reader put into `target`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from egm_edge.boxes import Coordinates
from egm_edge.evaluate.expression_type import KINDS
from egm_edge.evaluate.metrics import BOX_SIZES, EIGHT_SPLITS, accuracies, box_size, eight_split_average
from egm_edge.evaluate.records import REFUSED, Record
from egm_edge.evaluate.rule_scores import RuleScores, SeveralBoxes, all_rules, several_boxes
from egm_edge.evaluate.rules import DEFAULT_RULE, RULES, Rule, center_inside, rescored
from egm_edge.grounding import Outcome
from egm_edge.reporting.intervals import Interval, bootstrap_average, bootstrap_mean, wilson
from egm_edge.reporting.statistics import PERCENTILES

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Group:
    """Positives that belong together; accuracies and IoU 0.0-1.0, intervals 95 %.

    Attributes:
        name: "refcoco testA", "ordinal", "small"...
        acc50_95: Wilson. mean_iou_95: bootstrap over images.
        acc_at: accuracy at IoU 0.1, 0.2 … 0.9. center: share of boxes whose centre lies in the target.
        no_box: answers without a box, whatever the reason. truncated: answers cut by the token budget.
        mean_tokens: generated tokens, thoughts included. mean_think: of those, in the thought.
    """

    name: str
    rows: int
    acc50: float
    acc50_95: Interval
    acc75: float
    acc_at: tuple[float, ...]
    center: float
    mean_iou: float
    mean_iou_95: Interval
    no_box: int
    truncated: int
    mean_tokens: float
    mean_think: float


@dataclass(frozen=True, slots=True)
class Negatives:
    """Rows whose object is not there: any box is a false positive."""

    rows: int
    false_positives: int
    rate: float
    rate_95: Interval


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One budget: accuracy, tokens really used, and milliseconds of a request on a frame of its own.

    Attributes:
        rows: positives; tokens, truncations and milliseconds are over negatives too.
        late_share: answers after their deadline, 0.0-1.0; None without one.
    """

    budget: int
    rows: int
    acc50: float
    acc50_95: Interval
    mean_tokens: float
    truncated: int
    median_ms: float
    p95_ms: float
    late_share: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One evaluation at its largest budget, and the curve over all budgets.

    Attributes:
        rule: by which replies were scored, see `egm_edge.evaluate.rules`. strict: right is IoU above 0.5, not at it.
        by_rule: the same replies under every rule. several: what replies with several boxes cost; None without any.
        overall: all positives, whatever their split; None when there are none.
        average, average_95: unweighted Acc@0.5 over the eight RefCOCO-family splits; None unless all eight are complete.
        rules: how answers were read: "json", "bracket_list"... for boxes, "NOT_FOUND" or "UNPARSABLE" for none.
        milliseconds: percentile -> total per request on a frame of its own, all rows; batch 1. Of a server the client's
            wall time with up to `concurrency` requests open, of what it did not refuse.
        budget_kind: what the budgets limit, see `egm_edge.evaluate.budget`. concurrency: 1 for a bundle.
    """

    rule: str
    strict: bool
    budget: int
    budget_kind: str
    concurrency: int
    overall: Group | None
    splits: list[Group]
    average: float | None
    average_95: Interval | None
    kinds: list[Group]
    sizes: list[Group]
    tasks: list[Group]
    negatives: Negatives | None
    rules: dict[str, int]
    curve: list[CurvePoint]
    milliseconds: dict[str, float]
    by_rule: list[RuleScores]
    several: SeveralBoxes | None


def summarise(
    records: Sequence[Record], rule: Rule = RULES[DEFAULT_RULE], coordinates: Coordinates = Coordinates.NORM1000
) -> Summary:
    """Every number of the report.

    Args:
        records: of one run, any number of budgets; at least one.
        rule: by which replies are scored. coordinates: the unit that the model writes boxes in.
    """
    budget = max(record.budget for record in records)
    answered = [record for record in records if record.budget == budget]
    scored = [rescored(record, rule, coordinates) for record in records]
    full = [record for record in scored if record.budget == budget]
    positives = [record for record in full if record.target is not None]
    by_split = _grouped(positives, lambda r: (r.dataset, r.split))
    order = [*EIGHT_SPLITS, *sorted(by_split.keys() - set(EIGHT_SPLITS))]
    acc50 = {split: _acc50(_ious(rows), rule) for split, rows in by_split.items()}
    average = eight_split_average(acc50)
    eight = [by_split[split] for split in EIGHT_SPLITS] if average is not None else []
    hits = [([float(rule.right(v)) for v in _ious(rows)], [r.cluster for r in rows]) for rows in eight]
    milliseconds = np.percentile(_total_ms(full), PERCENTILES)
    return Summary(
        rule=rule.name,
        strict=rule.strict,
        budget=budget,
        budget_kind=full[0].budget_kind,
        concurrency=max(record.concurrency for record in full),
        overall=group("all", positives, rule) if positives else None,
        splits=[group(" ".join(split), by_split[split], rule) for split in order if split in by_split],
        average=average,
        average_95=bootstrap_average(hits) if hits else None,
        kinds=_groups(positives, lambda r: r.kind, KINDS, rule),
        sizes=_groups(positives, lambda r: box_size(r.target or ()), BOX_SIZES, rule),
        tasks=_groups(positives, lambda r: r.task, ("modal", "amodal"), rule),
        negatives=_negatives([record for record in full if record.target is None]),
        rules=dict(Counter(r.rule if r.outcome == Outcome.FOUND.value else r.outcome for r in answered).most_common()),
        curve=[_point(b, [r for r in scored if r.budget == b], rule) for b in sorted({r.budget for r in records})],
        milliseconds={f"p{p}": float(v) for p, v in zip(PERCENTILES, milliseconds, strict=True)},
        by_rule=all_rules(answered, coordinates),
        several=several_boxes(answered),
    )


def group(name: str, rows: Sequence[Record], rule: Rule = RULES[DEFAULT_RULE]) -> Group:
    """The scores of some positives, at least one, as the rule reads them."""
    iou = _ious(rows)
    return Group(
        name=name,
        rows=len(rows),
        acc50=_acc50(iou, rule),
        acc50_95=wilson(sum(map(rule.right, iou)), len(iou)),
        acc75=accuracies(iou, (0.75,), strict=rule.strict)[0],
        acc_at=accuracies(iou, strict=rule.strict),
        center=sum(center_inside(r, rule) for r in rows) / len(rows),
        mean_iou=float(np.mean(iou)),
        mean_iou_95=bootstrap_mean(iou, [r.cluster for r in rows]),
        no_box=sum(r.box is None for r in rows),
        truncated=sum(bool(r.cut) for r in rows),
        mean_tokens=float(np.mean([r.tokens.completion for r in rows])),
        mean_think=float(np.mean([r.tokens.think for r in rows])),
    )


def _point(budget: int, rows: Sequence[Record], rule: Rule) -> CurvePoint:
    positives = [r for r in rows if r.target is not None]
    iou = _ious(positives)
    met = [r.deadline_met for r in rows if r.deadline_met is not None]
    median_ms, p95_ms = np.percentile(_total_ms(rows), (50, 95))
    return CurvePoint(
        budget=budget,
        rows=len(positives),
        acc50=_acc50(iou, rule) if positives else 0.0,
        acc50_95=wilson(sum(map(rule.right, iou)), len(iou)),
        mean_tokens=float(np.mean([r.tokens.completion for r in rows])),
        truncated=sum(bool(r.cut) for r in rows),
        median_ms=float(median_ms),
        p95_ms=float(p95_ms),
        late_share=met.count(False) / len(met) if met else None,
    )


def _negatives(rows: Sequence[Record]) -> Negatives | None:
    if not rows:
        return None
    false = sum(r.box is not None for r in rows)
    return Negatives(len(rows), false, false / len(rows), wilson(false, len(rows)))


def _groups(rows: Iterable[Record], key: Callable[[Record], str], order: Sequence[str], rule: Rule) -> list[Group]:
    grouped = _grouped(rows, key)
    names = [*(n for n in order if n in grouped), *sorted(grouped.keys() - set(order))]
    return [group(name, grouped[name], rule) for name in names]


def _grouped(rows: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    grouped: dict[Key, list[Record]] = {}
    for row in rows:
        grouped.setdefault(key(row), []).append(row)
    return grouped


def _total_ms(rows: Sequence[Record]) -> list[float]:
    """Of what was answered; of nothing 0.0."""
    return [r.total_ms for r in rows if r.outcome != REFUSED] or [0.0]


def _ious(rows: Sequence[Record]) -> list[float]:
    return [r.iou or 0.0 for r in rows]


def _acc50(iou: Sequence[float], rule: Rule) -> float:
    return accuracies(iou, (0.5,), strict=rule.strict)[0]
