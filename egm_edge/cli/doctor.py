"""`egm doctor`: the report of `egm_edge.doctor`, for people or as JSON. Exit code 0 when a sentence can be grounded here."""

from __future__ import annotations

import json

from egm_edge.cli.parser import Parser
from egm_edge.doctor import Finding, Status, examine, main_job_works, to_dict

MARKS = {Status.OK: "ok", Status.NOTE: "-", Status.MISSING: "MISSING"}


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="egm doctor", description="Show what this machine has, what is missing, and the command that mends it.")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    findings = examine()
    print(json.dumps(to_dict(findings), ensure_ascii=False) if arguments.json else report(findings))
    return 0 if main_job_works(findings) else 1


def report(findings: list[Finding]) -> str:
    """The findings by section, then the commands that mend what is missing."""
    lines = []
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines.append(section)
        lines.append(f"  {MARKS[finding.status]:<8} {finding.name:<24} {finding.found}")
    mends = dict.fromkeys((f.hint, f.section) for f in findings if f.hint)
    if mends:
        lines.append("to mend")
        lines += [f"  {command:<70} # {section}" for command, section in mends]
    works = "egm ground works here" if main_job_works(findings) else "egm ground does NOT work here yet: see MISSING above"
    return "\n".join([*lines, works])
