"""Answers as messages: what was not chosen and why, without a node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from egm_interfaces.msg import GroundedObject
from egm_ros.mailbox import CameraFrame
from egm_ros.messages import to_grounded_object, to_tracked_object
from egm_ros.requests import Answer, Request
from egm_ros.track_propagator import TrackedAnswer
from ros_client import image_message, picture

from egm_edge.boxes import Box
from egm_edge.grounding import Candidate, Grounding, Outcome, Task, UnparsableReason
from egm_edge.tracking import TrackedBox, TrackState

LEFT, RIGHT = Box(10, 20, 30, 60), Box(100, 20, 130, 80)


def answer(grounding: Grounding) -> Answer:
    frame = CameraFrame(image_message(picture()), 1, 0.0)
    return Answer(Request("cmd-1", "the mug", Task.MODAL), grounding, frame, standing=True)


@pytest.mark.parametrize(
    ("outcome", "box", "confidence", "caution"),
    [
        (Outcome.FOUND, LEFT, 0.9, GroundedObject.CAUTION_NONE),
        (Outcome.FOUND, LEFT, 0.3, GroundedObject.CAUTION_GUESS),
        (Outcome.NOT_FOUND, None, 0.05, GroundedObject.CAUTION_REFUSED),
        (Outcome.NOT_FOUND, None, None, GroundedObject.CAUTION_NONE),
        (Outcome.AMBIGUOUS, None, None, GroundedObject.CAUTION_NONE),
    ],
    ids=["found", "a guess", "refused by the operating point", "nothing named", "two named"],
)
def test_an_answer_carries_its_candidates_and_what_to_beware_of(
    outcome: Outcome, box: Box | None, confidence: float | None, caution: int
) -> None:
    named = (Candidate(LEFT, "mug"), Candidate(RIGHT, "m\0g"))
    found = Grounding(outcome, "the mug", Task.MODAL, (160, 120), box=box, confidence=confidence, candidates=named)
    message = to_grounded_object(answer(found), 0)
    assert message.caution == caution
    assert [(one.center.position.x, one.size_y) for one in message.candidates] == [(20.0, 40.0), (115.0, 60.0)]
    assert message.candidate_labels == ["mug", "m\ufffdg"]
    assert message.unparsable_reason == ""


@pytest.mark.parametrize("reason", UnparsableReason)
def test_an_unparsable_text_says_why(reason: UnparsableReason) -> None:
    found = Grounding(Outcome.UNPARSABLE, "the mug", Task.MODAL, (160, 120), reason=reason)
    assert to_grounded_object(answer(found), 0).unparsable_reason == reason.value


def test_a_carried_box_leaves_the_candidates_with_the_answer() -> None:
    found = Grounding(Outcome.FOUND, "the mug", Task.MODAL, (160, 120), box=LEFT, candidates=(Candidate(LEFT),))
    given = answer(replace(found, reasoning="It is on the left."))
    carried = TrackedAnswer(TrackedBox("cmd-1", RIGHT, None, TrackState.PROPAGATED, 0.75, 0, 9), given)
    assert given.frame is not None
    message = to_tracked_object(carried, given.frame, 0)
    assert (len(message.candidates), len(message.candidate_labels), message.reasoning) == (0, 0, "")
    assert (message.modal_box.center.position.x, message.track_quality) == (115.0, 0.75)
