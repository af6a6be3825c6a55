"""The answer in a client's own shape: schemas filled by their names, and what no answer fits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egm_edge.boxes import Box
from egm_edge.grounding import Candidate, Grounding, Outcome, Task
from egm_edge.serve.answer_format import AnswerFormat, requested_format

ANSWER = Grounding(
    Outcome.FOUND, "the mug", Task.MODAL, (200, 100), box=Box(20, 10, 100, 50), label="mug", reasoning="It is red."
)
NOTHING = Grounding(Outcome.NOT_FOUND, "the mug", Task.MODAL, (200, 100))


@pytest.mark.parametrize(
    ("schema", "found", "absent"),
    [
        pytest.param(
            {}, {"bbox_2d": [100, 100, 500, 500], "label": "mug"}, {"bbox_2d": [], "label": ""}, id="none at all"
        ),
        pytest.param(
            {"type": "object", "properties": {"bbox": {"type": ["array", "null"], "items": {"type": "integer"}}}},
            {"bbox": [100, 100, 500, 500]},
            {"bbox": []},
            id="another name",
        ),
        pytest.param(
            {
                "properties": {"box": {"$ref": "#/$defs/B"}, "score": {"type": ["number", "null"]}},
                "$defs": {
                    "B": {
                        "type": "object",
                        "properties": {k: {"type": "integer"} for k in ("x", "y", "width", "height")},
                    }
                },
            },
            {"box": {"x": 100, "y": 100, "width": 400, "height": 400}, "score": None},
            {"box": {"x": 0, "y": 0, "width": 0, "height": 0}, "score": None},
            id="a reference, sides",
        ),
        pytest.param(
            {
                "properties": {
                    "box": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "number"}}]},
                    "found": {"type": "boolean"},
                    "reasoning": {"type": "string"},
                },
                "required": ["box", "found"],
            },
            {"box": [100, 100, 500, 500], "found": True, "reasoning": "It is red."},
            {"box": None, "found": False, "reasoning": ""},
            id="may be null",
        ),
        pytest.param(
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"bbox_2d": {"type": "array"}, "label": {"enum": ["mug"], "type": "string"}},
                },
            },
            [{"bbox_2d": [100, 100, 500, 500], "label": "mug"}],
            [],
            id="a list",
        ),
    ],
)
def test_schemas_are_filled_by_their_names(schema: dict[str, Any], found: Any, absent: Any) -> None:
    shape = AnswerFormat(schema)
    assert shape.fits and json.loads(shape.json(ANSWER)) == found and json.loads(shape.json(NOTHING)) == absent


def test_a_list_holds_every_box_that_the_model_named() -> None:
    two = (Candidate(Box(20, 10, 100, 50), "mug"), Candidate(Box(0, 0, 20, 10), ""))
    unsure = Grounding(Outcome.AMBIGUOUS, "the mug", Task.MODAL, (200, 100), candidates=two)
    box = {"type": "object", "properties": {"bbox_2d": {"type": "array"}, "label": {"type": "string"}}}
    shape = AnswerFormat({"properties": {"found": {"type": "boolean"}, "boxes": {"type": "array", "items": box}}})
    assert json.loads(shape.json(unsure)) == {
        "found": False,
        "boxes": [{"bbox_2d": [100, 100, 500, 500], "label": "mug"}, {"bbox_2d": [0, 0, 100, 100], "label": "the mug"}],
    }


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"properties": {"animal": {"type": "string"}}, "required": ["animal"]}, id="what no answer has"),
        pytest.param({"$ref": "#"}, id="itself"),
        pytest.param({"$ref": "http://example.com/schema.json"}, id="elsewhere"),
        pytest.param({"anyOf": [{"$ref": "#"}] * 3}, id="itself, thrice"),
        pytest.param({"properties": {"label": {"type": "integer"}}, "required": ["label"]}, id="another type"),
        pytest.param({"type": 3, "properties": 4}, id="no schema"),
    ],
)
def test_a_schema_that_no_answer_fits_gets_the_answers_own_shape(schema: dict[str, Any]) -> None:
    shape = AnswerFormat(schema)
    assert not shape.fits and json.loads(shape.json(ANSWER)) == {"bbox_2d": [100, 100, 500, 500], "label": "mug"}


@pytest.mark.parametrize(
    "given", [None, "json", {"type": "json_schema"}, {"type": "json_schema", "json_schema": 3}, {}, [1]]
)
def test_what_is_no_format_is_none(given: Any) -> None:
    assert requested_format(given, [{"function": 3}, 4], {"function": {"name": "f"}}) is None
