"""Soak: the node under load and disturbance for a long time; its memory must stay flat.

Every DISTURB_S something happens: another command, garbage images, a burst of commands, the model's process killed.
"""

from __future__ import annotations

import array
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import grounding_node, open_files, rss_mib, running, wait_until

START_S, SAMPLE_S, DISTURB_S, PROGRESS_S = 120.0, 2.0, 10.0, 60.0
WARM_UP = 0.25  # share of the samples that is left out: allocators fill their pools


@dataclass(frozen=True, slots=True)
class SoakFigures:
    """What a soak left behind.

    Attributes:
        minutes: how long.
        rss_mib: of the node after warm-up and at the end.
        slope_mib_per_h: of a line through the node's resident memory after warm-up.
        open_files: after warm-up and at the end.
        boxes, answers: published.
        kills: how often the model's process was killed; restarts: how often it was started again.
        counters: the node's own, at the end.
    """

    minutes: float
    rss_mib: tuple[float, float]
    slope_mib_per_h: float
    open_files: tuple[int, int]
    boxes: int
    answers: int
    kills: int
    restarts: int
    counters: dict[str, str]

    def text(self) -> str:
        counters = ", ".join(f"{name} {value}" for name, value in sorted(self.counters.items()))
        return (
            f"{self.minutes:.1f} minutes: node {self.rss_mib[0]:.1f} -> {self.rss_mib[1]:.1f} MiB "
            f"({self.slope_mib_per_h:+.1f} MiB/h after warm-up), open files {self.open_files[0]} -> {self.open_files[1]}, "
            f"{self.boxes} box arrays, {self.answers} answers, {self.kills} kills, {self.restarts} restarts\n"
            f"counters: {counters}"
        )


class _Disturber:
    """Does the next bad thing when its time has come."""

    def __init__(self, listener: Listener, expressions: list[str]) -> None:
        self._listener, self.kills = listener, 0
        self._expressions = itertools.cycle(expressions)
        self._images = listener.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self._acts: itertools.cycle[Callable[[], None]] = itertools.cycle(
            [self._command, self._garbage, self._command, self._burst, self._command, self._kill]
        )

    def act(self) -> None:
        next(self._acts)()

    def _command(self) -> None:
        self._listener.say(next(self._expressions))

    def _garbage(self) -> None:
        short = Image(height=480, width=640, encoding="rgb8", step=1920, data=array.array("B", b"short"))
        wide = Image(height=480, width=640, encoding="16UC1", step=1280, data=array.array("B", bytes(10)))
        for message in (short, wide, Image()):
            self._images.publish(message)

    def _burst(self) -> None:
        for number in range(200):
            self._listener.say(f"the thing number {number}")
        self._command()

    def _kill(self) -> None:
        pid = int(self._listener.values.get("model.pid", 0))
        if pid:
            os.kill(pid, signal.SIGKILL)
            self.kills += 1


def measure_soak(
    parameters: dict[str, object], picture: str, expressions: list[str], minutes: float, log: Path
) -> SoakFigures:
    """Raises: TimeoutError: the node never published a box; RuntimeError: it ended."""
    camera = ["-m", "tests.bench.ros.camera", picture, "640", "480", "30"]
    rows: list[tuple[float, float, int]] = []
    boxes = answers = 0
    with Listener() as listener, grounding_node(parameters, log) as node, running(camera):
        listener.say(expressions[0])
        wait_until(lambda: listener.detections, START_S, "a first box")
        disturber, started_s = _Disturber(listener, expressions), time.monotonic()
        disturb_s = started_s + DISTURB_S
        while (now_s := time.monotonic()) - started_s < minutes * 60:
            if node.poll() is not None:
                raise RuntimeError(f"the node ended with {node.returncode} after {now_s - started_s:.0f} s; see {log}")
            rows.append((now_s - started_s, rss_mib(node.pid), open_files(node.pid)))
            if len(rows) * SAMPLE_S % PROGRESS_S < SAMPLE_S:
                minute, rss, files = rows[-1][0] / 60, rows[-1][1], rows[-1][2]
                sys.stderr.write(f"soak: {minute:.0f} of {minutes:g} min, node {rss:.0f} MiB, {files} open files\n")
            boxes, answers = boxes + len(listener.detections), answers + len(listener.answers)
            listener.forget()
            if now_s >= disturb_s:
                disturb_s += DISTURB_S
                disturber.act()
            time.sleep(SAMPLE_S)
        values = listener.wait_diagnosed()
    steady = np.array(rows[int(len(rows) * WARM_UP) :])
    slope = float(np.polyfit(steady[:, 0] / 3600, steady[:, 1], 1)[0]) if len(steady) > 2 else float("nan")
    prefix = "grounding."
    return SoakFigures(
        minutes=minutes,
        rss_mib=(float(steady[0, 1]), float(steady[-1, 1])),
        slope_mib_per_h=slope,
        open_files=(int(steady[0, 2]), int(steady[-1, 2])),
        boxes=boxes,
        answers=answers,
        kills=disturber.kills,
        restarts=int(values.get("model.restarts", 0)),
        counters={name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)},
    )
