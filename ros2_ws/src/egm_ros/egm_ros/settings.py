"""The node's settings: one typed object, every key with its description and range.

Knows nothing of ROS; `parameters.py` declares these fields as ROS parameters, and config/grounding.yaml repeats them with
a comment each (a test keeps the two in step).
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from egm_edge.errors import InputError


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
    autostart: bool = _setting(False, "Configure and activate by itself at start-up. Read at start-up.")
    image_transport: str = _setting(
        "raw",
        "raw: sensor_msgs/Image on `image`; compressed: CompressedImage on `image/compressed`. Read on activate.",
        choices=("raw", "compressed"),
    )
    image_reliability: str = _setting(
        "best_effort",
        "Reliability of the image subscription; best_effort also takes reliable publishers. Read on activate.",
        choices=("best_effort", "reliable"),
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
    max_expression_chars: int = _setting(500, "Longer expressions are refused; so are empty ones.", low=1, high=2_000)
    task: str = _setting(
        "modal",
        "What the command topic asks for: modal (visible extent) or amodal (whole object).",
        choices=("modal", "amodal"),
    )
    reground: str = _setting(
        "continuous",
        "continuous: ground the command again on newer frames; once: ground it once per command message.",
        choices=("continuous", "once"),
    )
    reground_period_s: float = _setting(
        0.0,
        "Least time between two starts on the same command, seconds; 0 is as fast as the model.",
        low=0.0,
        high=3600.0,
    )
    deadline_s: float = _setting(
        0.0, "Deadline of a request that names none, seconds from its arrival; 0 is none.", low=0.0, high=3600.0
    )
    max_new_tokens: int = _setting(0, "Cap on generated tokens; 0 is the bundle's own cap.", low=0, high=32_768)
    max_pending_requests: int = _setting(
        8, "Service and action requests waiting or running; one more is refused. Read at start-up.", low=1, high=64
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
