"""The measurement report: what is measured becomes one JSON object, from which Markdown and HTML are written. Pure text."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egm_edge.benchmark.fixed_rate import FixedRate
from egm_edge.benchmark.runner import SweepPoint
from egm_edge.benchmark.sample import Sample, series
from egm_edge.errors import InputError
from egm_edge.reporting.page import markdown_table
from egm_edge.reporting.statistics import PERCENTILES, spread

SCHEMA_VERSION = 1
KIND = "egm-measure"
BESIDE_HEAD = ("theirs / ours", "ratio, 95 %", "ours ms (p50)", "theirs ms (p50)")
HEAD = ("", "p50", "p90", "p95", "p99", "mean", "min", "max")
FEW = 100
MAX_REPORT_BYTES = 256 << 20


def summarise(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Quantity -> spread, milliseconds; tokens -> mean, min, max; and how well the stages add up."""
    found = {name: asdict(s) for name, values in series(samples).items() if (s := spread(values))}
    tokens = {}
    for name in samples[0]["tokens"]:
        counts = [s["tokens"][name] for s in samples]
        tokens[name] = {"mean": sum(counts) / len(counts), "min": min(counts), "max": max(counts)}
    total = sum(s["total_ms"] for s in samples)
    generated = sum(s["tokens"]["completion"] for s in samples)
    decode_ms = sum(s["stages"]["think_ms"] + s["stages"]["answer_ms"] for s in samples)
    return {
        "milliseconds": found,
        "tokens": tokens,
        "decode_tokens_per_s": generated / decode_ms * 1e3 if decode_ms > 0 else None,
        "requests_per_s": len(samples) / total * 1e3 if total > 0 else None,
        "unaccounted_share": sum(s["other_ms"] for s in samples) / total if total > 0 else None,
    }


def rate_dict(found: FixedRate) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "rate_hz": found.rate_hz,
        "answered": len(found.answered),
        "missed": found.missed,
        "missed_share": found.missed_share,
        "answers_per_s": found.answers_per_s,
        "wait_ms": asdict(spread([a.wait_ms for a in found.answered])),  # type: ignore[arg-type]
        "age_ms": asdict(spread([a.age_ms for a in found.answered])),  # type: ignore[arg-type]
    }


def sweep_dict(points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    """JSON-ready: per point its settings, spreads and raw samples."""
    return [
        {
            "axis": p.axis,
            "setting": p.setting,
            "x": p.x,
            "group_ms": p.group_ms,
            "summary": summarise([asdict(s) for s in p.samples]),
        }
        for p in points
    ]


def samples_dict(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """JSON-ready, tuples as JSON gives them back."""
    found: list[dict[str, Any]] = json.loads(json.dumps([asdict(s) for s in samples]))
    return found


def load_report(path: Path) -> dict[str, Any]:
    """A report as `egm measure` wrote it.

    Raises:
        InputError: not one of this schema.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise InputError("a measurement report", f"{path} of {path.stat().st_size:,} bytes", "check the file")
        values = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("a measurement report", f"{path}: {error}", "run egm measure --out DIR first") from None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise InputError("a report of egm measure", f"another file at {path}", "pass its measure.json")
    if values.get("schema_version") != SCHEMA_VERSION:
        found = f"schema {values.get('schema_version')!r} in {path}"
        raise InputError(f"a report of schema {SCHEMA_VERSION}", found, "measure again with this egm-edge")
    try:
        identity(values)
        measured = series(values["samples"])
        whole = bool(measured["total_ms"]) and values["summary"]["tokens"].keys() >= {"prompt", "image", "completion"}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError("a whole report", f"{path}: {type(error).__name__}: {error}", "measure again") from None
    if not whole:
        raise InputError("a report with requests in it", f"none in {path}", "measure again")
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} where a number should be")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a table ("" for none) and sentences under it."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: Sequence[str] = ()


def sections(report: dict[str, Any]) -> list[Section]:
    """What both forms of the report say beside who, where and the peer."""
    summary = report["summary"]
    found = [
        Section("Milliseconds per request", HEAD, spread_rows(summary), notes(report)),
        Section("Tokens", ("", "mean", "min", "max"), token_rows(summary)),
    ]
    if report["roofline"]:
        found.append(Section("Roofline", ROOFLINE_HEAD, roofline_rows(report), [roofline_words(report)]))
    if report["rate"]:
        found.append(Section("At a fixed frame rate", words=[rate_words(report["rate"])]))
    if report["sweep"]:
        found.append(Section("Sweeps", SWEEP_HEAD, sweep_rows(report["sweep"])))
    return found


def to_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["# Latency on this machine", ""]
    if report["beside"]:
        lines += [*beside_lines(report["beside"]), ""]
    lines += [f"- {name}: {words}" for name, words in identity(report).items()]
    for section in sections(report):
        lines += ["", f"## {section.title}", ""]
        lines += [markdown_table(section.head, section.rows), ""] if section.head else []
        lines += [f"- {words}" for words in section.words]
    return "\n".join(lines)


def identity(report: dict[str, Any]) -> dict[str, str]:
    """What was measured, where, when and under what conditions, as words."""
    bundle, machine, conditions, plan = (report[name] for name in ("bundle", "machine", "conditions", "plan"))
    before, after = conditions["before"], conditions["after"]
    others = conditions["others_cpu_share"]
    energy = report["energy"]["joules_per_request"]
    clock = f"{before['clock_mhz']:.0f} -> {after['clock_mhz']:.0f} MHz" if before["clock_mhz"] else "not readable"
    hot = after["temperatures_c"]
    zones = {name: f"{value:.0f} -> {hot.get(name, value):.0f} °C" for name, value in before["temperatures_c"].items()}
    kind = f"{bundle['family']} {bundle['precision']} for {bundle['target']}"
    board = f", {machine['board']}" if machine["board"] else ""
    throttled = None if before["throttled"] is None else (after["throttled"] or 0) - before["throttled"]
    return {
        "bundle": f"{bundle['hash'][:12]}, {kind}, parity {bundle['parity']}",
        "specs": f"pixels {bundle['pixel_spec_hash'][:12]}, prompt {bundle['prompt_spec_hash'][:12]}",
        "machine": f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gb']:.1f} GB{board}",
        "engine": f"{machine['engine']}, {machine['threads']} threads, memory mode {machine['memory_mode']}",
        "versions": ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        "date": report["created"],
        "requests": f"{plan['requests']} after {plan['warm_up']} of warm-up, batch 1, at most {plan['max_new_tokens']} new tokens"
        + (", end tokens ignored" if plan["ignore_end"] else "")
        + (", drafted tokens checked together" if plan["speculate"] else ", one token a step"),
        "cold start": f"checksums {report['cold']['verify_ms']:.0f} ms, load {report['cold']['load_ms']:.0f} ms, "
        f"first request {report['cold']['first_request_ms']:.0f} ms",
        "memory": f"{report['memory']['after_load_mb']:.0f} MB resident after load, peak {report['memory']['peak_mb']:.0f} MB",
        **({"GPU": _gpu_words(report["gpu"])} if report.get("gpu") else {}),
        "energy per request": ", ".join(f"{v:.2f} J ({name})" for name, v in energy.items())
        or "not readable on this machine",
        "power": f"mode {before['power_mode'] or 'none'}, governor {before['governor'] or 'not readable'}, clock {clock}",
        "temperature": ", ".join(f"{name} {words}" for name, words in zones.items()) or "not readable",
        "throttling events": "not readable" if throttled is None else str(throttled),
        "CPU used by others": "not readable" if others is None else f"{others:.0%} of the machine",
    }


def _gpu_words(gpu: dict[str, Any]) -> str:
    power = "" if gpu["power_peak_w"] is None else f", {gpu['power_peak_w']:.0f} W at most"
    return (
        f"{gpu['name']}, memory {gpu['memory_before_mb']:.0f} -> {gpu['memory_peak_mb']:.0f} MB of "
        f"{gpu['memory_total_mb']:.0f} (peak, whole board), {gpu['clock_mhz']:.0f} MHz, "
        f"{gpu['temperature_before_c']:.0f} -> {gpu['temperature_peak_c']:.0f} °C{power}, throttled: "
        f"{', '.join(gpu['throttled']) or 'no'}"
    )


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know to read the table rightly."""
    count = report["plan"]["requests"]
    found = [
        "ttft: request start to first token, image decoding included. tpot: per output token after the first.",
        f"other is what no stage holds: {report['summary']['unaccounted_share']:.2%} of all request time.",
    ]
    if count < FEW:
        found.append(f"With {count} requests the upper percentiles rest on one or two of them.")
    others = report["conditions"]["others_cpu_share"]
    if others is not None and others > 0.05:
        found.append(f"Other processes used {others:.0%} of the CPU time meanwhile: an idle machine is faster.")
    return found


def beside_lines(beside: dict[str, Any]) -> list[str]:
    """The side-by-side comparison, ratio first."""
    total = beside["ratios"].get("total_ms")
    peer = f"{beside['peer']} ({beside['dtype']})"
    head = "" if total is None else f"**{total['ratio']:.2f}x** the speed of {peer} over a whole request"
    threads = f", {beside['threads']} threads" if beside["threads"] else ""
    prompts = [_span(beside[name]) for name in ("prompt_tokens", "their_prompt_tokens")]
    prompt = (
        f"{prompts[0]} prompt" if prompts[0] == prompts[1] else f"{prompts[0]} (ours) and {prompts[1]} (theirs) prompt"
    )
    how = (
        f"{len(beside['ours'])} pairs in turns, from {beside['starts_at']} to last token, {prompt} and "
        f"{_span(beside['new_tokens'])} new tokens{threads}."
    )
    return [head, "", markdown_table(BESIDE_HEAD, beside_rows(beside)), "", how]


def _span(pair: Sequence[int]) -> str:
    fewest, most = pair
    return str(fewest) if fewest == most else f"{fewest} to {most}"


def beside_rows(beside: dict[str, Any]) -> list[list[str]]:
    """Rows of the side-by-side table."""
    names = {"total_ms": "whole request", "ttft_ms": "first token", "tpot_ms": "per token"}
    rows = []
    for name, r in beside["ratios"].items():
        medians = [statistics.median(turn[name] for turn in beside[side]) for side in ("ours", "theirs")]
        interval = "one or two pairs" if r["low"] is None else f"{r['low']:.2f} to {r['high']:.2f}"
        ratio = f"{r['ratio']:.2f} ({interval})"
        rows.append([names[name], ratio, *(f"{value:.1f}" for value in medians)])
    return rows + [[words, "not known", "-", "-"] for name, words in names.items() if name not in beside["ratios"]]


def spread_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of milliseconds."""
    keys = (*(f"p{p}" for p in PERCENTILES), "mean", "min", "max")
    return [[name.removesuffix("_ms"), *(f"{s[k]:.2f}" for k in keys)] for name, s in summary["milliseconds"].items()]


def token_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of tokens."""
    return [[name, f"{t['mean']:.1f}", str(t["min"]), str(t["max"])] for name, t in summary["tokens"].items()]


ROOFLINE_HEAD = (
    "", "GB read", "G operations", "bound ms", "by", "p50 ms", "best ms", "reached (p50)", "reached (best)",
    "p50 of the median pass",
)  # fmt: skip
SWEEP_HEAD = (
    "sweep", "setting", "ttft p50 ms", "total p50 ms", "tpot p50 ms", "image tokens", "prompt tokens", "new tokens",
    "per frame p50 ms",
)  # fmt: skip


def roofline_rows(report: dict[str, Any]) -> list[list[str]]:
    """Rows of the roofline table."""
    return [
        [
            r["stage"], f"{r['work']['bytes'] / 1e9:.3f}", f"{r['work']['operations'] / 1e9:.2f}",
            f"{r['bound_ms']:.1f}", r["bound_by"], f"{r['measured_ms']:.1f}", f"{r['best_ms']:.1f}",
            f"{r['share']:.0%}", f"{r['best_share']:.0%}", f"{r['typical_share']:.0%}",
        ]
        for r in report["roofline"]["stages"]
    ]  # fmt: skip


def roofline_words(report: dict[str, Any]) -> str:
    """What the shares are shares of."""
    limits = report["roofline"]["limits"]
    shares = [stage["best_share"] for stage in report["roofline"]["stages"]]
    busier = " A share above 100 % means that the limits were measured while the machine was busier."
    doubt = busier if max(shares, default=0.0) > 1.0 else ""
    int8 = (
        "not measured (needs the onnx package)"
        if limits["int8_gop_s"] is None
        else f"{limits['int8_gop_s']:.0f} G operations/s"
    )
    in_turns = ", in turns with the requests" if report["roofline"]["in_turns"] else ""
    return (
        f"Measured limits: memory {limits['bandwidth_gb_s']:.1f} GB/s (best of {limits['bandwidth_passes']} passes{in_turns}; "
        f"median {limits['bandwidth_median_gb_s']:.1f}; {limits['bandwidth_by']}, {limits['threads']} threads), "
        f"fp32 products {limits['fp32_gflop_s']:.0f} GFLOP/s (NumPy), 8-bit products {int8}. "
        f"Operations count a multiply-add as two; norms and activations are left out.{doubt}"
    )


def rate_words(rate: dict[str, Any]) -> str:
    """The fixed-rate run in a sentence."""
    return (
        f"Frames at {rate['rate_hz']:g} Hz, newest taken when free: {rate['answered']} answered "
        f"({rate['answers_per_s']:.2f} per second), {rate['missed']} missed ({rate['missed_share']:.0%}); "
        f"age of the frame when its answer is there p50 {rate['age_ms']['p50']:.0f} ms, "
        f"p95 {rate['age_ms']['p95']:.0f} ms; wait in the mailbox p50 {rate['wait_ms']['p50']:.1f} ms."
    )


def sweep_rows(points: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of the sweep table."""
    rows = []
    for p in points:
        ms, tokens = p["summary"]["milliseconds"], p["summary"]["tokens"]
        times = [f"{ms[name]['p50']:.1f}" if name in ms else "-" for name in ("ttft_ms", "total_ms", "tpot_ms")]
        counts = [f"{tokens[name]['mean']:.0f}" for name in ("image", "prompt", "completion")]
        rows.append([p["axis"], p["setting"], *times, *counts, f"{statistics.median(p['group_ms']):.1f}"])
    return rows
