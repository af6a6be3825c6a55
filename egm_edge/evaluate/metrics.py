"""Grounding metrics as pure NumPy functions: accuracy at a threshold, the eight-split average, box sizes.

Knows nothing of files, models or reports. Boxes are xyxy, pixels of the original image. Accuracy counts IoU *strictly* above
its threshold, as the EGM evaluation scripts do; published "IoU" columns of that work are this accuracy, not a mean IoU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

EIGHT_SPLITS: tuple[tuple[str, str], ...] = (
    ("refcoco", "val"),
    ("refcoco", "testA"),
    ("refcoco", "testB"),
    ("refcoco+", "val"),
    ("refcoco+", "testA"),
    ("refcoco+", "testB"),
    ("refcocog", "val"),
    ("refcocog", "test"),
)
# COCO's own bounds between small, medium and large objects: area in square pixels.
SMALL_AREA_PX2, LARGE_AREA_PX2 = 32.0**2, 96.0**2
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BOX_SIZES = ("small", "medium", "large")


def accuracies(iou: ArrayLike, thresholds: Sequence[float] = THRESHOLDS, *, strict: bool = True) -> tuple[float, ...]:
    """Share of IoUs, [N], above (or at) each threshold, 0.0-1.0.

    Example:
        >>> accuracies([0.95, 0.5, 0.2], (0.1, 0.5, 0.9)) == (1.0, 1 / 3, 1 / 3)
        True
    """
    values = np.asarray(iou, np.float64)
    return tuple(float(((values > t) if strict else (values >= t)).mean()) for t in thresholds)


def eight_split_average(by_split: Mapping[tuple[str, str], float]) -> float | None:
    """The unweighted mean over the eight RefCOCO-family splits, as published; None unless all eight are there."""
    if any(split not in by_split for split in EIGHT_SPLITS):
        return None
    return float(np.mean([by_split[split] for split in EIGHT_SPLITS]))


def box_size(target: ArrayLike) -> str:
    """ "small", "medium" or "large" by the area of a box, xyxy pixels, with COCO's bounds."""
    x1, y1, x2, y2 = np.asarray(target, np.float64)
    area_px2 = max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
    return BOX_SIZES[int(area_px2 >= SMALL_AREA_PX2) + int(area_px2 >= LARGE_AREA_PX2)]
