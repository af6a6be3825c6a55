"""The node's health as a diagnostic_msgs/DiagnosticArray: requests, camera, model and tracking, a status each."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from egm_ros.engine_process import EngineHealth
from egm_ros.follower import FollowerHealth
from egm_ros.latency import LatencySummary

TROUBLE_WORDS = ("rejected", "refused", "failed", "slow", "lost", "back", "silent")
RECENT_S = 5.0


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Everything the diagnostics say.

    Attributes:
        name: the node's fully qualified name.
        state: "active" or "inactive".
        bundle_hash: of the loaded bundle, "" when none is.
        counts: see Counters.
        uptime_s: seconds since the node was made, of the same moment as the counts.
        ages_ms: see `Mailbox.ages_ms`; since the last diagnostics.
        silent_s: seconds since the last camera frame.
        camera_timeout_s: how long it may be silent.
        engine: None while nothing is loaded.
        follower: None while nothing is tracked.
        output_rate_hz: of the tracked boxes.
        latency: of the model's answers.
    """

    name: str
    state: str
    bundle_hash: str
    counts: dict[str, int]
    uptime_s: float
    ages_ms: tuple[float, float]
    silent_s: float
    camera_timeout_s: float
    engine: EngineHealth | None
    follower: FollowerHealth | None
    output_rate_hz: float
    latency: LatencySummary


class DiagnosticsWriter:
    """Turns NodeHealth into messages; remembers the last counts, so that a warning ends when the trouble has ended."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._troubled_s = -math.inf
        self._troubles: dict[str, int] = {}

    def write(self, health: NodeHealth) -> DiagnosticArray:
        statuses = [self._requests(health), _camera(health), _model(health), _tracking(health)]
        return DiagnosticArray(status=statuses)

    def _requests(self, health: NodeHealth) -> DiagnosticStatus:
        """Counters; WARN for RECENT_S after something was refused, rejected or failed."""
        now_s = time.monotonic()
        grown = {
            name: count
            for name, count in health.counts.items()
            if count > self._last.get(name, 0) and any(word in name for word in TROUBLE_WORDS)
        }
        if grown:
            self._troubled_s, self._troubles = now_s, grown
        self._last = dict(health.counts)
        troubled = now_s - self._troubled_s <= RECENT_S
        level = DiagnosticStatus.WARN if troubled else DiagnosticStatus.OK
        lately = ", ".join(f"{name} {count}" for name, count in self._troubles.items()) if troubled else "no trouble"
        return _status(health, "grounding", level, f"{health.state}; {lately}", health.counts)


def _camera(health: NodeHealth) -> DiagnosticStatus:
    silent = health.state == "active" and health.silent_s > health.camera_timeout_s
    seen = "no frame yet" if math.isinf(health.silent_s) else f"last frame {health.silent_s:.1f} s ago"
    level = DiagnosticStatus.WARN if silent else DiagnosticStatus.OK
    message = f"{seen}; is the camera publishing?" if silent else seen
    values = {
        "uptime_s": f"{health.uptime_s:.3f}",
        "silent_s": f"{health.silent_s:.2f}",
        "oldest_handed_over_ms": f"{health.ages_ms[0]:.2f}",
        "longest_gap_ms": f"{health.ages_ms[1]:.2f}",
    }
    return _status(health, "camera", level, message, values)


def _model(health: NodeHealth) -> DiagnosticStatus:
    engine, latency = health.engine, health.latency
    if engine is None:
        return _status(health, "model", DiagnosticStatus.OK, "not loaded", {})
    level = {"ready": DiagnosticStatus.OK, "stopped": DiagnosticStatus.OK}.get(engine.state, DiagnosticStatus.ERROR)
    message = f"{engine.state}; lost last because: {engine.last_loss}" if engine.last_loss else engine.state
    values = {
        "state": engine.state,
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
    return _status(health, "model", level, message, values)


def _tracking(health: NodeHealth) -> DiagnosticStatus:
    follower = health.follower
    if follower is None:
        return _status(health, "tracking", DiagnosticStatus.OK, "off", {})
    values = {
        "frames": follower.frames,
        "tracks": follower.tracks,
        "worst_quality": f"{follower.worst_quality:.2f}",
        "frame_ms": f"{follower.frame_ms:.2f}",
        "output_rate_hz": f"{health.output_rate_hz if follower.tracks else 0.0:.1f}",
    }
    return _status(health, "tracking", DiagnosticStatus.OK, f"{follower.tracks} tracks", values)


def _status(health: NodeHealth, part: str, level: bytes, message: str, values: dict) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=f"{health.name}: {part}", level=level, message=message, values=pairs)
