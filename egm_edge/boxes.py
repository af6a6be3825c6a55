"""Box and IoU: geometry in two frames, pixels of the original image and the model's 0-1000 grid.

Knows nothing of images, prompts or text. `Box` is always xyxy in pixels of the *original* image (before any resize);
`norm1000` values are the model's side of the same box: 0-1000 of width and height, origin top-left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError

NORM1000_MAX = 1000.0


class Coordinates(str, Enum):
    """The unit that a model writes boxes in: 0-1000 or 0-1 of width and height, or pixels of the picture."""

    NORM1000 = "norm1000"
    NORM1 = "norm1"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box, xyxy, float, pixels of the original image.

    Attributes:
        x1, y1: top-left corner; x2, y2: bottom-right corner (exclusive edge, so area is (x2-x1)*(y2-y1)).
            x1 <= x2 and y1 <= y2, all finite. A modal box lies inside the image; an amodal one may leave it.

    Example:
        >>> Box.from_norm1000((250, 500, 750, 1000), width_px=640, height_px=480)
        Box(x1=160.0, y1=240.0, x2=480.0, y2=480.0)
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        values = (self.x1, self.y1, self.x2, self.y2)
        if not all(math.isfinite(v) for v in values) or self.x1 > self.x2 or self.y1 > self.y2:
            raise InputError("finite x1 <= x2 and y1 <= y2", f"box {values}", "order the corners before building a Box")

    @classmethod
    def from_norm1000(cls, box_norm1000: Sequence[float], width_px: float, height_px: float) -> Box:
        """Scale 0-1000 values to pixels of an image of `width_px` x `height_px`; corners are put in order."""
        x1, y1, x2, y2 = (float(v) for v in box_norm1000)
        sx, sy = width_px / NORM1000_MAX, height_px / NORM1000_MAX
        return cls(min(x1, x2) * sx, min(y1, y2) * sy, max(x1, x2) * sx, max(y1, y2) * sy)

    def to_norm1000(self, width_px: float, height_px: float) -> tuple[float, float, float, float]:
        """The model's side of this box: 0-1000 of width and height, unrounded, outside 0-1000 where it leaves the image."""
        sx, sy = NORM1000_MAX / width_px, NORM1000_MAX / height_px
        return (self.x1 * sx, self.y1 * sy, self.x2 * sx, self.y2 * sy)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def area_px2(self) -> float:
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def clipped(self, width_px: float, height_px: float) -> Box:
        """The part inside an image of `width_px` x `height_px` (empty at the border when it lies wholly outside)."""
        x1, x2 = (min(max(v, 0.0), float(width_px)) for v in (self.x1, self.x2))
        y1, y2 = (min(max(v, 0.0), float(height_px)) for v in (self.y1, self.y2))
        return Box(x1, y1, x2, y2)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0.0-1.0; 0.0 when either box is empty."""
        return iou_xyxy(self.xyxy, other.xyxy)


def iou_xyxy(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union, 0.0-1.0, of two boxes of one frame as they were written, xyxy; 0.0 where one of them is empty,
    inverted or not finite.

    Example:
        >>> iou_xyxy([0, 0, 2, 2], [0, 0, 4, 2]), iou_xyxy([2, 2, 0, 0], [0, 0, 4, 2])
        (0.5, 0.0)
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    union = (first[2] - first[0]) * (first[3] - first[1]) + (second[2] - second[0]) * (second[3] - second[1]) - both
    return both / union if union > 0 else 0.0


def iou_matrix(boxes_a: NDArray[np.floating], boxes_b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pairwise IoU.

    Args:
        boxes_a: [A, 4] xyxy, any one frame (pixels or 0-1000).
        boxes_b: [B, 4] xyxy, the same frame.

    Returns:
        [A, B] float64, 0.0-1.0. An inverted or empty box has IoU 0.0 with everything.

    Example:
        >>> iou_matrix(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [2, 0, 4, 2]])).round(3).tolist()
        [[0.333, 0.0]]
    """
    a = np.asarray(boxes_a, np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b, np.float64).reshape(1, -1, 4)
    overlap_wh = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0, None)
    intersection = overlap_wh.prod(-1)
    area_a = np.clip(a[..., 2:] - a[..., :2], 0.0, None).prod(-1)
    area_b = np.clip(b[..., 2:] - b[..., :2], 0.0, None).prod(-1)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0.0)
