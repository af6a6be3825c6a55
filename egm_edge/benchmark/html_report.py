"""The measurement report as one self-contained page with plots: stage waterfall, latency CDF, latency against tokens."""

from __future__ import annotations

from typing import Any

from egm_edge.benchmark import report as words
from egm_edge.benchmark.sample import STAGES
from egm_edge.reporting.page import heading, page, paragraph, table
from egm_edge.reporting.svg import Line, plot, stacked_bars


def to_html(report: dict[str, Any]) -> str:
    """The page."""
    parts = []
    if beside := report["beside"]:
        parts.append(heading(f"Beside {beside['peer']} ({beside['dtype']})"))
        parts.append(table(words.BESIDE_HEAD, words.beside_rows(beside)))
        parts.append(paragraph(words.beside_lines(beside)[-1]))
    parts.append(table((), [[name, text] for name, text in words.identity(report).items()]))
    parts += [heading("Where the time goes"), waterfall(report), cdf(report), against_tokens(report), *sweeps(report)]
    for section in words.sections(report):
        parts.append(heading(section.title))
        parts += [table(section.head, section.rows)] if section.head else []
        parts += [paragraph(text) for text in section.words]
    return page("Latency on this machine", parts)


def waterfall(report: dict[str, Any]) -> str:
    """Stages of the request with the median total, and of the slowest: real requests, so their parts add up."""
    ordered = sorted(report["samples"], key=lambda s: s["total_ms"])
    chosen = {"median": ordered[(len(ordered) - 1) // 2], "slowest": ordered[-1]}
    rows = []
    for name, sample in chosen.items():
        stages = [(stage.removesuffix("_ms"), sample["stages"][stage]) for stage in STAGES]
        rows.append((name, [*stages, ("other", sample["other_ms"])]))
    return stacked_bars("Stages of one request", "ms", rows)


def cdf(report: dict[str, Any]) -> str:
    """Share of requests that were done, or had their first token, by a time."""
    lines = []
    for name, label in (("total_ms", "whole request"), ("ttft_ms", "first token")):
        values = sorted(s[name] for s in report["samples"])
        steps = [(values[0], 0.0), *((v, (i + 1) / len(values)) for i, v in enumerate(values))]
        lines.append(Line(label, steps, "step"))
    return plot("Latency, cumulative", "milliseconds", "share of requests", lines, y_range=(0.0, 1.0))


def against_tokens(report: dict[str, Any]) -> str:
    """Total latency of every request against its generated tokens; sweep points over the token cap among them."""
    points = [(float(s["tokens"]["completion"]), s["total_ms"]) for s in report["samples"]]
    lines = [Line("requests", points, "dots")]
    swept = [
        (p["summary"]["tokens"]["completion"]["mean"], p["summary"]["milliseconds"]["total_ms"]["p50"])
        for p in report["sweep"]
        if p["axis"] == "tokens"
    ]
    if swept:
        lines.append(Line("sweep over the token cap (p50)", sorted(swept)))
    return plot("Latency against tokens", "generated tokens", "milliseconds", lines)


def sweeps(report: dict[str, Any]) -> list[str]:
    """One plot per swept axis."""
    labels = {
        "resolution": "megapixels",
        "prompt": "words",
        "tokens": "maximum new tokens",
        "commands": "commands per frame",
    }
    plots = []
    for axis in dict.fromkeys(p["axis"] for p in report["sweep"]):
        points = sorted((p["x"], sum(p["group_ms"]) / len(p["group_ms"])) for p in report["sweep"] if p["axis"] == axis)
        plots.append(plot(f"Sweep over {axis}", labels[axis], "milliseconds per frame (mean)", [Line("", points)]))
    return plots
