"""Answers of a running ROS 2 node as samples: its stages, and the two that only a node has, mailbox and publish.

Reads one JSON object a line, as `ros2 run egm_ros record_answers` writes them from `GroundedObject` messages:

    {"received_ns": ..., "stamp_ns": ..., "age_ms": ..., "outcome": "FOUND", "expression": "the red mug", "task": "modal",
     "image_wh": [640, 480], "truncated_by": [], "tokens": {"prompt": ..., ...}, "timings": {"vision_ms": ..., "queue_ms": ...}}

`stamp_ns` is the frame's own stamp, `age_ms` how old it was when the node published its answer, `received_ns` when the
subscriber had it; all by one clock. From them: mailbox = age - time in the model (the frame waits for the model, and for its
request), publish = received - stamp - age. Knows nothing of ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from egm_edge.benchmark.report import HEAD, spread_rows
from egm_edge.benchmark.sample import STAGES
from egm_edge.data.jsonl import read_objects
from egm_edge.data.problems import Problem, collected
from egm_edge.errors import InputError
from egm_edge.reporting.page import markdown_table
from egm_edge.reporting.statistics import spread

_NO_RECORD = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
ROS_STAGES = ("mailbox_ms", *STAGES, "other_ms", "publish_ms")


def read_ros_records(path: Path) -> list[dict[str, float]]:
    """Per answer: each of ROS_STAGES, and `latency_ms`, from the frame's stamp to the subscriber: their sum.

    Raises:
        InputError: unreadable, empty, or a line that is no such record.
    """
    found, problems = [], list[Problem]()
    for number, values in read_objects(path, problems):
        with collected(problems, path, number, *_NO_RECORD, expected="one record of an answer a line"):
            found.append(_stages(values))
    for problem in problems[:1]:
        hint = "record them again" if problem.line else "check the path"
        raise InputError(problem.expected, f"{problem.file}:{problem.line}: {problem.found}", hint)
    if not found:
        raise InputError("records of answers", f"none in {path}", "record while the node answers")
    return found


def summarise_ros(records: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Stage -> spread over all answers, milliseconds."""
    return {name: asdict(s) for name in (*ROS_STAGES, "latency_ms") if (s := spread([r[name] for r in records]))}


def ros_markdown(summary: dict[str, Any]) -> str:
    """The summary as a table."""
    count = summary["latency_ms"]["count"]
    return (
        markdown_table(("ms", *HEAD[1:]), spread_rows({"milliseconds": summary}))
        + f"\n\n{count} answers; latency is the frame's stamp to the subscriber. A frame that is asked about again waits in the\n"
        "mailbox meanwhile. A mailbox below zero means that the camera's clock is not the node's."
    )


def _stages(values: dict[str, Any]) -> dict[str, float]:
    timings = values["timings"]
    stages = {name: _number(timings[name]) for name in STAGES}
    total_ms, age_ms = _number(timings["total_ms"]), _number(values["age_ms"])
    latency_ms = (int(values["received_ns"]) - int(values["stamp_ns"])) / 1e6
    return {
        "mailbox_ms": age_ms - total_ms,
        **stages,
        "other_ms": total_ms - sum(stages.values()),
        "publish_ms": latency_ms - age_ms,
        "latency_ms": latency_ms,
    }


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} where milliseconds should be")
    return number

