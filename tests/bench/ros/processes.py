"""Processes of a measurement: the node and a camera, and what they cost. Knows nothing of what is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_S = 15.0
TICK_HZ = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(arguments: list[str], log_path: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`python ARGUMENTS` as a process; interrupted, and if need be killed, at the end."""
    output = log_path.open("wb") if log_path is not None else subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def grounding_node(
    parameters: dict[str, object], log_path: Path | None = None, engine_factory: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The node with these parameters, configuring and activating by itself; `engine_factory` as its `main` takes it."""
    values = {"autostart": True, **parameters}
    pairs = [f"{key}:={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    ros = ["--ros-args", *(part for pair in pairs for part in ("-p", pair))]
    start = f"import sys; from egm_ros.grounding_node import main; sys.exit(main(sys.argv, {engine_factory!r}))"
    program = ["-m", "egm_ros.grounding_node"] if engine_factory is None else ["-c", start]
    with running([*program, *ros], log_path) as process:
        yield process


def cpu_s(pid: int) -> float:
    """User and system time that a process has used, its children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


def rss_mib(pid: int) -> float:
    """Resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def children(pid: int) -> list[int]:
    """Process ids; the model's is the node's only child."""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until(ready, timeout_s: float, what: str) -> None:
    """Raises: TimeoutError: it never became true."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come about within {timeout_s:g} s")
        time.sleep(0.02)
