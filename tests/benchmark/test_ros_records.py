"""Stages of a node's recorded answers, mailbox and publish among them, worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egm_edge.benchmark.ros_records import ROS_STAGES, read_ros_records
from egm_edge.benchmark.sample import STAGES
from egm_edge.cli.measure import main
from egm_edge.errors import InputError

TIMINGS = dict.fromkeys(STAGES, 10.0) | {"total_ms": 75.0, "ttft_ms": 30.0, "queue_ms": 4.0}
RECORD: dict[str, Any] = {
    "received_ns": 5_130_000_000,
    "stamp_ns": 5_000_000_000,
    "age_ms": 120.0,
    "outcome": "FOUND",
    "timings": TIMINGS,
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_mailbox_and_publish_are_what_the_model_does_not_hold(tmp_path: Path) -> None:
    (found,) = read_ros_records(write(tmp_path / "a.jsonl", RECORD))
    assert found["mailbox_ms"] == 45.0  # 120 ms old when published, 75 ms of them in the model
    assert found["publish_ms"] == pytest.approx(10.0)  # 130 ms old when received
    assert found["other_ms"] == 75.0 - 10.0 * len(STAGES)
    assert sum(found[name] for name in ROS_STAGES) == pytest.approx(found["latency_ms"]) == 130.0


def test_a_slower_mailbox_shows_there_and_nowhere_else(tmp_path: Path) -> None:
    late = RECORD | {"age_ms": 170.0, "received_ns": RECORD["received_ns"] + 50_000_000}
    fast, slow = read_ros_records(write(tmp_path / "a.jsonl", RECORD, late))
    differing = {name: slow[name] - fast[name] for name in fast if abs(slow[name] - fast[name]) > 1e-6}
    assert differing == pytest.approx({"mailbox_ms": 50.0, "latency_ms": 50.0})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "a.jsonl", RECORD, RECORD))
    assert main(["ros", path]) == 0
    assert "| mailbox | 45.00 |" in capsys.readouterr().out
    assert main(["ros", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latency_ms"]["count"] == 2


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        RECORD | {"timings": None},
        RECORD | {"age_ms": "soon"},
        RECORD | {"age_ms": float("nan")},
        RECORD | {"timings": TIMINGS | {"total_ms": float("inf")}},
    ],
    ids=["a list", "nothing in it", "no timings", "words", "NaN", "infinite"],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, record: Any) -> None:
    with pytest.raises(InputError, match="record them again"):
        read_ros_records(write(tmp_path / "a.jsonl", RECORD, record))


def test_no_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none in"):
        read_ros_records(write(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match="check the path"):
        read_ros_records(tmp_path / "none.jsonl")
