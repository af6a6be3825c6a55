"""Every answer of a running node as one JSON line, for `egm measure ros FILE`: stages, mailbox and publish."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import rclpy
from egm_interfaces.msg import GroundedObject, GroundedObjectArray

from egm_ros.times import nanoseconds

_OUTCOMES = {
    getattr(GroundedObject, f"OUTCOME_{name}"): name
    for name in ("FAILED", "FOUND", "NOT_FOUND", "AMBIGUOUS", "TIMED_OUT", "CANCELLED", "UNPARSABLE")
}
ANSWERS = (GroundedObject.TRACK_NONE, GroundedObject.TRACK_GROUNDED)


def record(path: Path, seconds: float, topic: str = "grounded_objects") -> int:
    """Listen for a while and append the model's answers; boxes that the tracker carries are left out.

    Returns:
        How many answers were written.
    """
    rclpy.init()
    node = rclpy.create_node("measure_record", start_parameter_services=False)
    written = 0
    with path.open("a", encoding="utf-8") as stream:

        def on_objects(message: GroundedObjectArray) -> None:
            nonlocal written
            received_ns = node.get_clock().now().nanoseconds
            for one in message.objects:
                if one.track_state in ANSWERS and one.timings.total_ms > 0:
                    stream.write(json.dumps(row(one, received_ns)) + "\n")
                    written += 1

        node.create_subscription(GroundedObjectArray, topic, on_objects, 50)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.try_shutdown()
    return written


def row(one: GroundedObject, received_ns: int) -> dict[str, Any]:
    """One answer as `egm_edge.benchmark.ros_records` reads it."""
    stages = one.timings.get_fields_and_field_types()
    return {
        "received_ns": received_ns,
        "stamp_ns": nanoseconds(one.source_stamp),
        "age_ms": nanoseconds(one.age) / 1e6,
        "outcome": _OUTCOMES.get(one.outcome, str(one.outcome)),
        "expression": one.expression,
        "task": "amodal" if one.task == GroundedObject.TASK_AMODAL else "modal",
        "image_wh": [one.image_width, one.image_height],
        "cut": one.cut,
        "tokens": {name: getattr(one.tokens, name) for name in one.tokens.get_fields_and_field_types()},
        "timings": {name: getattr(one.timings, name) for name in stages},
    }
