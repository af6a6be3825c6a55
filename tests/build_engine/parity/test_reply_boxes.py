"""What a reference's reply means: a second witness reads one plain box, the parser whatever leaves something to decide."""

from __future__ import annotations

import pytest

from build_engine.parity.cases import Case
from build_engine.parity.reference_side import box_of
from build_engine.parity.witnesses import read_box
from egm_edge.grounding import Task
from egm_edge.parsing import parse_answer

MUG = '{"bbox_2d": [100, 200, 300, 400], "label": "red mug"}'
KETTLE = '{"bbox_2d": [500, 200, 700, 400], "label": "kettle"}'
INTERN_MUG = "<ref>red mug</ref><box>[[100, 200, 300, 400]]</box>"
INTERN_KETTLE = "<ref>kettle</ref><box>[[500, 200, 700, 400]]</box>"
BOX = (100.0, 200.0, 300.0, 400.0)


@pytest.mark.parametrize("answer", [f"```json\n[{MUG}]\n```", MUG, INTERN_MUG])
def test_a_plain_box_is_read_without_the_parser(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build_engine.parity.reference_side.parse_answer", None)
    box = box_of(f"Not at [1, 2, 3, 4].</think>{answer}", Case(b"", "the red mug", Task.MODAL), (1000, 1000), in_thought=True)
    assert box is not None and box.xyxy == BOX


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(f"```json\n[{MUG}, {KETTLE}]\n```", BOX, id="an object that it is beside, named last"),
        pytest.param(INTERN_MUG + INTERN_KETTLE, BOX, id="the same in InternVL's words"),
        pytest.param(f"[{MUG}, {KETTLE.replace('kettle', 'red mug')}]", None, id="one of two"),
        pytest.param(f"There is no red mug in the picture. [{KETTLE}]", None, id="denied"),
        pytest.param(f"[{MUG.replace('400', '1400')}]", None, id="in pixels"),
        pytest.param('{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}', None, id="shares of a side"),
        pytest.param('{"bbox_2d": [300, 400, 100, 200]}', BOX, id="corners the other way round"),
        pytest.param(f'[{KETTLE}, {{"bbox_2d": [], "label": "red mug"}}]', None, id="an empty entry of what was asked for"),
        pytest.param('{"bbox_2d": [100, 200, 300, 400], "found": false}', None, id="a flag"),
        pytest.param("I see nothing.", None, id="no box"),
    ],
)
def test_what_leaves_something_to_decide_is_the_parsers(answer: str, expected: tuple[float, ...] | None) -> None:
    assert read_box(answer, in_thought=False) is None
    assert parse_answer(answer, expression="the red mug").box_norm1000 == expected
    box = box_of(answer, Case(b"", "the red mug", Task.MODAL), (1000, 1000), in_thought=False)
    assert (box and box.xyxy) == expected


def test_an_open_thought_has_no_box() -> None:
    assert box_of(f"It is [{MUG}]", Case(b"", "the red mug", Task.MODAL), (1000, 1000), in_thought=True) is None
