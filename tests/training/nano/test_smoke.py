"""`egm train nano --smoke`: killed in the middle, the same command finishes it and leaves a loadable checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.nano.state import load_state


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "training.cli", "nano", "--smoke", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_smoke_run_is_finished_by_the_same_command(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    first = start(tmp_path)
    while load_state(tmp_path / "state.pt") is None:
        assert first.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.5)
    first.kill()
    first.wait()
    saved, _ = load_state(tmp_path / "state.pt") or pytest.fail("the kill broke the state")

    second = start(tmp_path)
    assert second.wait() == 0
    finished, _ = load_state(tmp_path / "state.pt") or pytest.fail("no final state")
    assert finished.stage == 3 and finished.step > saved.step > 0
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint").num_parameters() > 2e6
