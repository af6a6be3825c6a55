"""Answers and tracks as ROS messages: GroundedObject for those who want everything, Detection2DArray for all downstream.

Every message carries the header of the frame its boxes are in, never the time of publishing. Numbers are cast before they
enter a message (see `standard_messages`).
"""

from __future__ import annotations

from collections.abc import Iterable

from egm_interfaces.msg import GroundedObject, GroundedObjectArray, StageTimings, TokenCounts
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from egm_edge.boxes import Box
from egm_edge.grounding import Caution, Grounding, Outcome, Task
from egm_edge.tracking import TrackState
from egm_ros.mailbox import CameraFrame
from egm_ros.requests import Answer
from egm_ros.standard_messages import to_bounding_box, to_detection
from egm_ros.times import to_duration
from egm_ros.track_propagator import TrackedAnswer

OUTCOMES = {outcome: getattr(GroundedObject, f"OUTCOME_{outcome.value}") for outcome in Outcome}
TRACK_STATES = {state: getattr(GroundedObject, f"TRACK_{state.value}") for state in TrackState}
CAUTIONS = {None: GroundedObject.CAUTION_NONE} | {
    one: getattr(GroundedObject, f"CAUTION_{one.name}") for one in Caution
}
TASKS = {Task.MODAL: GroundedObject.TASK_MODAL, Task.AMODAL: GroundedObject.TASK_AMODAL}
# Outcomes that say something about the whole frame; after the others an empty detection array would be a false claim.
LOOKED_EVERYWHERE = (Outcome.FOUND, Outcome.NOT_FOUND, Outcome.AMBIGUOUS)


def to_ros_text(text: str) -> str:
    """A ROS string ends at its first NUL; a model may well generate one. U+FFFD takes its place."""
    return text.replace("\0", "\ufffd")


def to_grounded_object(answer: Answer, now_ns: int) -> GroundedObject:
    """Args: answer: with or without a grounding; now_ns: the node's clock, for `age`."""
    message = GroundedObject(request_id=answer.request.request_id, expression=answer.request.expression)
    message.task = TASKS[answer.request.task]
    message.confidence, message.message = float("nan"), to_ros_text(answer.error)
    if answer.frame is not None:
        message.header = answer.frame.message.header
        message.source_stamp = message.header.stamp
        message.age = message.latency = to_duration(now_ns - answer.frame.stamp_ns)
    if answer.grounding is not None:
        _fill(message, answer.grounding)
    message.timings.queue_ms = answer.queue_ms
    return message


def to_tracked_object(followed: TrackedAnswer, frame: CameraFrame, now_ns: int) -> GroundedObject:
    """An answer's object where it is on a later frame; thought, text and candidates stay with the answer."""
    answer, tracked = followed.answer, followed.tracked
    message = to_grounded_object(answer, now_ns)
    message.header = frame.message.header
    message.latency = to_duration(now_ns - frame.stamp_ns)
    message.reasoning = message.text = ""
    message.candidates, message.candidate_labels = [], []
    message.track_state, message.track_quality = TRACK_STATES[tracked.state], float(tracked.quality)
    if answer.request.task is Task.MODAL:
        message.modal_box = to_bounding_box(tracked.box)
    elif tracked.amodal_box is not None:
        message.amodal_box = to_bounding_box(tracked.amodal_box)
    return message


def _fill(message: GroundedObject, grounding: Grounding) -> None:
    message.outcome = OUTCOMES[grounding.outcome]
    message.image_width, message.image_height = (int(v) for v in grounding.image_wh)
    if grounding.box is not None:
        message.track_state, message.track_quality = GroundedObject.TRACK_GROUNDED, 1.0
        kind = "modal" if grounding.task is Task.MODAL else "amodal"
        setattr(message, f"has_{kind}_box", True)
        setattr(message, f"{kind}_box", to_bounding_box(grounding.box))
    if grounding.confidence is not None:
        message.confidence, message.calibrated = float(grounding.confidence), True
    for name in ("label", "reasoning", "text", "parse_rule", "bundle_hash", "pixel_spec_hash", "prompt_spec_hash"):
        setattr(message, name, to_ros_text(getattr(grounding, name)))
    message.caution = CAUTIONS[grounding.caution]
    message.candidates = [to_bounding_box(one.box) for one in grounding.candidates]
    message.candidate_labels = [to_ros_text(one.label) for one in grounding.candidates]
    message.unparsable_reason = grounding.reason.value if grounding.reason is not None else ""
    message.truncated_by = sorted(part.value for part in grounding.truncated_by)
    message.has_deadline = grounding.deadline_met is not None
    message.deadline_met = bool(grounding.deadline_met)
    message.tokens = _same_fields(TokenCounts(), grounding.tokens)
    message.timings = _same_fields(StageTimings(), grounding.timings)


def _same_fields(message: TokenCounts | StageTimings, values: object) -> TokenCounts | StageTimings:
    """Copy the fields that both sides have; the message may know more (queue_ms), as may the noun."""
    for name in message.get_fields_and_field_types():
        if hasattr(values, name):
            cast = type(getattr(message, name))
            setattr(message, name, cast(getattr(values, name)))
    return message


def to_object_array(messages: list[GroundedObject]) -> GroundedObjectArray:
    """Args: messages: at least one, all of one frame."""
    return GroundedObjectArray(header=messages[0].header, objects=messages)


def to_detections(frame: CameraFrame, answers: Iterable[Answer]) -> Detection2DArray:
    """The standard message: id = request id, class_id = expression, score NaN where the bundle is not calibrated.

    Args:
        answers: about this frame; those without a box give no detection.
    """
    header: Header = frame.message.header
    found = [(one, one.grounding.box) for one in answers if one.grounding is not None and one.grounding.box is not None]
    return Detection2DArray(header=header, detections=[_detection(header, one, box) for one, box in found])


def to_tracked_detections(followed: Iterable[TrackedAnswer], frame: CameraFrame) -> Detection2DArray:
    """Everything that is followed and not lost, at one frame."""
    header: Header = frame.message.header
    boxes = [
        _detection(header, one.answer, one.tracked.amodal_box or one.tracked.box)
        for one in followed
        if one.tracked.state is not TrackState.LOST
    ]
    return Detection2DArray(header=header, detections=boxes)


def _detection(header: Header, answer: Answer, box: Box) -> Detection2D:
    confidence = answer.grounding.confidence if answer.grounding is not None else None
    score = float("nan") if confidence is None else confidence
    return to_detection(header, answer.request.request_id, answer.request.expression, score, box)
