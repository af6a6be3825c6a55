"""Several cameras and many standing queries on one model: rates, latency, CPU and memory over minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from egm_interfaces.msg import StandingCommand
from egm_interfaces.srv import SetCommands

from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import children, cpu_s, grounding_node, rss_mib, running, wait_until

SETTLE_S, START_S = 5.0, 120.0
EXPRESSIONS = ("the red bowl", "the blue bottle")  # of examples/frames/tabletop_1.png: every query has its box
HEADER = (
    "| cameras x queries | frames taken, Hz each | arrays out, Hz each | boxes a camera and frame | answers, Hz | thinned "
    "| node CPU | CPU an array, ms | model CPU | stamp to received, p50 / p95 ms | node, model MiB at start and end |\n"
    f"|{'---|' * 11}"
)


@dataclass(frozen=True, slots=True)
class CamerasFigures:
    """Rates per second; CPU of one core, percent; latency from the image's stamp to a subscriber in another process."""

    cameras: int
    queries: int
    taken_hz: float
    arrays_hz: float
    boxes: float
    answers_hz: float
    thinned: int
    node_cpu: float
    model_cpu: float
    latency_ms: tuple[float, float]
    memory_mib: tuple[float, float, float, float]

    def row(self) -> str:
        node_start, node_end, model_start, model_end = self.memory_mib
        return (
            f"| {self.cameras} x {self.queries} | {self.taken_hz:.1f} | {self.arrays_hz:.1f} | {self.boxes:.1f} "
            f"| {self.answers_hz:.1f} | {self.thinned} | {self.node_cpu:.0f} % "
            f"| {10 * self.node_cpu / max(0.1, self.cameras * self.arrays_hz):.1f} | {self.model_cpu:.0f} % "
            f"| {self.latency_ms[0]:.1f} / {self.latency_ms[1]:.1f} "
            f"| {node_start:.0f} to {node_end:.0f}, {model_start:.0f} to {model_end:.0f} |"
        )


def measure_cameras(
    parameters: dict[str, object], picture: str, count: int, queries: int, seconds: float, log: Path
) -> CamerasFigures:
    """Args: queries: for each camera.

    Raises: TimeoutError: the node never published.
    """
    names = [f"camera{number}" for number in range(count)] if count > 1 else [""]
    prefixes = [f"{name}/" if name else "" for name in names]
    cameras = [
        ["-m", "tests.bench.ros.camera", picture, "640", "480", "30", "--ros-args", "-r", f"image:=/{prefix}image"]
        for prefix in prefixes
    ]
    node = {**parameters, **({"cameras": ",".join(names)} if count > 1 else {})}
    with Listener(prefixes) as listener, grounding_node(node, log) as process, running(cameras[0]):
        extra = [running(camera) for camera in cameras[1:]]
        try:
            for one in extra:
                one.__enter__()
            for prefix in prefixes:
                _set_queries(listener, prefix, queries)
            wait_until(lambda: len(listener.detections) > 30 * count, START_S, "boxes")
            time.sleep(SETTLE_S)
            model = children(process.pid)[0]
            start = listener.wait_diagnosed()
            listener.forget()
            memory, before, started_s = (
                (rss_mib(process.pid), rss_mib(model)),
                _cpu(process.pid, model),
                time.monotonic(),
            )
            time.sleep(seconds)
            took_s, after, arrays = time.monotonic() - started_s, _cpu(process.pid, model), list(listener.detections)
            answers, end = len(listener.answers), listener.wait_diagnosed()
            memory_end = rss_mib(process.pid), rss_mib(model)
        finally:
            for one in extra:
                one.__exit__(None, None, None)
    uptime_s = float(end["uptime_s"]) - float(start["uptime_s"])
    taken = int(end["grounding.frames_received"]) - int(start["grounding.frames_received"])
    late_ms = np.array([(arrived - stamp) / 1e6 for arrived, stamp, _ in arrays])
    p50_ms, p95_ms = np.percentile(late_ms, (50, 95))
    thinned = sum(int(value) for key, value in end.items() if key.endswith("tracks_thinned"))
    return CamerasFigures(
        cameras=count,
        queries=queries,
        taken_hz=taken / uptime_s / count,
        arrays_hz=len(arrays) / took_s / count,
        boxes=float(np.mean([boxes for _, _, boxes in arrays])),
        answers_hz=answers / took_s,
        thinned=thinned,
        node_cpu=100 * (after[0] - before[0]) / took_s,
        model_cpu=100 * (after[1] - before[1]) / took_s,
        latency_ms=(float(p50_ms), float(p95_ms)),
        memory_mib=(memory[0], memory_end[0], memory[1], memory_end[1]),
    )


def _cpu(node: int, model: int) -> tuple[float, float]:
    return cpu_s(node), cpu_s(model)


def _set_queries(listener: Listener, prefix: str, count: int) -> None:
    client = listener.node.create_client(SetCommands, f"grounding_node/{prefix}set_commands")
    wait_until(client.service_is_ready, START_S, "the node")
    commands = [StandingCommand(id=f"q{n}", expression=EXPRESSIONS[n % len(EXPRESSIONS)]) for n in range(count)]
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:  # refused until the node is active
        future = client.call_async(SetCommands.Request(commands=commands))
        listener.wait(future.done, 5.0)
        if future.done() and future.result().success:
            return
        time.sleep(0.2)
    raise TimeoutError("the node did not take the queries")
