"""The domain's nouns: validation and JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from egm_edge.boxes import Box
from egm_edge.cli.ground import SHIPPED_WORLD, describe
from egm_edge.errors import InputError
from egm_edge.grounding import (
    Candidate,
    Caution,
    Grounding,
    Outcome,
    Task,
    Timings,
    TokenCounts,
    Truncation,
    UnparsableReason,
)

FOUND = Grounding(
    outcome=Outcome.FOUND,
    expression='the "red" mug \N{CUP WITH STRAW}',
    task=Task.AMODAL,
    image_wh=(640, 480),
    box=Box(-10.5, 0.0, 320.0, 470.25),
    label="mug",
    confidence=0.75,
    reasoning="behind the box",
    parse_rule="json",
    candidates=(Candidate(Box(1.0, 2.0, 3.0, 4.0), "cup"), Candidate(Box(-10.5, 0.0, 320.0, 470.25), "mug")),
    tokens=TokenCounts(prompt=343, image=300, think=41, completion=76),
    timings=Timings(vision_ms=12.5, frame_reused=True),
    stamp_ns=1_700_000_000_123_456_789,
    deadline_met=True,
    bundle_hash="ab12",
)
LOST = Grounding(outcome=Outcome.NOT_FOUND, expression="a unicorn", task=Task.MODAL, image_wh=(1, 1))

UNREADABLE = replace(LOST, outcome=Outcome.UNPARSABLE, reason=UnparsableReason.CUT)


@pytest.mark.parametrize(
    "grounding",
    [
        pytest.param(FOUND, id="every field set"),
        pytest.param(LOST, id="defaults"),
        pytest.param(UNREADABLE, id="unparsable"),
    ],
)
def test_json_round_trip_loses_nothing(grounding: Grounding) -> None:
    assert Grounding.from_dict(json.loads(json.dumps(grounding.to_dict()))) == grounding


def test_json_shows_the_box_as_pixels() -> None:
    assert FOUND.to_dict()["box"] == [-10.5, 0.0, 320.0, 470.25]
    assert LOST.to_dict()["box"] is None


@pytest.mark.parametrize(
    ("grounding", "caution", "said"),
    [
        pytest.param(FOUND, None, "", id="sure"),
        pytest.param(replace(FOUND, confidence=0.31), Caution.GUESS, f"a guess; {SHIPPED_WORLD}", id="likelier wrong than right"),
        pytest.param(replace(LOST, confidence=0.05), Caution.REFUSED, "refused", id="below the operating point"),
        pytest.param(replace(FOUND, confidence=None), None, "", id="uncalibrated"),
        pytest.param(LOST, None, "", id="the model says that there is none"),
    ],
)
def test_a_low_confidence_is_a_caution(grounding: Grounding, caution: Caution | None, said: str) -> None:
    assert grounding.caution is caution
    assert grounding.to_dict()["caution"] == (caution.value if caution else None)
    line = describe(grounding, world=SHIPPED_WORLD)
    assert said in line and ("(" in line) == bool(said)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.FOUND])
def test_only_found_may_carry_a_box(outcome: Outcome) -> None:
    with pytest.raises(InputError, match="FOUND"):
        Grounding(outcome=outcome, expression="x", task=Task.MODAL, image_wh=(1, 1), box=Box(0, 0, 1, 1))


def test_found_needs_a_box() -> None:
    with pytest.raises(InputError, match="FOUND"):
        Grounding(outcome=Outcome.FOUND, expression="x", task=Task.MODAL, image_wh=(1, 1))


@pytest.mark.parametrize(("text", "task"), [("modal", Task.MODAL), ("amodal", Task.AMODAL), (Task.AMODAL, Task.AMODAL)])
def test_task_is_parsed_from_its_name(text: str, task: Task) -> None:
    assert Task.parse(text) is task


def test_an_unknown_task_names_the_allowed_ones() -> None:
    with pytest.raises(InputError, match="'modal' or 'amodal'; found 'Modal'"):
        Task.parse("Modal")


def test_supervision_gets_the_answer_with_its_label() -> None:
    pytest.importorskip("supervision")
    detections = FOUND.to_supervision()
    assert detections.xyxy.tolist() == [[-10.5, 0.0, 320.0, 470.25]]
    assert detections.confidence.tolist() == [0.75]
    assert detections["class_name"].tolist() == ["mug"]
    assert len(LOST.to_supervision()) == 0
    both = replace(FOUND, outcome=Outcome.AMBIGUOUS, box=None).to_supervision()
    assert both["class_name"].tolist() == ["cup", "mug"]


def test_without_supervision_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        FOUND.to_supervision()


def test_what_was_cut_short_is_a_set_and_its_old_name_still_reads() -> None:
    cut = frozenset({Truncation.MAX_NEW_TOKENS, Truncation.THOUGHT})
    found = Grounding(Outcome.NOT_FOUND, "x", Task.MODAL, (10, 10), truncated_by=cut)
    values = found.to_dict()
    assert (values["truncated_by"], values["cut"], found.cut) == (["thought", "max_new_tokens"], *2 * ["thought, max_new_tokens"])
    del values["truncated_by"]  # as an older release wrote it
    assert Grounding.from_dict(values) == found
