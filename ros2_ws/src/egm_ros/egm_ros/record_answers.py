"""record_answers: every answer of a running node as one JSON line, for `egm measure ros FILE`: stages, mailbox and publish.

    ros2 run egm_ros record_answers answers.jsonl --seconds 60

All times are by the node clock: with `--ros-args -p use_sim_time:=true` the sensors' own, of a simulator or a played bag.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import rclpy
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from rclpy.utilities import remove_ros_args

from egm_edge.cli.parser import Parser, number_up_to
from egm_edge.errors import EgmError, InputError
from egm_ros.process import StopRequest, fail, spin_node, start_node
from egm_ros.times import nanoseconds

_OUTCOMES = {
    getattr(GroundedObject, f"OUTCOME_{name}"): name
    for name in ("FAILED", "FOUND", "NOT_FOUND", "AMBIGUOUS", "TIMED_OUT", "CANCELLED", "UNPARSABLE")
}
ANSWERS = (GroundedObject.TRACK_NONE, GroundedObject.TRACK_GROUNDED)


def main(args: Sequence[str] | None = None, stop: StopRequest | None = None) -> int:
    """Listen and append the model's answers; boxes that the tracker carries are left out."""
    stop = stop or StopRequest()
    parser = Parser(prog="record_answers", description=__doc__)
    parser.add_argument("out", type=Path, help="JSON lines are appended to it")
    seconds = number_up_to(threading.TIMEOUT_MAX, zero=True)
    parser.add_argument("--seconds", type=seconds, default=0.0, help="stop after this long; 0 records until Ctrl-C")
    wanted = parser.parse_args(remove_ros_args(args)[1:])
    try:
        stream = _opened(wanted.out)
        node = start_node(lambda: rclpy.create_node("record_answers"), args)
    except EgmError as error:
        return fail(error)
    written = 0
    with stream:

        def on_objects(message: GroundedObjectArray) -> None:
            nonlocal written
            received_ns = node.get_clock().now().nanoseconds
            for one in message.objects:
                if one.track_state in ANSWERS and one.timings.total_ms > 0:
                    stream.write(json.dumps(row(one, received_ns)) + "\n")
                    written += 1

        node.create_subscription(GroundedObjectArray, "grounded_objects", on_objects, 50)
        if wanted.seconds > 0:
            timer = threading.Timer(wanted.seconds, stop.set)
            timer.daemon = True
            timer.start()
        spin_node(stop, node)
    sys.stderr.write(f"{written} answers in {wanted.out}\n")
    return 0


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        found = f"{path}: {error.strerror}"
        raise InputError("a file that can be written", found, "name one in a folder that exists") from error


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
        "truncated_by": list(one.truncated_by),
        "tokens": {name: getattr(one.tokens, name) for name in one.tokens.get_fields_and_field_types()},
        "timings": {name: getattr(one.timings, name) for name in stages},
    }
