"""The node's settings: one typed object, every key with its description and range.

Knows nothing of ROS; `parameters.py` declares these fields as ROS parameters, and config/grounding.yaml repeats them with
a comment each (a test keeps the two in step).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from egm_ros.parameter_fields import ACTIVATE, CONFIGURE, START_UP, require_valid, setting

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RELIABILITIES = ("best_effort", "reliable")
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can set; `__post_init__` reports every problem at once."""

    bundle_path: str = setting(
        "",
        "The model: a bundle made by `egm build`, a checkpoint, a hub id, the address of a server; empty for the shipped "
        "EGM-Nano (or $EGM_BUNDLE).",
        read=CONFIGURE,
    )
    memory: str = setting(
        "auto", "Memory mode of the engine; auto chooses by free RAM.", choices=("auto", "fast", "low"), read=CONFIGURE
    )
    threads: int = setting(0, "Threads of the engine; 0 lets it choose.", low=0, high=256, read=CONFIGURE)
    model_nice: int = setting(
        5,
        "Niceness of the model's process: where the processor is scarce, boxes at camera rate go before new answers.",
        low=0,
        high=19,
        read=CONFIGURE,
    )
    load_timeout_s: float = setting(
        300.0, "The model must be loaded and warmed up within this, seconds.", low=1.0, high=3600.0, read=CONFIGURE
    )
    hang_timeout_s: float = setting(
        30.0,
        "A model that gives no sign of life for this long while it has a request is killed and started again, seconds; "
        "longer than image and prompt take.",
        low=0.5,
        high=3600.0,
    )
    free_on_deactivate: bool = setting(
        False, "End the model's process on deactivate and load it again on activate; false keeps it in memory."
    )
    bond_heartbeat_period: float = setting(
        0.0,
        "Seconds between the heartbeats of a bond with nav2's lifecycle manager; 0 makes no bond. Needs the package bond.",
        low=0.0,
        high=10.0,
        read=ACTIVATE,
    )
    cameras: str = setting(
        "",
        "Names of several cameras that share the model, with commas between: topics and services are under these names "
        "then (left/image, ~/left/ground). Empty for one camera without a name.",
        read=START_UP,
    )
    autostart: bool = setting(False, "Configure and activate by itself at start-up.", read=START_UP)
    image_transport: str = setting(
        "raw",
        "raw: sensor_msgs/Image on `image`; compressed: CompressedImage on `image/compressed`.",
        choices=("raw", "compressed"),
        read=ACTIVATE,
    )
    image_reliability: str = setting(
        "best_effort",
        "Reliability of the image subscription; best_effort also takes reliable publishers.",
        choices=RELIABILITIES,
        read=ACTIVATE,
    )
    image_depth: int = setting(
        1, "History depth of the image subscription; more than 1 only adds age.", low=1, high=30, read=ACTIVATE
    )
    detections_reliability: str = setting(
        "reliable", "Reliability of the `detections` publisher.", choices=RELIABILITIES, read=START_UP
    )
    detections_depth: int = setting(10, "History depth of `detections`.", low=1, high=1000, read=START_UP)
    grounded_objects_reliability: str = setting(
        "reliable", "Reliability of the `grounded_objects` publisher.", choices=RELIABILITIES, read=START_UP
    )
    grounded_objects_depth: int = setting(10, "History depth of `grounded_objects`.", low=1, high=1000, read=START_UP)
    annotated_reliability: str = setting(
        "reliable", "Reliability of the `annotated` publishers.", choices=RELIABILITIES, read=START_UP
    )
    annotated_period_s: float = setting(
        0.1, "Least time between two annotated images, seconds; drawn only for subscribers.", low=0.0, high=60.0
    )
    # Named as image_transport's compressed plugin names them.
    annotated_format: str = setting(
        "jpeg", "Of `annotated/compressed`.", choices=("jpeg", "png"), name="annotated.compressed.format"
    )
    annotated_jpeg_quality: int = setting(
        80, "Of `annotated/compressed`.", low=1, high=100, name="annotated.compressed.jpeg_quality"
    )
    annotated_png_level: int = setting(
        3, "Compression of `annotated/compressed`.", low=1, high=9, name="annotated.compressed.png_level"
    )
    camera_timeout_s: float = setting(
        1.0, "A camera that is silent for this long is a warning in the diagnostics, seconds.", low=0.1, high=3600.0
    )
    max_image_pixels: int = setting(
        8_294_400, "Images of more pixels than this (width x height) are refused and counted.", low=1, high=100_000_000
    )
    max_frame_age_s: float = setting(
        2.0,
        "Oldest frame a request may be answered on, seconds since its arrival; a request waits this long for a newer one.",
        low=0.01,
        high=3600.0,
    )
    share_frame_s: float = setting(
        0.5,
        "Commands that are due together are asked on one frame while it is not older than this, seconds; vision and the "
        "image's prompt are computed once. 0 gives each the newest frame.",
        low=0.0,
        high=60.0,
    )
    max_expression_chars: int = setting(500, "Longer expressions are refused; so are empty ones.", low=1, high=2_000)
    task: str = setting(
        "modal",
        "What the command topic asks for: modal (visible extent) or amodal (whole object).",
        choices=("modal", "amodal"),
    )
    command_policy: str = setting(
        "latest",
        "latest: a new topic command takes the place of the last one, in mid-decode; queue: each one is answered in turn.",
        choices=("latest", "queue"),
    )
    max_queued_commands: int = setting(
        32, "Topic commands that may wait with command_policy queue; one more is refused.", low=1, high=1000
    )
    reground: str = setting(
        "period",
        "When a standing command is grounded again. period: every reground_period_s; on_loss: only when its track is lost or "
        "poor; on_demand: only when it is said again. Of those that wait the poorest track is asked first.",
        choices=("period", "on_loss", "on_demand"),
    )
    reground_period_s: float = setting(
        0.0,
        "Least time between two starts on the same command, seconds; 0 is as fast as the model.",
        low=0.0,
        high=3600.0,
    )
    reground_quality: float = setting(
        0.6,
        "A track that is soon expected to be right (IoU >= 0.5) with less probability than this counts as poor for `reground`.",
        low=0.0,
        high=1.0,
        read=ACTIVATE,
    )
    deadline_s: float = setting(
        0.0, "Deadline of a request that names none, seconds from its arrival; 0 is none.", low=0.0, high=3600.0
    )
    max_new_tokens: int = setting(
        UNLIMITED, "Cap on generated tokens; -1 is the bundle's own cap.", low=UNLIMITED, high=32_768
    )
    max_think_tokens: int = setting(
        UNLIMITED,
        "Cap on tokens of the thought; the model must answer then. 0 is no thought, -1 no cap.",
        low=UNLIMITED,
        high=32_768,
    )
    max_pending_requests: int = setting(
        8, "Service and action requests waiting or running; one more is refused.", low=1, high=64, read=START_UP
    )
    track: bool = setting(True, "Carry boxes to every camera frame; false publishes answers only, late.", read=ACTIVATE)
    track_memory_s: float = setting(
        4.0,
        "How far back small frames are kept, seconds: an answer about an older frame cannot be followed. Longer than the "
        "model takes; about 9 MB a second at 30 Hz.",
        low=0.1,
        high=60.0,
        read=ACTIVATE,
    )
    track_budget_ms: float = setting(
        20.0,
        "CPU time that tracking may take of one camera frame, milliseconds. Where the standing queries need more, those "
        "with the oldest answers are not carried on until their next one; the diagnostics say so.",
        low=1.0,
        high=1000.0,
        read=ACTIVATE,
    )
    track_side_px: int = setting(
        320,
        "Longer side of the small frames that are tracked on; more follows smaller objects.",
        low=64,
        high=1920,
        read=ACTIVATE,
    )

    def __post_init__(self) -> None:
        names, problem = self.camera_names, ""
        if len(set(names)) < len(names) or (self.cameras and not all(map(_NAME.fullmatch, names))):
            problem = f"cameras must be names of their own, as in left,right, got {self.cameras!r}"
        require_valid(self, problem)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """One "" for a camera without a name."""
        return tuple(name.strip() for name in str(self.cameras).split(","))

    def token_limit(self, name: str) -> int | None:
        """`max_new_tokens` or `max_think_tokens` as the Grounder takes it: None for none of the node's own."""
        limit = int(getattr(self, name))
        return None if limit == UNLIMITED else limit
