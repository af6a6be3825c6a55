"""TrackerSettings: every number of the tracker that is a choice, with its unit and range. Knows nothing of images."""

from __future__ import annotations

from dataclasses import dataclass, fields

from egm_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """How much the tracker remembers and when it gives up.

    Attributes:
        working_side_px: longer side of the small frames that tracking runs on. 320 keeps a 640x480 camera under a tenth
            of a core; larger follows smaller objects.
        memory_s: how far back the small frames reach, seconds. An answer that is older starts LOST.
        max_frames: cap on the number of small frames, whatever the camera's rate.
        stamp_tolerance_s: how far an answer's stamp may lie from the nearest frame kept.
        min_quality: below this quality, the probability that IoU >= 0.5, a track is LOST.
        recover_s: a LOST track is looked for until it was unseen for this long.
        follower: what finds an object in the next frame: hybrid, the default, or OpenCV's csrt, kcf, vit or nano.
        model_files: ONNX files of OpenCV's model zoo, for vit (one) and nano (backbone, head).
        min_visible: a track of which less than this part of its box is inside the image is LOST.
    """

    working_side_px: int = 320
    memory_s: float = 4.0
    max_frames: int = 240
    stamp_tolerance_s: float = 0.05
    min_quality: float = 0.35
    recover_s: float = 5.0
    min_visible: float = 0.25
    follower: str = "hybrid"
    model_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = {
            "working_side_px": (64, 1920), "memory_s": (0.1, 60.0), "max_frames": (2, 3000),
            "stamp_tolerance_s": (0.0, 1.0), "min_quality": (0.0, 1.0), "recover_s": (0.0, 600.0), "min_visible": (0.0, 1.0),
        }  # fmt: skip
        problems = [
            f"{item.name} must be in {low:g} to {high:g}, got {value!r}"
            for item in fields(self)
            if item.name in limits
            for low, high in [limits[item.name]]
            if not low <= (value := getattr(self, item.name)) <= high
        ]
        if problems:
            raise InputError("valid tracker settings", "; ".join(problems), "correct them")
