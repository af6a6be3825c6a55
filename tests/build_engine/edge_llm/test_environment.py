"""Finding, making and running the environment of NVIDIA's tools; a killed build leaves no worker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from build_engine.compilers import rtx_worker
from build_engine.edge_llm import environment, install
from build_engine.edge_llm.environment import EdgeLlmEnvironment, run_tool
from egm_edge import __version__
from egm_edge.cli import main as egm
from egm_edge.errors import BuildError

PATIENCE_S = 60.0
# A tool that has a child of its own; both write who they are and sleep.
TOOL = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
child = [sys.executable, "-c", code]
subprocess.Popen([*child, str(folder / "child")])
(folder / "tool").write_text(str(os.getpid()))
time.sleep(600)
"""
# A job in a shell's background ignores SIGINT, and so would its children.
BUILD = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from build_engine.edge_llm.environment import run_tool
folder = Path(sys.argv[1])
run_tool([sys.executable, folder / "tool.py", folder], what="the tool", log=folder / "log")
"""


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_takes_its_worker_and_that_ones_children_with_it(
    tmp_path: Path, killed_by: signal.Signals
) -> None:
    (tmp_path / "tool.py").write_text(TOOL)
    build = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path)], stderr=subprocess.DEVNULL)
    pids: list[int] = []
    try:
        marks = [tmp_path / "tool", tmp_path / "child"]
        _wait(lambda: all(mark.is_file() and mark.read_text() for mark in marks))
        pids = [int(mark.read_text()) for mark in marks]
        assert all(map(_runs, pids))
        build.send_signal(killed_by)
        build.wait(PATIENCE_S)
        _wait(lambda: not any(map(_runs, pids)))
    finally:
        build.kill()
        for pid in filter(_runs, pids):
            os.kill(pid, signal.SIGKILL)


def test_a_killed_build_takes_its_rtx_worker_with_it(tmp_path: Path) -> None:
    """The engine builder is held up by a file of jobs that never ends."""
    os.mkfifo(tmp_path / "jobs")
    command = rtx_worker.command(str(tmp_path / "jobs"))
    start = f"import subprocess; worker = subprocess.Popen({command!r}); print(worker.pid, flush=True); worker.wait()"
    build = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True)
    assert build.stdout is not None
    pid, writers = int(build.stdout.readline()), list[int]()
    try:
        _wait(lambda: _is_read(tmp_path / "jobs", writers))
        build.kill()
        build.wait(PATIENCE_S)
        _wait(lambda: not _runs(pid))
    finally:
        build.kill()
        if _runs(pid):
            os.kill(pid, signal.SIGKILL)
        for writer in writers:
            os.close(writer)


def _is_read(fifo: Path, writers: list[int]) -> bool:
    """Whether somebody waits for what the file of jobs says; its other end is then held open in silence."""
    try:
        writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # ENXIO: no reader yet
        return False
    return True


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print('SomeError: no kernel'); sys.exit(3)", "exit code 3: SomeError: no kernel"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by the system"),
    ],
)
def test_how_a_tool_ended_is_told_through_its_supervisor(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        run_tool([sys.executable, "-c", code], what="the tool", log=tmp_path / "log")


def test_a_tool_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"expected to start .*no-such-tool; found No such file"):
        run_tool([tmp_path / "no-such-tool"], what="the tool", log=tmp_path / "log")


def test_a_release_that_was_not_tried_is_refused_by_name(
    fake_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "0.11.1")
    with pytest.raises(BuildError, match=r"tensorrt-edgellm 0\.11\.0.*found 0\.11\.1.*trtedge.*egm setup edgellm"):
        EdgeLlmEnvironment.find()


def test_without_a_clone_the_environment_lies_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EGM_EDGELLM_VENV", raising=False)
    monkeypatch.setattr(environment, "CLONE", tmp_path / "site-packages")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(BuildError, match=r"nothing at .*data/egm-edge/edgellm; run `egm setup edgellm`"):
        EdgeLlmEnvironment.find()


def test_the_environment_of_the_tests_counts_as_made(edge_llm: EdgeLlmEnvironment) -> None:
    recipe = install.host_recipe(edge_llm.root, sys.executable)
    assert install.is_complete(recipe)
    assert not install.create(recipe, lambda line: pytest.fail(f"ran {line}"))


def _wheel(folder: Path, name: str, version: str, script: str) -> None:
    stem = f"{name}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "def main(): print('ready')\n")
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: build\n"
        wheel.writestr(f"{stem}.dist-info/METADATA", head)
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/entry_points.txt", f"[console_scripts]\n{script} = {name}:main\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.mark.slow
def test_the_devices_environment_is_made_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pip's own code, on wheels that stand for the real ones."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _wheel(wheels, "tensorrt_edgellm", "0.11.0", "tensorrt-edgellm-build")
    _wheel(wheels, "egm_edge", __version__, "egm")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(wheels)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(install, "CLONE", tmp_path / "site-packages")
    system = tmp_path / "python3"
    system.write_text(
        f'#!/bin/sh\ncase "$2" in *tensorrt*) printf \'3 12\\n10.16.2.10\\n\';; *) exec {sys.executable} "$@";; esac\n'
    )
    system.chmod(0o755)
    root = tmp_path / "robot"
    recipe = install.device_recipe(root, system)
    assert "--system-site-packages" in recipe.commands()[0]
    assert install.create(recipe, lambda line: None)
    alone = {"PATH": os.defpath}  # without a PYTHONPATH to this project
    assert subprocess.run([root / "bin/egm"], capture_output=True, text=True, check=True, env=alone).stdout == "ready\n"
    assert EdgeLlmEnvironment(root).versions["tensorrt-edgellm"] == "0.11.0"
    assert not install.create(recipe, lambda line: pytest.fail(f"ran {line}"))
    shutil.move(root, tmp_path / "moved")
    assert not install.is_complete(install.device_recipe(tmp_path / "moved", system))


def test_jetpack_6_is_told_what_runs_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic\n")
    monkeypatch.setattr(install, "L4T_RELEASE", release)
    with pytest.raises(BuildError, match=r"JetPack 7.*found L4T R36\.4; .*--target cpu"):
        install.device_recipe(tmp_path / "robot")


def test_setup_says_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert egm(["setup", "edgellm", "--host", "--into", str(tmp_path / "env"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"-m venv {tmp_path / 'env'}")
    assert "tensorrt-edgellm[export]==0.11.0" in lines[2]
    assert not (tmp_path / "env").exists()
    with pytest.raises(SystemExit, match="2"):
        egm(["setup", "edgellm", "--host", "--device"])


def test_the_constraints_travel_with_the_package() -> None:
    pins = dict(line.split("==") for line in install.CONSTRAINTS.read_text().split() if "==" in line)
    assert pins["tensorrt-edgellm"] == "0.11.0" and pins["torch"] == "2.13.0"
