"""Thread or process: how late a 30 Hz tick is, and how fast the model, when they share an interpreter or do not.

ONNX Runtime releases the GIL inside the graph; the token loop, sampling and detokenising do not.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

TICK_HZ = 30.0
PYTHON_LOOP = 20_000  # about 1 ms of Python, as a callback has


@dataclass(frozen=True, slots=True)
class ThreadFigures:
    """Milliseconds from a tick's due time to the end of its millisecond of work; the model's answers per second."""

    mode: str
    p50_ms: float
    p95_ms: float
    max_ms: float
    answers_per_s: float

    def row(self) -> str:
        ticks = f"{self.p50_ms:.1f} / {self.p95_ms:.1f} / {self.max_ms:.1f}"
        return f"| {self.mode} | {ticks} | {self.answers_per_s:.1f} |"


HEADER = "| the model runs | 30 Hz tick done after, p50 / p95 / max ms | answers per second |\n|---|---|---|"


def _run_model(bundle: str, picture: str, expression: str, ready: Any, ended: Any, count: Any) -> None:
    from egm_edge.grounder import Grounder

    image = cv2.imread(picture)
    with Grounder.from_bundle(bundle) as grounder:
        grounder.ground(image, expression, color="bgr")
        ready.set()
        while not ended.is_set():
            grounder.ground(image, expression, color="bgr")
            count.value += 1


def _ticks(seconds: float) -> list[float]:
    started_s, done_ms = time.monotonic(), []
    for number in range(int(seconds * TICK_HZ)):
        due_s = started_s + number / TICK_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))
        for _ in range(PYTHON_LOOP):
            pass
        done_ms.append((time.monotonic() - due_s) * 1e3)
    return done_ms


def measure_threads(bundle: str, picture: str, expression: str, seconds: float) -> list[ThreadFigures]:
    """Idle, in a thread, in a process."""
    spawn = multiprocessing.get_context("spawn")
    makers = {
        "not at all": None,
        "in a thread": (threading.Thread, threading.Event),
        "in a process": (spawn.Process, spawn.Event),
    }
    figures = []
    for mode, maker in makers.items():
        count = spawn.Value("i", 0)
        if maker is not None:
            make, event = maker
            ready, ended = event(), event()
            runner: Any = make(target=_run_model, args=(bundle, picture, expression, ready, ended, count))
            runner.start()
            ready.wait()
        before = count.value
        done_ms = _ticks(seconds)
        answers = count.value - before
        if maker is not None:
            ended.set()
            runner.join()
        p50_ms, p95_ms = np.percentile(done_ms, (50, 95))
        figures.append(ThreadFigures(mode, float(p50_ms), float(p95_ms), max(done_ms), answers / seconds))
    return figures
