"""The node's settings: one typed object, every key with its description and range.

Knows nothing of ROS; `parameters.py` declares these fields as ROS parameters, and config/grounding.yaml repeats them with
a comment each (a test keeps the two in step).
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from egm_edge.errors import InputError

RELIABILITIES = ("best_effort", "reliable")


def _setting(
    default: Any, description: str, *, low: float | None = None, high: float | None = None, choices: tuple = ()
):
    return field(default=default, metadata={"description": description, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can set; `__post_init__` reports every problem at once."""

    bundle_path: str = _setting("", "Directory of the bundle to run, made by `egm build`. Read on configure.")
    memory: str = _setting(
        "auto",
        "Memory mode of the engine; auto chooses by free RAM. Read on configure.",
        choices=("auto", "fast", "low"),
    )
    threads: int = _setting(0, "Threads of the engine; 0 lets it choose. Read on configure.", low=0, high=256)
    load_timeout_s: float = _setting(
        300.0, "The model must be loaded and warmed up within this, seconds. Read on configure.", low=1.0, high=3600.0
    )
    hang_timeout_s: float = _setting(
        30.0,
        "A model that gives no sign of life for this long while it has a request is killed and started again, seconds; "
        "longer than image and prompt take.",
        low=0.5,
        high=3600.0,
    )
    free_on_deactivate: bool = _setting(
        True, "End the model's process on deactivate and load it again on activate; false keeps it in memory."
    )
    autostart: bool = _setting(False, "Configure and activate by itself at start-up. Read at start-up.")
    image_transport: str = _setting(
        "raw",
        "raw: sensor_msgs/Image on `image`; compressed: CompressedImage on `image/compressed`. Read on activate.",
        choices=("raw", "compressed"),
    )
    image_reliability: str = _setting(
        "best_effort",
        "Reliability of the image subscription; best_effort also takes reliable publishers. Read on activate.",
        choices=RELIABILITIES,
    )
    image_depth: int = _setting(
        1, "History depth of the image subscription; more than 1 only adds age. Read on activate.", low=1, high=30
    )
    detections_reliability: str = _setting(
        "reliable", "Reliability of the `detections` publisher. Read at start-up.", choices=RELIABILITIES
    )
    detections_depth: int = _setting(10, "History depth of `detections`. Read at start-up.", low=1, high=1000)
    grounded_objects_reliability: str = _setting(
        "reliable", "Reliability of the `grounded_objects` publisher. Read at start-up.", choices=RELIABILITIES
    )
    grounded_objects_depth: int = _setting(
        10, "History depth of `grounded_objects`. Read at start-up.", low=1, high=1000
    )
    annotated_reliability: str = _setting(
        "best_effort", "Reliability of the `annotated` publishers. Read at start-up.", choices=RELIABILITIES
    )
    annotated_period_s: float = _setting(
        0.1, "Least time between two annotated images, seconds; drawn only for subscribers.", low=0.0, high=60.0
    )
    annotated_jpeg_quality: int = _setting(80, "JPEG quality of `annotated/compressed`.", low=1, high=100)
    camera_timeout_s: float = _setting(
        1.0, "A camera that is silent for this long is a warning in the diagnostics, seconds.", low=0.1, high=3600.0
    )
    max_image_pixels: int = _setting(
        8_294_400, "Images of more pixels than this (width x height) are refused and counted.", low=1, high=100_000_000
    )
    max_frame_age_s: float = _setting(
        2.0,
        "Oldest frame a request may be answered on, seconds since its arrival; a request waits this long for a newer one.",
        low=0.01,
        high=3600.0,
    )
    share_frame_s: float = _setting(
        0.5,
        "Commands that are due together are asked on one frame while it is not older than this, seconds; vision and the "
        "image's prompt are computed once. 0 gives each the newest frame.",
        low=0.0,
        high=60.0,
    )
    max_expression_chars: int = _setting(500, "Longer expressions are refused; so are empty ones.", low=1, high=2_000)
    task: str = _setting(
        "modal",
        "What the command topic asks for: modal (visible extent) or amodal (whole object).",
        choices=("modal", "amodal"),
    )
    command_policy: str = _setting(
        "latest",
        "latest: a new topic command takes the place of the last one, in mid-decode; queue: each one is answered in turn.",
        choices=("latest", "queue"),
    )
    max_queued_commands: int = _setting(
        32, "Topic commands that may wait with command_policy queue; one more is refused.", low=1, high=1000
    )
    reground: str = _setting(
        "period",
        "When a standing command is grounded again. period: every reground_period_s, and when its track is lost; "
        "on_loss: only when its track is lost or poor; on_demand: only when it is said again.",
        choices=("period", "on_loss", "on_demand"),
    )
    reground_period_s: float = _setting(
        0.0,
        "Least time between two starts on the same command, seconds; 0 is as fast as the model.",
        low=0.0,
        high=3600.0,
    )
    reground_quality: float = _setting(
        0.4, "A track of less quality than this counts as poor for `reground`. Read on activate.", low=0.0, high=1.0
    )
    deadline_s: float = _setting(
        0.0, "Deadline of a request that names none, seconds from its arrival; 0 is none.", low=0.0, high=3600.0
    )
    max_new_tokens: int = _setting(0, "Cap on generated tokens; 0 is the bundle's own cap.", low=0, high=32_768)
    max_think_tokens: int = _setting(
        0, "Cap on tokens of the thought; the model must answer then. 0 is none.", low=0, high=32_768
    )
    max_pending_requests: int = _setting(
        8, "Service and action requests waiting or running; one more is refused. Read at start-up.", low=1, high=64
    )
    track: bool = _setting(
        True, "Carry boxes to every camera frame; false publishes answers only, late. Read on activate."
    )
    track_memory_s: float = _setting(
        4.0,
        "How far back small frames are kept, seconds: an answer about an older frame cannot be followed. Longer than the "
        "model takes; about 9 MB a second at 30 Hz. Read on activate.",
        low=0.1,
        high=60.0,
    )
    track_side_px: int = _setting(
        320,
        "Longer side of the small frames that are tracked on; more follows smaller objects. Read on activate.",
        low=64,
        high=1920,
    )

    def __post_init__(self) -> None:
        problems = [problem for item in fields(self) if (problem := _problem(item, getattr(self, item.name)))]
        if problems:
            raise InputError(
                "valid settings", "; ".join(problems), "correct them in grounding.yaml or with -p key:=value"
            )


def _problem(item: Field, value: Any) -> str:
    meta, wanted = item.metadata, type(item.default)
    if type(value) is not wanted:
        return f"{item.name} must be of type {wanted.__name__}, got {value!r}"
    if meta["choices"] and value not in meta["choices"]:
        return f"{item.name} must be one of {', '.join(meta['choices'])}, got {value!r}"
    if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
        return f"{item.name} must be in {meta['low']:g} to {meta['high']:g}, got {value!r}"
    return ""
