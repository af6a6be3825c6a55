"""`egm targets`: what bundles can be built for, and how much of each was ever run."""

from __future__ import annotations

import json
from dataclasses import asdict

from build_engine.targets import TARGETS, Target, target_for
from build_engine.upstream_faults import faults_of
from egm_edge.cli.parser import Parser


def main(argv: list[str]) -> int:
    """Run the verb; EgmError reaches the caller."""
    parser = Parser(prog="egm targets", description="List the targets of `egm build`, or show one with everything known.")
    parser.add_argument("target", nargs="?", help="show this one only")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    arguments = parser.parse_args(argv)
    rows = [target_for(arguments.target)] if arguments.target is not None else list(TARGETS.values())
    if arguments.json:
        found = [row.to_dict() | {"upstream_faults": [asdict(fault) for fault in faults_of(row.name)]} for row in rows]
        print(json.dumps(found, ensure_ascii=False))
    elif arguments.target:
        print(details(rows[0]))
    else:
        print(table(rows))
    return 0


def table(rows: list[Target]) -> str:
    """One line a target."""
    cells = [("target", "runtime", "sm", "precisions", "memory", "support")]
    for row in rows:
        memory = "" if row.memory_gb is None else f"{row.memory_gb:g} GB"
        sm = " ".join(row.sm)
        cells.append((row.name, row.runtime.value, sm, ", ".join(row.precisions), memory, row.support.value))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def details(row: Target) -> str:
    """Everything known of one target, a line each."""
    memory = "differs by device"
    if row.memory_gb is not None:
        memory = f"{row.memory_gb:g} GB, {row.usable_gb:g} GB of it assumed usable"
    lines = {
        "target": row.name,
        "devices": ", ".join(row.devices),
        "runtime": row.runtime.value,
        "sm": ", ".join(row.sm) or "none",
        "precisions": f"{', '.join(row.precisions)} (default {row.default_precision})",
        "memory": memory,
        "bandwidth": f"{row.bandwidth_gb_s:g} GB/s" if row.bandwidth_gb_s else "differs by device",
        "needs": ", ".join(f"{name} {version}" for name, version in row.versions.items()),
        "steps": ", ".join(f"{step}: {place}" for step, place in row.steps.items()),
        "support": row.support.value,
    }
    text = [f"{name:<11} {value}" for name, value in lines.items()]
    text += [f"{'note':<11} {note}" for note in row.notes]
    return "\n".join(text + [f"{'upstream':<11} {fault.line()}" for fault in faults_of(row.name)])
