"""The same replies under every rule, and what replies with several boxes cost. Pure; computed from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from egm_edge.boxes import Coordinates, iou_xyxy
from egm_edge.evaluate.metrics import accuracies, eight_split_average
from egm_edge.evaluate.records import Record
from egm_edge.evaluate.rules import RULES, Rule, center_inside, rescored
from egm_edge.grounding import Outcome
from egm_edge.reporting.intervals import Interval, wilson


@dataclass(frozen=True, slots=True)
class RuleScores:
    """All positives under one rule; shares 0.0-1.0.

    Attributes:
        rule, source: see `egm_edge.evaluate.rules`.
        acc_at: accuracy at IoU 0.1, 0.2 … 0.9. acc50_95: Wilson interval of Acc@0.5.
        center: share of boxes whose centre lies in the target.
        average: unweighted Acc@0.5 over the eight RefCOCO-family splits; None unless all are there. splits: of each split.
        no_box: positives without a box. false_positives: negatives with one.
    """

    rule: str
    source: str
    rows: int
    acc_at: tuple[float, ...]
    acc50: float
    acc50_95: Interval
    mean_iou: float
    center: float
    average: float | None
    splits: dict[str, float]
    no_box: int
    false_positives: int


@dataclass(frozen=True, slots=True)
class SeveralBoxes:
    """Positives whose reply names more than one box; shares 0.0-1.0.

    Attributes:
        replies: how many. ambiguous: of those, how many left the answer open. acc50: by the robot's choice.
        acc50_any: had any of their boxes been taken.
    """

    replies: int
    ambiguous: int
    acc50: float
    acc50_any: float


def all_rules(records: Sequence[Record], coordinates: Coordinates = Coordinates.NORM1000) -> list[RuleScores]:
    """Every rule's scores of the records of one budget; empty where they hold no positive."""
    if all(r.target is None for r in records):
        return []
    return [rule_scores(records, rule, coordinates) for rule in RULES.values()]


def rule_scores(records: Sequence[Record], rule: Rule, coordinates: Coordinates = Coordinates.NORM1000) -> RuleScores:
    """One rule's scores; at least one positive."""
    scored = [rescored(r, rule, coordinates) for r in records]
    positives = [r for r in scored if r.target is not None]
    ious = [r.iou or 0.0 for r in positives]
    by_split: dict[tuple[str, str], list[bool]] = {}
    for record, iou in zip(positives, ious, strict=True):
        by_split.setdefault((record.dataset, record.split), []).append(rule.right(iou))
    shares = {split: sum(hits) / len(hits) for split, hits in by_split.items()}
    hits = sum(rule.right(iou) for iou in ious)
    return RuleScores(
        rule=rule.name,
        source=rule.source,
        rows=len(ious),
        acc_at=accuracies(ious, strict=rule.strict),
        acc50=hits / len(ious),
        acc50_95=wilson(hits, len(ious)),
        mean_iou=sum(ious) / len(ious),
        center=sum(center_inside(r, rule) for r in positives) / len(ious),
        average=eight_split_average(shares),
        splits={" ".join(split): share for split, share in shares.items()},
        no_box=sum(r.box is None for r in positives),
        false_positives=sum(r.box is not None for r in scored if r.target is None),
    )


def several_boxes(records: Sequence[Record]) -> SeveralBoxes | None:
    """What replies with several boxes cost; None where there are none."""
    rows = [r for r in records if r.target is not None and len(r.candidates) > 1]
    if not rows:
        return None
    best = [max(iou_xyxy(box, r.target or ()) for box in r.candidates) for r in rows]
    return SeveralBoxes(
        replies=len(rows),
        ambiguous=sum(r.outcome == Outcome.AMBIGUOUS.value for r in rows),
        acc50=sum((r.iou or 0.0) > 0.5 for r in rows) / len(rows),
        acc50_any=sum(iou > 0.5 for iou in best) / len(rows),
    )
