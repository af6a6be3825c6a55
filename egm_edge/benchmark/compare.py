"""Two reports side by side: ratios with bootstrap intervals, and whether they may be compared at all. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from egm_edge.benchmark.sample import series
from egm_edge.reporting.page import markdown_table
from egm_edge.reporting.statistics import Ratio, median_ratio, spread

MACHINE_KEYS = ("cpu", "cpus", "board", "gpu", "device", "threads", "memory_mode", "engine")
CONDITION_KEYS = ("governor", "power_mode")
PLAN_KEYS = ("workload", "max_new_tokens", "ignore_end", "speculate", "warm_up")
BUSY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Second report over first.

    Attributes:
        ratios: quantity -> median of the second over median of the first; below 1 means that the second is faster.
        medians: quantity -> (first, second), milliseconds.
        machine_differs, work_differs: "name: first / second" of everything that differs and is no result.
        warnings: what makes either report doubtful.
    """

    ratios: dict[str, Ratio]
    medians: dict[str, tuple[float, float]]
    machine_differs: list[str]
    work_differs: list[str]
    warnings: list[str]

    @property
    def verdict(self) -> str:
        """One line: noise, faster, slower, or not comparable."""
        if self.work_differs:
            return f"not the same work ({self.work_differs[0]}): the ratios say nothing about speed"
        total = self.ratios.get("total_ms")
        if total is None:
            return "nothing to compare"
        where = "on different hardware or settings, " if self.machine_differs else ""
        if total.low is None:
            return f"{where}too few requests to tell noise from a difference: {total.ratio:.3f}"
        if total.noise:
            return f"{where}the difference is noise: {total.ratio:.3f} ({total.words}) holds 1"
        faster = "faster" if total.ratio < 1 else "slower"
        times = 1 / total.ratio if total.ratio < 1 else total.ratio
        return f"{where}the second is {times:.2f}x {faster} ({total.words} of the first's time)"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = asdict(self)
        for name, ratio in self.ratios.items():
            values["ratios"][name]["noise"] = ratio.noise
        return {"verdict": self.verdict, "medians_ms": values.pop("medians"), **values}


def compare(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare two loaded reports."""
    a, b = series(first["samples"]), series(second["samples"])
    ratios = {name: ratio for name in a if (ratio := median_ratio(b[name], a[name]))}
    medians = {name: (spread(a[name]).p50, spread(b[name]).p50) for name in ratios}  # type: ignore[union-attr]
    machine = _differences(first["machine"], second["machine"], MACHINE_KEYS)
    machine += _differences(first["conditions"]["before"], second["conditions"]["before"], CONDITION_KEYS)
    work = _differences(first["plan"], second["plan"], PLAN_KEYS)
    for name in ("prompt", "image"):
        tokens = [r["summary"]["tokens"][name]["mean"] for r in (first, second)]
        if tokens[0] != tokens[1]:
            work.append(f"{name} tokens: {tokens[0]:.1f} / {tokens[1]:.1f}")
    return Comparison(ratios, medians, machine, work, _warnings(first, second))


def to_markdown(found: Comparison) -> str:
    """The comparison for people."""
    rows = [
        [
            name.removesuffix("_ms"), f"{r.ratio:.3f}", r.words, "noise" if r.noise else "",
            *(f"{v:.2f}" for v in found.medians[name]),
        ]
        for name, r in found.ratios.items()
    ]  # fmt: skip
    lines = [
        found.verdict,
        "",
        markdown_table(("second / first", "ratio", "95 %", "", "first p50 ms", "second p50 ms"), rows),
        "",
    ]
    lines += [f"- hardware or settings differ: {text}" for text in found.machine_differs]
    lines += [f"- the work differs: {text}" for text in found.work_differs]
    lines += [f"- {text}" for text in found.warnings]
    return "\n".join(lines).rstrip()


def _warnings(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    found = []
    for name, report in (("first", first), ("second", second)):
        others = report["conditions"]["others_cpu_share"]
        if others is not None and others > BUSY_SHARE:
            found.append(f"{name}: other processes used {others:.0%} of the machine's CPU time")
        if report["summary"]["tokens"]["completion"]["mean"] == 0:
            found.append(f"{name}: no tokens were generated")
    tokens = [r["summary"]["tokens"]["completion"]["mean"] for r in (first, second)]
    if abs(tokens[0] - tokens[1]) > 0.02 * max(*tokens, 1.0):
        lengths = f"{tokens[0]:.1f} / {tokens[1]:.1f} tokens"
        found.append(f"answers differ in length ({lengths}): read the time per token beside the total")
    if first["bundle"]["hash"] != second["bundle"]["hash"]:
        found.append(f"different bundles: {first['bundle']['hash'][:12]} / {second['bundle']['hash'][:12]}")
    return found


def _differences(first: dict[str, Any], second: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [
        f"{key}: {_short(first.get(key))} / {_short(second.get(key))}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
