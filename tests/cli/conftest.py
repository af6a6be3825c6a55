"""Run the real command in a process of its own, as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egm_edge.draw import save_image

Egm = Callable[..., "subprocess.CompletedProcess[str]"]
TIMEOUT_S = 240


@pytest.fixture(scope="session")
def egm() -> Egm:
    """`egm("ground", path, "text")` -> CompletedProcess with text streams."""

    def run(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "egm_edge.cli", *map(str, arguments)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EGM_")} | (env or {})
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT_S} | options
        return subprocess.run(command, env=environment, check=False, **options)

    return run


def popen_with_default_signals(command: list[str]) -> subprocess.Popen[str]:
    """Start a command as a shell's foreground job would: a runner in the background may ignore SIGINT, and children inherit
    that, so that the signal under test would never arrive."""

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen)


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on stderr that holds `words`, the exit code, nothing on stdout, no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("build: ", "verify: "))]  # progress
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("egm: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 96x64 RGB picture of soft noise."""
    path = tmp_path_factory.mktemp("pictures") / "frame.png"
    save_image(path, np.random.default_rng(7).integers(0, 255, (64, 96, 3), np.uint8))
    return path


@pytest.fixture(scope="session")
def tiny_bundle(egm: Egm, tiny_qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL checkpoint with random weights, built by the real command."""
    out_dir = tmp_path_factory.mktemp("bundles") / "tiny"
    done = egm("build", tiny_qwen3_vl, "--target", "cpu", "--precision", "fp32", "-o", out_dir)
    assert done.returncode == 0, done.stderr
    return out_dir
