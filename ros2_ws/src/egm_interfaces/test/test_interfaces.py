"""The generated messages, as a user of this package imports them."""

from egm_interfaces.action import Ground as GroundAction
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from egm_interfaces.srv import Ground, SetCommands
from rclpy.serialization import deserialize_message, serialize_message


def test_a_grounded_object_survives_serialization() -> None:
    sent = GroundedObjectArray(objects=[GroundedObject(expression="the red mug", outcome=GroundedObject.OUTCOME_FOUND)])
    sent.header.stamp.sec, sent.header.stamp.nanosec = 7, 123_456_789
    assert deserialize_message(serialize_message(sent), GroundedObjectArray) == sent


def test_requests_are_empty_by_default_and_constants_agree() -> None:
    assert (Ground.Request().expression, len(SetCommands.Request().commands)) == ("", 0)
    goal = GroundAction.Goal()
    assert (goal.expression, goal.deadline.sec, len(goal.image.data)) == ("", 0, 0)
    assert GroundAction.Goal.TASK_AMODAL == Ground.Request.TASK_AMODAL == GroundedObject.TASK_AMODAL
