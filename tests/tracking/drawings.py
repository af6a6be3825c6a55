"""Simple moving pictures with exact boxes, independent of egm_edge.synthetic. For tests only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.tracking import TrackedBox, Tracker

PERIOD_NS = 33_333_333


@dataclass(frozen=True)
class Shot:
    """[H, W, 3] uint8 RGB and the true box of the object (None when it is not visible)."""

    image: NDArray[np.uint8]
    box: Box | None


def background(kind: str, wh: tuple[int, int]) -> NDArray[np.uint8]:
    """plain, gradient, or textured (smoothed noise of strong contrast)."""
    width, height = wh
    if kind == "plain":
        return np.full((height, width, 3), (120, 118, 110), np.uint8)
    if kind == "gradient":
        ramp = np.linspace(70, 180, width)[None, :, None] * np.ones((height, 1, 3))
        return ramp.astype(np.uint8)
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3.0).astype(np.float32)
    return np.clip((soft - 127) * 4 + 127, 0, 255).astype(np.uint8)


def rectangle(
    path: Callable[[int], tuple[float, float]],
    count: int = 45,
    *,
    size: tuple[int, int] = (80, 60),
    colour: tuple[int, int, int] = (200, 40, 40),
    behind: str = "plain",
    wh: tuple[int, int] = (640, 480),
    noise: float = 3.0,
    blur: float = 0.0,
    gain: Callable[[int], float] = lambda _index: 1.0,
    extra: Callable[[NDArray[np.uint8], int], None] | None = None,
) -> list[Shot]:
    """A flat rectangle whose top-left corner follows `path`; `extra` paints over each frame."""
    random = np.random.default_rng(1)
    shots = []
    for index in range(count):
        image = background(behind, wh)
        x, y = (round(v) for v in path(index))
        x1, y1, x2, y2 = max(0, x), max(0, y), min(wh[0], x + size[0]), min(wh[1], y + size[1])
        box = None
        if x2 > x1 and y2 > y1:
            image[y1:y2, x1:x2] = colour
            box = Box(x1, y1, x2, y2)
        if extra is not None:
            extra(image, index)
        seen = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
        lit = seen * gain(index) + random.normal(0, noise, image.shape)
        shots.append(Shot(np.clip(lit, 0, 255).astype(np.uint8), box))
    return shots


def follow(shots: list[Shot], tracker: Tracker | None = None, latency: int = 0) -> Iterator[tuple[int, TrackedBox]]:
    """Push all shots; the answer for the first one comes `latency` frames later. Yields from then on."""
    tracker = tracker or Tracker()
    for index, shot in enumerate(shots):
        tracker.push(shot.image, index * PERIOD_NS)
        if index == latency:
            assert shots[0].box is not None
            tracker.start("t", shots[0].box, 0)
        if index >= latency:
            (tracked,) = tracker.boxes()
            yield index, tracked


def worst_iou(shots: list[Shot], tracker: Tracker | None = None, latency: int = 0) -> float:
    return min(
        tracked.box.iou(box)
        for index, tracked in follow(shots, tracker, latency)
        if (box := shots[index].box) is not None
    )
