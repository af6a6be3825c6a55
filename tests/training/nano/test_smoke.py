"""`egm train nano --smoke`: killed in the middle, the same command finishes it: base, three arms, GRPO, comparison, card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.nano.state import load_state

ARMS = ("direct", "sft", "grpo")


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "egm_edge.cli",
        "train",
        "nano",
        "--smoke",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_smoke_run_is_finished_by_the_same_command(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    first = start(tmp_path)
    while load_state(tmp_path / "direct" / "state.pt") is None:
        assert first.poll() is None, "the run ended before its first arm's checkpoint"
        time.sleep(0.5)
    first.kill()
    _, _, used = os.wait4(first.pid, 0)
    base = (tmp_path / "base" / "state.pt").stat().st_mtime_ns
    saved, _ = load_state(tmp_path / "direct" / "state.pt") or pytest.fail("the kill broke the state")

    second = start(tmp_path)
    _, status, more = os.wait4(second.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "base" / "state.pt").stat().st_mtime_ns == base, "a finished run was trained again"
    finished, _ = load_state(tmp_path / "direct" / "state.pt") or pytest.fail("no final state")
    assert finished.step >= saved.step > 0
    for name in ARMS:
        assert AutoModelForImageTextToText.from_pretrained(tmp_path / name / "checkpoint").num_parameters() > 2e6
    assert '"reward"' in (tmp_path / "grpo" / "log.jsonl").read_text(), "no GRPO step was made"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["best"] in ARMS
    assert {path.name for path in (tmp_path / "best").iterdir()} >= {"model.safetensors", "README.md", "curves.png"}
    cpu_s = used.ru_utime + used.ru_stime + more.ru_utime + more.ru_stime
    print(f"smoke run, killed once: {cpu_s:.0f} s of CPU time")
    assert cpu_s < 180
