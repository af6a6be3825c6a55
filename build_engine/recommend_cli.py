"""`egm recommend [--device NAME]`: what to build for a machine, what it needs and how fast to expect it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from build_engine.memory_table import put_between
from build_engine.recommend import ANSWER_TOKENS, Advice, advise
from build_engine.targets import TARGETS
from egm_edge.cli.parser import Parser

BEGIN, END = "<!-- recommend: begin -->", "<!-- recommend: end -->"
README_TARGETS = ("cpu", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "rtx", "vllm")


def main(argv: list[str]) -> int:
    """Run the verb; EgmError reaches the caller."""
    parser = Parser(prog="egm recommend", description="Target, precision, memory and latency for a machine.")
    parser.add_argument("--device", metavar="NAME", help=f"{', '.join(TARGETS)} (default: this machine)")
    parser.add_argument("--json", action="store_true", help="one JSON object per model")
    arguments = parser.parse_args(argv)
    rows = advise(arguments.device)
    print("\n".join(json.dumps(row.to_dict()) for row in rows) if arguments.json else describe(rows))
    return 0


def describe(rows: Sequence[Advice]) -> str:
    """For people: a table, where its latencies come from, and the commands for the largest model that fits."""
    usable = rows[0].usable_gb
    head = f"target {rows[0].target}, " + ("memory differs by device" if usable is None else f"{usable:.1f} GB for a model")
    lines = [head, f"{'model':<8} {'precision':<10} {'needs':>8}  {'fits':<7} {f'{ANSWER_TOKENS} tokens':>10}  where from"]
    for row in rows:
        fits = "yes" if usable is not None and row.fits else "no" if not row.fits else "?"
        latency, source = (f"{row.latency_s:g} s" if row.latency_s else "-", row.source.value) if row.fits else ("-", "")
        lines.append(f"{row.model:<8} {row.precision:<10} {row.needed_gb:>5.1f} GB  {fits:<7} {latency:>10}  {source}".rstrip())
    fitting = [row for row in rows if row.fits]
    if not fitting:
        return "\n".join([*lines, "none of them fits; `egm recommend --device NAME` shows other machines"])
    return "\n".join([*lines, f"for {fitting[-1].model}:", *(f"  {command}" for command in fitting[-1].commands)])


def readme_table() -> str:
    """The README's table: the largest model that fits each machine."""
    lines = ["| my machine | command | memory | a 640x480 frame, 100 tokens |", "|---|---|---|---|"]
    for name in README_TARGETS:
        rows = [row for row in advise(name) if row.fits]
        row = rows[1] if name == "cpu" else rows[-1]
        latency = "not known" if row.latency_s is None else f"{row.latency_s:g} s ({row.source.value})"
        devices = ", ".join(TARGETS[name].devices[:1])
        lines.append(f"| {devices} | `{row.commands[0]}` | {row.needed_gb:.1f} GB | {latency} |")
    return "\n".join(lines)


def write_readme(path: Path) -> None:
    """Put the table between the page's markers."""
    put_between(path, BEGIN, END, readme_table())


if __name__ == "__main__":
    write_readme(Path(sys.argv[1]))
