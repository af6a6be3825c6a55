"""SIGKILL in the middle of an evaluation, then the same command again: the result of an unbroken run, nothing asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from egm_edge.bundle import Bundle
from egm_edge.errors import InputError
from egm_edge.evaluate.records import Record, RecordLog, read_records

ROOT = Path(__file__).resolve().parents[2]
ROWS, BUDGETS = 9, (3, 6)


def run(
    bundle: Bundle, data: Path, images: Path, out: Path, kill_after: int = 0, torn: bool = False
) -> tuple[int, Path]:
    calls = out.with_suffix(".calls")
    arguments = [
        bundle.root,
        "--data",
        data,
        "--images",
        images,
        "--out",
        out,
        "--budgets",
        "3,6",
        "--threads",
        "1",
        "--json",
    ]
    command = [sys.executable, "-m", "tests.evaluate.killed_run", calls, kill_after, int(torn), *arguments]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, calls


def timeless(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records and report without what the clock says, or how many steps the engine took: drafts learn from earlier replies."""
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    for record in records:
        del record["timings"], record["total_ms"], record["tokens"]["decode_steps"]
    summary = json.loads((out / "report.json").read_text())["summary"]
    del summary["milliseconds"]
    for point in summary["curve"]:
        del point["median_ms"], point["p95_ms"]
    return records, summary


@pytest.fixture
def unbroken(tiny_cpu_bundle: Bundle, data: Path, frames_dir: Path, tmp_path: Path) -> Path:
    out = tmp_path / "unbroken"
    assert run(tiny_cpu_bundle, data, frames_dir, out)[0] == 0
    return out


def test_killed_twice_and_resumed_equals_unbroken(
    unbroken: Path, tiny_cpu_bundle: Bundle, data: Path, frames_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "broken"
    for kill_after, torn in ((5, False), (4, True)):
        assert run(tiny_cpu_bundle, data, frames_dir, out, kill_after, torn)[0] == -signal.SIGKILL
        assert not (out / "report.json").exists()
    assert not (out / "records.jsonl").read_bytes().endswith(b"\n")  # torn
    code, calls = run(tiny_cpu_bundle, data, frames_dir, out)
    assert code == 0
    assert timeless(out) == timeless(unbroken)
    asked = Counter(calls.read_text().splitlines())
    assert len(asked) == ROWS * len(BUDGETS)
    again = [request for request, times in asked.items() if times > 1]
    assert len(again) == 1  # the one whose record was torn: it was answered, but never recorded
    assert len({r.key for r in read_records(out)}) == len(list(read_records(out))) == ROWS * len(BUDGETS)


def test_a_finished_run_asks_nothing_more(
    unbroken: Path, tiny_cpu_bundle: Bundle, data: Path, frames_dir: Path
) -> None:
    before = (unbroken / "records.jsonl").read_bytes()
    calls = unbroken.with_suffix(".calls")
    count = len(calls.read_text().splitlines())
    assert run(tiny_cpu_bundle, data, frames_dir, unbroken)[0] == 0
    assert (unbroken / "records.jsonl").read_bytes() == before
    assert len(calls.read_text().splitlines()) == count == ROWS * len(BUDGETS)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    with RecordLog(tmp_path, {"bundle_hash": "a", "budgets": [8]}) as log:
        assert log.records == []
        with pytest.raises(InputError, match="another run writing there"):
            RecordLog(tmp_path, {"bundle_hash": "a", "budgets": [8]})
    with pytest.raises(InputError, match=r'bundle_hash "a"\).*bundle_hash "b"'):
        RecordLog(tmp_path, {"bundle_hash": "b", "budgets": [8]})
    with RecordLog(tmp_path, {"bundle_hash": "a", "budgets": [8]}):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --out"):
        RecordLog(tmp_path / "file", {})


def test_records_of_earlier_releases_are_read() -> None:
    values = {"id": "1", "dataset": "d", "split": "s", "kind": "", "task": "modal", "image": "a.png", "image_wh": [9, 9]}
    values |= {"expression": "x", "budget": 1, "target": None, "outcome": "NOT_FOUND", "box": None, "rule": "", "cut": ""}
    values |= {"text": "", "iou": None, "tokens": {"prompt": 4, "completion": 2}, "total_ms": 7.0}
    served = Record.from_dict(values | {"timings": {"request_ms": 7.0, "concurrency": 16}})
    assert (served.concurrency, served.tokens.completion, served.candidates) == (16, 2, ())
    assert Record.from_dict(values | {"timings": {"total_ms": 6.0}}).timings.total_ms == 6.0
    assert Record.from_dict(json.loads(json.dumps(asdict(served)))) == served
