"""Answers as models of many families write them, in this project's own words, each with what it means.

One JSON object a line: `text`, the `expression` asked for, and the intended `outcome`, `box`, number of `candidates`,
`label` and `reason`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egm_edge.grounding import Task
from egm_edge.parsing import parse_answer

CORPUS = [
    json.loads(line) for line in Path(__file__).with_name("corpus.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("row", CORPUS, ids=[row["note"] for row in CORPUS])
def test_what_an_answer_means(row: dict[str, Any]) -> None:
    parsed = parse_answer(
        row["text"],
        task=Task(row.get("task", "modal")),
        in_thought=row.get("in_thought", False),
        expression=row["expression"],
    )
    found = {
        "outcome": parsed.outcome.value,
        "box": list(parsed.box_norm1000) if parsed.box_norm1000 else None,
        "candidates": len(parsed.candidates),
        "reason": parsed.reason.value if parsed.reason else None,
        "label": parsed.label,
    }
    intended = {"box": None, "candidates": 0, "reason": None, "label": parsed.label} | row
    assert found == {name: intended[name] for name in found}


def test_the_corpus_is_large_and_mixed() -> None:
    outcomes = [row["outcome"] for row in CORPUS]
    assert len({row["text"] for row in CORPUS}) >= 150
    assert min(outcomes.count(o) for o in ("FOUND", "NOT_FOUND", "UNPARSABLE", "AMBIGUOUS")) >= 8
