"""`egm build` given bad checkpoints and bad disks: one line, an exit code, and nothing half-written left."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egm_edge.bundle import Bundle
from tests.cli.conftest import Egm, assert_refused, popen_with_default_signals

CPU = ("--target", "cpu", "--precision", "fp32")


class Bomb:
    """Leaves a trace if anything unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.trace,)


@pytest.fixture
def checkpoint(tiny_qwen3_vl: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))


def test_a_pickle_only_checkpoint_is_refused_unopened(egm: Egm, checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.glob("*.safetensors*"):
        path.unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    done = egm("build", checkpoint, *CPU, "-o", tmp_path / "out")
    assert_refused(done, 3, "safetensors", "pytorch_model.bin")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()


def _cut_weights(checkpoint: Path) -> None:
    path = next(checkpoint.glob("*.safetensors"))
    os.truncate(path, path.stat().st_size // 2)


def _other_architecture(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))


def _cut_config(checkpoint: Path) -> None:
    os.truncate(checkpoint / "config.json", 40)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(shutil.rmtree, [], id="nothing there"),
        pytest.param(_cut_weights, ["safetensors"], id="weights truncated"),
        pytest.param(_other_architecture, ["llama"], id="another architecture"),
        pytest.param(_cut_config, ["config.json"], id="config truncated"),
        pytest.param(lambda c: (c / "tokenizer.json").unlink(), ["tokenizer"], id="no tokenizer"),
    ],
)
def test_unusable_checkpoints_are_refused(
    egm: Egm, checkpoint: Path, tmp_path: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    damage(checkpoint)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert_refused(egm("build", checkpoint, *CPU, "-o", tmp_path / "out"), 3, "expected", "found", *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_usage_errors_are_one_line(egm: Egm, checkpoint: Path) -> None:
    assert_refused(egm("build", checkpoint, "--target", "toaster", "-o", "x"), 2, "toaster", "cpu")
    assert_refused(egm("build", checkpoint), 2, "-o")


def test_a_directory_that_is_no_bundle_is_left_alone(egm: Egm, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep.txt").write_text("mine")
    assert_refused(egm("build", checkpoint, *CPU, "-o", tmp_path / "out"), 5, "not a bundle")
    assert (tmp_path / "out" / "keep.txt").read_text() == "mine"


def test_rebuilding_gives_the_same_bundle(egm: Egm, checkpoint: Path, tmp_path: Path) -> None:
    hashes = set()
    for name, gate in (("one", []), ("two", ["--no-gate"]), ("one", [])):
        done = egm("build", checkpoint, *CPU, *gate, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        hashes.add(Bundle.open(tmp_path / name).hash)
    assert len(hashes) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_leaves_nothing(egm: Egm, checkpoint: Path, small_disk: Path) -> None:
    done = egm("build", checkpoint, *CPU, "-o", small_disk / "out")
    assert_refused(done, 5, "no space left")
    assert os.listdir(small_disk) == []


def test_a_disk_that_fills_up_while_building_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """A file-size limit stands in for the disk that the free-space check could not foresee."""
    out_dir = tmp_path / "new" / "out"
    command = [sys.executable, "-m", "egm_edge.cli", "build", str(checkpoint), *CPU, "-o", str(out_dir)]
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "limited", *command]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=240)
    assert_refused(done, 5, "no space left")
    assert not out_dir.parent.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_build_leaves_nothing(checkpoint: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    parent = tmp_path / "bundles"
    parent.mkdir()
    command = [sys.executable, "-m", "egm_edge.cli", "build", str(checkpoint), *CPU, "-o", str(parent / "out")]
    for _ in range(5):  # a build of a tiny checkpoint may be over before the signal reaches it
        shutil.rmtree(parent / "out", ignore_errors=True)
        process = popen_with_default_signals(command)
        deadline = time.monotonic() + 120
        while not os.listdir(parent) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if process.returncode != 0:
            break
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert os.listdir(parent) == []
