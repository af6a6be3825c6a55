"""The evaluation report: JSON, Markdown, and the picture of accuracy against budget. Pure text; numbers come from `summary`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from egm_edge.evaluate.budget import BUDGET_KINDS
from egm_edge.evaluate.metrics import THRESHOLDS
from egm_edge.evaluate.published import matching, published_models, sources
from egm_edge.evaluate.rules import RULES
from egm_edge.evaluate.summary import Group, Summary
from egm_edge.reporting.intervals import Interval, Paired
from egm_edge.reporting.page import markdown_table
from egm_edge.reporting.svg import Line, plot

SCHEMA_VERSION = 2
METRIC_NOTE = (
    "Acc@0.5 is the share of expressions whose box has IoU {above} 0.5 with the target, boxes read by rule {rule} ({source}); "
    "answers without a box count as wrong. It is the number that the EGM paper tabulates, also where its abstract says IoU. "
    "Intervals are 95 %: Wilson for accuracies, bootstrap over images for means."
)
GROUP_HEAD = (
    "", "rows", "Acc@0.5 %", "95 %", "Acc@0.75 %", "mean IoU", "95 %", "centre %", "no box", "truncated", "mean tokens",
)  # fmt: skip
SHOWN_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
RULE_HEAD = (
    "rule", "Acc@0.5 %", "95 %", *(f"@{t} %" for t in SHOWN_THRESHOLDS if t != 0.5), "mean IoU", "centre %", "average of 8",
    "no box", "boxes on negatives", "reads",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """A finished evaluation.

    Attributes:
        run: what was evaluated on what, as `run.json` has it. summary: every number.
        metric_note: what accuracy means here.
    """

    run: Mapping[str, Any]
    summary: Summary

    @property
    def metric_note(self) -> str:
        rule = RULES[self.summary.rule]
        above = "strictly above" if rule.strict else "of at least"
        return METRIC_NOTE.format(above=above, rule=rule.name, source=rule.source)

    def to_dict(self) -> dict[str, Any]:
        """For machines; None where a number does not exist."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": dict(self.run),
            "metric_note": self.metric_note,
            "thresholds": list(THRESHOLDS),
            "summary": _no_nan(asdict(self.summary)),
        }


def to_markdown(report: EvaluationReport) -> str:
    """The report for people."""
    summary = report.summary
    lines = ["# Grounding evaluation", ""]
    lines += [f"- {name}: {_plain(value)}" for name, value in report.run.items()]
    lines += [f"- shown below: {summary.budget_kind} {summary.budget}", ""]
    lines += [report.metric_note, ""]
    if summary.overall:
        groups = [*summary.splits, *([summary.overall] if len(summary.splits) > 1 else [])]
        lines += ["## Accuracy", "", group_table(groups), ""]
    if summary.average is not None and summary.average_95 is not None:
        lines += [
            f"Average over the eight splits, unweighted: **{_percent(summary.average)}** {_range(summary.average_95)}",
            "",
        ]
    if summary.by_rule:
        lines += ["## The same replies under other projects' rules", "", rule_table(summary), ""]
    if several := summary.several:
        lines += [
            f"{several.replies} replies name several boxes, {several.ambiguous} of them without saying which: Acc@0.5 "
            f"{_percent(several.acc50)} by the robot's choice, {_percent(several.acc50_any)} had the best been taken.",
            "",
        ]
    for title, groups in (
        ("Query kinds", summary.kinds),
        ("Box sizes (COCO bounds)", summary.sizes),
        ("Tasks", summary.tasks),
    ):
        if len(groups) > 1 or (title == "Tasks" and any(g.name == "amodal" for g in groups)):
            lines += [f"## {title}", "", group_table(groups), ""]
    if summary.negatives:
        n = summary.negatives
        lines += ["## Negatives", ""]
        lines += [
            f"{n.false_positives} of {n.rows} got a box: false-positive rate {_percent(n.rate)} {_range(n.rate_95)}",
            "",
        ]
    rules = [[name or "-", str(count)] for name, count in summary.rules.items()]
    lines += ["## How answers were read", "", markdown_table(("rule or outcome", "answers"), rules), ""]
    lines += ["## Budget", "", curve_table(summary), ""]
    percentiles = ", ".join(f"{name} {value:,.0f}" for name, value in summary.milliseconds.items())
    how = "batch 1, frame of its own"
    if summary.concurrency > 1:
        how = f"client's wall time, {summary.concurrency} requests open at once: a loaded server, not its latency"
    lines += [f"Milliseconds a request ({how}): {percentiles}. For latency proper use `egm measure`.", ""]
    beside = beside_published(summary)
    if beside:
        lines += ["## Beside the published tables (Acc@0.5 %)", "", beside, ""]
        lines += [*(f"- {name}: {text}" for name, text in sources().items()), ""]
    return "\n".join(lines)


def group_table(groups: Sequence[Group]) -> str:
    """Groups as rows of a Markdown table."""
    rows = [
        [
            g.name, str(g.rows), _percent(g.acc50), _range(g.acc50_95), _percent(g.acc75), f"{g.mean_iou:.3f}",
            "{:.3f}-{:.3f}".format(*g.mean_iou_95), _percent(g.center), str(g.no_box), str(g.truncated), f"{g.mean_tokens:.1f}",
        ]
        for g in groups
    ]  # fmt: skip
    return markdown_table(GROUP_HEAD, rows)


def rule_table(summary: Summary) -> str:
    """Every rule's scores of the same replies."""
    rows = []
    for s in summary.by_rule:
        at = [_percent(s.acc_at[THRESHOLDS.index(t)]) for t in SHOWN_THRESHOLDS if t != 0.5]
        average = "-" if s.average is None else _percent(s.average)
        rows.append(
            [
                f"**{s.rule}**" if s.rule == summary.rule else s.rule, _percent(s.acc50), _range(s.acc50_95), *at,
                f"{s.mean_iou:.3f}", _percent(s.center), average, str(s.no_box), str(s.false_positives), s.source,
            ]
        )  # fmt: skip
    return markdown_table(RULE_HEAD, rows)


def curve_table(summary: Summary) -> str:
    """Accuracy at every budget."""
    label = BUDGET_KINDS[summary.budget_kind].label
    head = (label, "rows", "Acc@0.5 %", "95 %", "mean tokens", "truncated", "median ms", "p95 ms", "late")
    rows = [
        [
            str(p.budget), str(p.rows), _percent(p.acc50), _range(p.acc50_95), f"{p.mean_tokens:.1f}", str(p.truncated),
            f"{p.median_ms:.0f}", f"{p.p95_ms:.0f}", "-" if p.late_share is None else f"{p.late_share:.1%}",
        ]
        for p in summary.curve
    ]  # fmt: skip
    return markdown_table(head, rows)


def curve_svgs(summary: Summary) -> dict[str, str]:
    """File name -> SVG: accuracy against budget, tokens really generated, and milliseconds; empty for a single budget."""
    if len(summary.curve) < 2:
        return {}
    accuracies = [p.acc50 * 100 for p in summary.curve]
    bars = [(p.acc50_95[0] * 100, p.acc50_95[1] * 100) for p in summary.curve]
    budgets = [str(p.budget) for p in summary.curve]
    load = "batch 1" if summary.concurrency == 1 else f"{summary.concurrency} at once"
    axes = {
        "accuracy_by_budget.svg": (BUDGET_KINDS[summary.budget_kind].label, [float(p.budget) for p in summary.curve]),
        "accuracy_by_tokens.svg": ("generated tokens (mean)", [p.mean_tokens for p in summary.curve]),
        "accuracy_by_milliseconds.svg": (
            f"milliseconds a request (median, {load})",
            [p.median_ms for p in summary.curve],
        ),
    }
    return {
        name: plot(
            f"Acc@0.5 against {label.split(' (')[0]}", label, "Acc@0.5 (%), 95 % interval",
            [Line("", list(zip(xs, accuracies, strict=True)), bars=bars, labels=budgets)],
            x_range=(0.0, max(xs) * 1.08), y_range=(0.0, 100.0),
        )
        for name, (label, xs) in axes.items()
    }  # fmt: skip


def beside_published(summary: Summary) -> str:
    """This run's splits beside every published row that has them, under the rule that made those rows and under the run's
    own; "" when no split matches."""
    ours = {(dataset, split): g for g in summary.splits for dataset, _, split in [g.name.rpartition(" ")]}
    common = matching(ours)
    if not common:
        return ""
    head = ("model", "source", "rule", *(" ".join(split) for split in common), "average of 8")
    models = published_models()
    shown = dict.fromkeys([*(model.rule for model in models), summary.rule])
    rows = [
        [
            "**this run**", "", s.rule, *(_percent(s.splits[" ".join(split)]) for split in common),
            "-" if s.average is None else _percent(s.average),
        ]
        for s in summary.by_rule
        if s.rule in shown
    ]  # fmt: skip
    for model in models:
        values = [f"{model.acc50[split]:.1f}" if split in model.acc50 else "-" for split in common]
        stated = "-" if model.average_stated is None else f"{model.average_stated:.1f}"
        agrees = model.average is None or abs(model.average - (model.average_stated or 0.0)) < 0.06
        again = "" if agrees else f" ({model.average:.2f} recomputed)"
        rows.append([model.model, model.source, model.rule, *values, stated + again])
    rows_of = ", ".join(f"{' '.join(split)} {ours[split].rows}" for split in common)
    return markdown_table(head, rows) + f"\n\nRows of this run: {rows_of}."


def paired_markdown(found: Paired, first: str, second: str) -> str:
    """A paired comparison for people."""
    verdict = "differ" if found.differs else "do not differ by more than chance"
    return "\n".join(
        [
            f"{found.rows} rows that both answered; the runs {verdict} in Acc@0.5.",
            "",
            markdown_table(
                ("", "Acc@0.5 %", "right alone"),
                [
                    [first, _percent(found.acc50_first), str(found.only_first)],
                    [second, _percent(found.acc50_second), str(found.only_second)],
                ],
            ),
            "",
            f"second minus first: Acc@0.5 {found.acc50_gain * 100:+.2f} points {_range(found.acc50_gain95)}, "
            f"mean IoU {found.mean_iou_gain:+.4f} ({found.mean_iou_gain95[0]:+.4f} to {found.mean_iou_gain95[1]:+.4f}); "
            f"McNemar p = {found.mcnemar_p:.3g}",
        ]
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f}"


def _range(interval: Interval) -> str:
    return f"({interval[0] * 100:.1f} to {interval[1] * 100:.1f})"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, dict):
        return " ".join(_plain(v)[:40] for v in value.values())
    return str(value)


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _no_nan(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_no_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
