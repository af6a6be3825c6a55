"""Camera-rate figures: a 30 Hz camera, the model busy all the time, boxes carried to every frame."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import cpu_s, grounding_node, running, wait_until

CAMERA_HZ = 30.0
SETTLE_S = 3.0
START_S = 120.0


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """One size of camera.

    Attributes:
        width, height: of the camera's images.
        camera_hz: frames that the node's callback took, per second.
        output_hz: frames for which a Detection2DArray was received, per second.
        boxed: share of those with a box in it; the others say that everything is lost just now.
        answers_hz: the model's answers, per second.
        cpu_percent: of one core, the node's process without the model's.
        latency_ms: image stamp to the box on that image received by another process, p50 and p95.
        publish_ms: image stamp to the node's publishing, p50 and p95.
        handover_ms: age of the oldest frame that the mailbox handed over, and the longest gap between two arrivals.
        age_ms: of the grounded frame when its box was published, p50.
        lost: tracked boxes that were LOST.
    """

    width: int
    height: int
    camera_hz: float
    output_hz: float
    boxed: float
    answers_hz: float
    cpu_percent: float
    latency_ms: tuple[float, float]
    publish_ms: tuple[float, float]
    handover_ms: tuple[float, float]
    age_ms: float
    lost: int

    def row(self) -> str:
        """A Markdown table row, see HEADER."""
        latency, publish = (f"{p50:.1f} / {p95:.1f}" for p50, p95 in (self.latency_ms, self.publish_ms))
        cells = (
            f"{self.width}x{self.height}",
            f"{self.camera_hz:.1f}",
            f"{self.output_hz:.1f}",
            f"{self.boxed:.0%}",
            f"{self.answers_hz:.1f}",
            f"{self.cpu_percent:.0f} %",
            publish,
            latency,
            f"{self.handover_ms[0]:.0f} / {self.handover_ms[1]:.0f}",
            f"{self.age_ms:.0f}",
        )
        return f"| {' | '.join(cells)} |"


COLUMNS = (
    "camera",
    "frames taken, Hz",
    "arrays out, Hz",
    "with a box",
    "answers, Hz",
    "node CPU, of one core",
    "stamp to publish, p50 / p95 ms",
    "stamp to received, p50 / p95 ms",
    "oldest frame handed over / longest gap of the camera, ms",
    "age of the answer, p50 ms",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def measure_stream(
    parameters: dict[str, object], picture: str, expression: str, size: tuple[int, int], seconds: float, log: Path
) -> StreamFigures:
    """Raises: TimeoutError: the node never published a box."""
    width, height = size
    camera = ["-m", "tests.bench.ros.camera", picture, str(width), str(height), str(CAMERA_HZ)]
    with Listener() as listener, grounding_node(parameters, log) as node, running(camera):
        listener.say(expression)
        wait_until(lambda: listener.detections, START_S, f"a box for {expression!r}")
        time.sleep(SETTLE_S)
        before, cpu_before, started_s = listener.wait_diagnosed(), cpu_s(node.pid), time.monotonic()
        listener.forget()
        time.sleep(seconds)
        detections, objects, answers = list(listener.detections), list(listener.objects), len(listener.answers)
        history = listener.history[1:]  # the first one speaks of the time before
        took_s, cpu_used_s = time.monotonic() - started_s, cpu_s(node.pid) - cpu_before
        after = listener.wait_diagnosed()
    diagnosed_s = float(after["camera.uptime_s"]) - float(before["camera.uptime_s"])
    taken = int(after["grounding.frames_received"]) - int(before["grounding.frames_received"])
    first = {stamp: arrival for arrival, stamp, _ in reversed(detections)}  # a frame may be said twice
    received_ms = [(arrival - stamp) / 1e6 for stamp, arrival in first.items()]
    return StreamFigures(
        width=width,
        height=height,
        camera_hz=taken / diagnosed_s,
        output_hz=len(first) / took_s,
        boxed=sum(boxes > 0 for _, _, boxes in detections) / max(1, len(detections)),
        answers_hz=answers / took_s,
        cpu_percent=cpu_used_s / took_s * 100,
        latency_ms=_p50_p95(received_ms),
        publish_ms=_p50_p95([latency for latency, _, _ in objects]),
        handover_ms=(_greatest(history, "camera.oldest_handed_over_ms"), _greatest(history, "camera.longest_gap_ms")),
        age_ms=_p50_p95([age for _, age, _ in objects])[0],
        lost=sum(state == 3 for _, _, state in objects),
    )


def _greatest(history: list[dict[str, str]], key: str) -> float:
    return max((float(values[key]) for values in history), default=float("nan"))


def _p50_p95(values: list[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    p50, p95 = np.percentile(values, (50, 95))
    return float(p50), float(p95)
