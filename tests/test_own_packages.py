"""A user's own `training/` or `build_engine/`: `egm` works beside it, and says so where both are wanted in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
THEIRS = "raise SystemExit('a stranger was imported')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with packages of those names."""
    for name in ("training", "build_engine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(THEIRS)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("line", ["targets", "recommend --device jetson-orin-nx", "train plan qwen3-vl-2b-modal-sft"])
def test_a_verb_runs_in_a_folder_with_such_a_name(line: str, folder: Path) -> None:
    done = run(folder, "-m", "egm_edge.cli", *line.split())  # puts the working directory before every installed package
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_theirs_is_what_their_own_code_imports(folder: Path) -> None:
    (folder / "training" / "__init__.py").write_text("OURS = True\n")
    done = run(folder, "-c", "import egm_edge, training; print(training.OURS)")
    assert done.stdout == "True\n"


def test_both_in_one_process_are_refused_with_both_named(folder: Path) -> None:
    (folder / "training" / "__init__.py").write_text("")
    code = "import training; from egm_edge.cli import main; raise SystemExit(main(['train', 'plan', 'qwen3-vl-2b-modal-sft']))"
    done = run(folder, "-c", code)
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    for word in ("egm-edge's own package 'training'", str(folder / "training"), "a process of its own"):
        assert word in done.stderr
