"""Scoring rules against the verdicts of the projects they stand for.

`rule_verdicts.jsonl` holds made-up replies with the IoU that each project's own code gives them: `sglang_infer.py` of the EGM
repository (d8ca4cc, --box_remap scale), `RefCOCODataset` and `split_thinking` of VLMEvalKit (ms-vlmeval 0.0.20), and
`utils_rec.py` with `strip_reasoning_tags` of lmms-eval 0.7.3 on targets and boxes in 0-1 units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egm_edge.boxes import Coordinates
from egm_edge.evaluate.metrics import EIGHT_SPLITS
from egm_edge.evaluate.published import published_models
from egm_edge.evaluate.records import Record
from egm_edge.evaluate.rule_scores import SeveralBoxes, rule_scores, several_boxes
from egm_edge.evaluate.rules import RULES, center_inside, rescored
from egm_edge.grounding import Outcome, Task

VERDICTS = [
    json.loads(line)
    for line in Path(__file__).with_name("rule_verdicts.jsonl").read_text(encoding="utf-8").splitlines()
]
LMMS_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def record(text: str, image_wh: tuple[int, int], target: list[float] | None, **others: Any) -> Record:
    values = {
        "id": "1",
        "dataset": "d",
        "split": "s",
        "kind": "",
        "task": Task.MODAL.value,
        "image": "a.png",
        "budget": 1,
    }
    values |= {"expression": "x", "outcome": Outcome.UNPARSABLE.value, "box": None, "rule": "", "cut": "", "iou": 0.0}
    return Record.from_dict(values | {"text": text, "image_wh": image_wh, "target": target} | others)


def of(row: dict[str, Any], name: str) -> Record:
    return rescored(record(row["text"], row["image_wh"], row["target"]), RULES[name])


@pytest.mark.parametrize("name", ["egm", "vlmevalkit", "vlmevalkit-whole", "lmms", "lmms-whole"])
def test_every_reply_scores_as_by_that_project(name: str) -> None:
    assert len(VERDICTS) == 240
    differing = [row["text"] for row in VERDICTS if of(row, name).iou != pytest.approx(row[name], abs=1e-9)]
    assert not differing
    hits = {row[name] > 0.5 if name == "egm" else row[name] >= 0.5 for row in VERDICTS}
    assert hits == {True, False}
    rule = RULES[name]
    wrong = [
        row["text"]
        for row in VERDICTS
        if rule.right(of(row, name).iou or 0.0) != (row[name] > 0.5 if name == "egm" else row[name] >= 0.5)
    ]
    assert not wrong


def test_the_thresholds_and_centres_of_lmms_eval() -> None:
    rule = RULES["lmms"]
    for row in VERDICTS:
        scored = of(row, "lmms")
        assert [rule.right(scored.iou or 0.0, t) for t in LMMS_THRESHOLDS] == row["lmms_acc"], row["text"]
        assert center_inside(scored, rule) == row["lmms_center"], row["text"]


def test_the_rules_disagree_where_their_projects_do() -> None:
    shares = {
        name: sum(RULES[name].right(of(row, name).iou or 0.0) for row in VERDICTS) for name in RULES if name != "robot"
    }
    assert len(set(shares.values())) == len(shares)


def test_a_thought_that_a_server_keeps_apart_is_not_part_of_the_reply() -> None:
    text = '<think>{"bbox_2d": [0, 0, 10, 10]}</think>{"bbox_2d": [0, 0, 500, 500]}'
    apart = record(text, (100, 100), [0, 0, 50, 50], thought_apart=True)
    assert rescored(apart, RULES["egm"]).box == (0, 0, 50, 50)
    assert rescored(record(text, (100, 100), [0, 0, 50, 50]), RULES["egm"]).box == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("coordinates", "text"), [(Coordinates.PIXELS, "[10, 20, 60, 80]"), (Coordinates.NORM1, "[0.1, 0.1, 0.6, 0.4]")]
)
def test_other_units_give_the_same_box(coordinates: Coordinates, text: str) -> None:
    asked = record(text, (100, 200), [10, 20, 60, 80])
    assert rescored(asked, RULES["egm"], coordinates).iou == pytest.approx(1.0)
    assert rescored(asked, RULES["lmms"], coordinates).iou == pytest.approx(1.0)


def test_the_published_average_comes_out_of_replies_that_score_as_published() -> None:
    (published,) = (m for m in published_models() if m.model == "EGM-8B" and m.source == "README")
    right, wrong = '{"bbox_2d": [0, 0, 500, 500]}', '{"bbox_2d": [500, 500, 1000, 1000]}'
    records = [
        record(
            right if i < published.acc50[split] * 10 else wrong, (100, 100), [0, 0, 50, 50],
            id=f"{split}{i}", dataset=split[0], split=split[1],
        )
        for split in EIGHT_SPLITS
        for i in range(1000)
    ]  # fmt: skip
    scores = rule_scores(records, RULES[published.rule])
    assert scores.average is not None
    assert f"{scores.average * 100:.1f}" == "91.4" == f"{published.average_stated:.1f}"
    assert {name: round(share * 100, 1) for name, share in scores.splits.items()} == {
        " ".join(split): value for split, value in published.acc50.items()
    }


def test_replies_with_several_boxes_are_told_apart() -> None:
    boxes = ((0.0, 0.0, 50.0, 50.0), (50.0, 50.0, 100.0, 100.0))
    chosen = record("", (100, 100), [0, 0, 50, 50], candidates=boxes, box=boxes[1], iou=0.0, outcome="FOUND")
    left_open = record("", (100, 100), [0, 0, 50, 50], candidates=boxes, outcome="AMBIGUOUS")
    single = record("", (100, 100), [0, 0, 50, 50], candidates=boxes[:1], box=boxes[0], iou=1.0, outcome="FOUND")
    assert several_boxes([chosen, left_open, single]) == SeveralBoxes(2, 1, 0.0, 1.0)
    assert several_boxes([single]) is None
