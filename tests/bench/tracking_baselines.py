"""What a tracker is compared with: no tracking, a template, optical flow, and OpenCV's own where they are installed.

Each follows one box through full frames; `update` gives the box and whether it says that the object is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box

Image = NDArray[np.uint8]
LOST_NCC = 0.4


class Baseline(Protocol):
    def update(self, image: Image) -> tuple[Box, bool]: ...


class NoTracking:
    """The answer as it came."""

    def __init__(self, image: Image, box: Box) -> None:
        self._box = box

    def update(self, image: Image) -> tuple[Box, bool]:
        return self._box, False


class Template:
    """The grounded pixels, searched for within one box of the last place (NCC on grey)."""

    def __init__(self, image: Image, box: Box) -> None:
        x1, y1, x2, y2 = (round(v) for v in box.xyxy)
        self._look = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[y1 : max(y2, y1 + 2), x1 : max(x2, x1 + 2)]
        self._x, self._y = x1, y1

    def update(self, image: Image) -> tuple[Box, bool]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height, width = self._look.shape
        left, top = max(0, self._x - width), max(0, self._y - height)
        window = grey[top : self._y + 2 * height, left : self._x + 2 * width]
        best = -1.0
        if window.shape[0] >= height and window.shape[1] >= width:
            _, best, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(window, self._look, cv2.TM_CCOEFF_NORMED))
            if best > LOST_NCC:
                self._x, self._y = left + x, top + y
        return Box(self._x, self._y, self._x + width, self._y + height), best <= LOST_NCC


class Flow:
    """Corners of the box by pyramidal Lucas-Kanade; their median shift and median growth move the box."""

    def __init__(self, image: Image, box: Box) -> None:
        self._grey, self._box, self._lost = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), box, False

    def update(self, image: Image) -> tuple[Box, bool]:
        before, self._grey = self._grey, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        x1, y1, x2, y2 = (int(v) for v in self._box.clipped(before.shape[1], before.shape[0]).xyxy)
        points = None
        if x2 - x1 > 4 and y2 - y1 > 4:
            points = cv2.goodFeaturesToTrack(before[y1:y2, x1:x2], 50, 0.01, 3)
        self._lost = points is None or len(points) < 4
        if points is None or self._lost:
            return self._box, True
        points += np.float32([x1, y1])
        moved, found, _ = cv2.calcOpticalFlowPyrLK(before, self._grey, points, None)
        good = found.ravel() > 0
        if np.count_nonzero(good) < 4:
            self._lost = True
            return self._box, True
        old, new = points[good, 0], moved[good, 0]
        shift = np.median(new - old, 0)
        spread = [np.median(np.linalg.norm(p - np.median(p, 0), axis=1)) for p in (old, new)]
        grown = float(np.clip(spread[1] / max(spread[0], 1e-6), 0.95, 1.05))
        middle = np.array([self._box.x1 + self._box.x2, self._box.y1 + self._box.y2]) / 2 + shift
        half = np.array([self._box.x2 - self._box.x1, self._box.y2 - self._box.y1]) / 2 * grown
        self._box = Box(*map(float, (*(middle - half), *(middle + half))))
        return self._box, False


class OpenCvTracker:
    """One of OpenCV's trackers."""

    def __init__(self, image: Image, box: Box, make: Callable[[], Any]) -> None:
        self._tracker, self._box = make(), box
        x1, y1, x2, y2 = (round(v) for v in box.xyxy)
        self._tracker.init(image, (x1, y1, max(2, x2 - x1), max(2, y2 - y1)))

    def update(self, image: Image) -> tuple[Box, bool]:
        found, (x, y, width, height) = self._tracker.update(image)
        if found:
            self._box = Box(x, y, x + width, y + height)
        return self._box, not found


def available() -> dict[str, Callable[[Image, Box], Baseline]]:
    """Baselines by name, those of OpenCV's contrib modules only where they are installed."""
    found: dict[str, Callable[[Image, Box], Baseline]] = {"none": NoTracking, "template": Template, "flow": Flow}
    legacy = getattr(cv2, "legacy", None)
    makers = {
        "MedianFlow": getattr(legacy, "TrackerMedianFlow_create", None),
        "KCF": getattr(cv2, "TrackerKCF_create", None),
        "CSRT": getattr(cv2, "TrackerCSRT_create", None),
    }
    for name, make in makers.items():
        if make is not None:
            found[name] = lambda image, box, make=make: OpenCvTracker(image, box, make)  # type: ignore[misc]
    return found
