"""The node's health as a diagnostic_msgs/DiagnosticArray: requests, camera, model and tracking, a status each."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from egm_ros.counters import Count
from egm_ros.engine_process import EngineHealth, EngineState
from egm_ros.latency import LatencySummary
from egm_ros.track_propagator import TrackHealth

RECENT_S = 5.0


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """One camera and what is tracked in it.

    Attributes:
        name: "" for the only one.
        received, skipped: frames heard; of these, overwritten before anybody looked.
        ages_ms: see `Mailbox.ages_ms`; since the last diagnostics.
        silent_s: seconds since the last camera frame.
        is_silent: longer than it may be.
        tracks: None while nothing is tracked.
        output_rate_hz: of the tracked boxes.
    """

    name: str
    received: int
    skipped: int
    ages_ms: tuple[float, float]
    silent_s: float
    is_silent: bool
    tracks: TrackHealth | None
    output_rate_hz: float


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Everything the diagnostics say.

    Attributes:
        name: the node's fully qualified name.
        state: "active", "paused" or "inactive".
        bundle_hash: of the loaded bundle, "" when none is.
        counts: of the node and all its cameras.
        uptime_s: seconds since the node was made, of the same moment as the counts.
        cameras: at least one.
        engine: None while nothing is loaded.
        latency: of the model's answers.
    """

    name: str
    state: str
    bundle_hash: str
    counts: Counter[Count]
    uptime_s: float
    cameras: tuple[CameraHealth, ...]
    engine: EngineHealth | None
    latency: LatencySummary


class DiagnosticsWriter:
    """Turns NodeHealth into messages; remembers the last counts, so that a warning ends when the trouble has ended."""

    def __init__(self) -> None:
        self._last: Counter[Count] = Counter()
        self._troubled_s = -math.inf
        self._troubles: Counter[Count] = Counter()

    def write(self, health: NodeHealth) -> DiagnosticArray:
        statuses = [self._requests(health), _model(health)]
        for camera in health.cameras:
            statuses += [_camera(health, camera), _tracking(health, camera)]
        return DiagnosticArray(status=statuses)

    def _requests(self, health: NodeHealth) -> DiagnosticStatus:
        """Counters; WARN for RECENT_S after something was refused, rejected or failed."""
        now_s = time.monotonic()
        grown = Counter({one: n for one, n in health.counts.items() if one.is_trouble and n > self._last[one]})
        if grown:
            self._troubled_s, self._troubles = now_s, grown
        self._last = Counter(health.counts)
        troubled = now_s - self._troubled_s <= RECENT_S
        level = DiagnosticStatus.WARN if troubled else DiagnosticStatus.OK
        lately = ", ".join(f"{one.value} {n}" for one, n in self._troubles.items()) if troubled else "no trouble"
        frames = {
            "frames_received": sum(one.received for one in health.cameras),
            "frames_skipped": sum(one.skipped for one in health.cameras),
        }
        values = frames | {one.value: health.counts[one] for one in Count if health.counts[one]}
        return _status(health, "grounding", level, f"{health.state}; {lately}", values)


def _part(camera: CameraHealth, part: str) -> str:
    return f"{camera.name}/{part}" if camera.name else part


def _camera(health: NodeHealth, camera: CameraHealth) -> DiagnosticStatus:
    seen = "no frame yet" if math.isinf(camera.silent_s) else f"last frame {camera.silent_s:.1f} s ago"
    level = DiagnosticStatus.WARN if camera.is_silent else DiagnosticStatus.OK
    message = f"{seen}; is the camera publishing?" if camera.is_silent else seen
    values = {
        "uptime_s": f"{health.uptime_s:.3f}",
        "frames_received": camera.received,
        "frames_skipped": camera.skipped,
        "silent_s": f"{camera.silent_s:.2f}",
        "oldest_handed_over_ms": f"{camera.ages_ms[0]:.2f}",
        "longest_gap_ms": f"{camera.ages_ms[1]:.2f}",
    }
    return _status(health, _part(camera, "camera"), level, message, values)


def _model(health: NodeHealth) -> DiagnosticStatus:
    engine, latency = health.engine, health.latency
    if engine is None:
        return _status(health, "model", DiagnosticStatus.OK, "not loaded", {})
    well = engine.state in (EngineState.READY, EngineState.STOPPED)
    state = engine.state.value
    message = f"{state}; lost last because: {engine.last_loss}" if engine.last_loss else state
    values = {
        "state": state,
        "pid": engine.pid,
        "restarts": engine.restarts,
        "hangs": engine.hangs,
        "last_loss": engine.last_loss,
        "rss_mib": engine.rss_mib,
        "bundle_hash": health.bundle_hash,
        "answers_measured": latency.count,
        "answer_ms_p50": f"{latency.p50_ms:.1f}",
        "answer_ms_p95": f"{latency.p95_ms:.1f}",
        "tokens_per_s": f"{latency.tokens_per_s:.1f}",
        "frame_reuse": f"{latency.reuse_ratio:.2f}",
    }
    return _status(health, "model", DiagnosticStatus.OK if well else DiagnosticStatus.ERROR, message, values)


def _tracking(health: NodeHealth, camera: CameraHealth) -> DiagnosticStatus:
    tracks, part = camera.tracks, _part(camera, "tracking")
    if tracks is None:
        return _status(health, part, DiagnosticStatus.OK, "off", {})
    values = {
        "frames": tracks.frames,
        "tracks": tracks.tracks,
        "tracks_thinned": tracks.thinned,
        "answers_waiting": tracks.waiting,
        "worst_quality": f"{tracks.worst_quality:.2f}",
        "frame_ms": f"{tracks.frame_ms:.2f}",
        "frame_ms_per_track": f"{tracks.ms_per_track:.2f}",
        "output_rate_hz": f"{camera.output_rate_hz if tracks.tracks else 0.0:.1f}",
    }
    level = DiagnosticStatus.WARN if tracks.thinned else DiagnosticStatus.OK
    message = f"{tracks.tracks} tracks"
    if tracks.thinned:
        message += f"; {tracks.thinned} of the oldest are not carried on: too many for the camera's rate"
    return _status(health, part, level, message, values)


def _status(health: NodeHealth, part: str, level: bytes, message: str, values: dict) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=f"{health.name}: {part}", level=level, message=message, values=pairs)
