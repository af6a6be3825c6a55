"""Extent: the bounds of a turned object. Knows nothing of images.

Turning a box and taking the bounds of its corners makes it too large: a ball's box would grow by 41 % at 45 degrees. The
object's own outline is turned instead, or an ellipse where the outline is not known.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.sampling import Mask
from egm_edge.tracking.similarity import Similarity

Outline = NDArray[np.complex128]
Bounds = tuple[float, float, float, float]

_ELLIPSE = np.exp(2j * math.pi * np.arange(32) / 32)
MIN_SPREAD = 0.7  # of the box, per side: a smaller outline missed part of the object


def ellipse(half_wh: tuple[float, float]) -> Outline:
    """[P] corners of the ellipse inscribed in a box round the origin."""
    return half_wh[0] * _ELLIPSE.real + 1j * half_wh[1] * _ELLIPSE.imag


def outline(silhouette: Mask, step: float) -> Outline | None:
    """Convex hull of a silhouette.

    Args:
        silhouette: [h, w] samples of the object, `step` apart, centred on the object's origin.

    Returns:
        [P] corners in object coordinates (outer edges of the samples), or None when next to nothing is left of it
        without its single samples.
    """
    solid = cv2.morphologyEx(silhouette.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    rows, columns = np.nonzero(solid)
    if len(rows) < 6:
        return None
    hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.float32)).reshape(-1, 2)
    corners = [hull + np.array((dx, dy)) for dx in (0.0, 1.0) for dy in (0.0, 1.0)]
    points = np.concatenate(corners) - np.array(silhouette.shape[::-1]) / 2
    return np.asarray((points[:, 0] + 1j * points[:, 1]) * step, np.complex128)


class Extent:
    """How far an object reaches, whatever its angle.

    Args:
        half_wh: half width and height of its box, as given.
        whole: its outline when the box was given; None takes the ellipse.
    """

    def __init__(self, half_wh: tuple[float, float], whole: Outline | None) -> None:
        self._stretch, self._move = (1.0, 1.0), 0j
        if whole is not None:
            spread = (float(np.ptp(whole.real)), float(np.ptp(whole.imag)))
            if min(spread[0] / half_wh[0], spread[1] / half_wh[1]) < 2 * MIN_SPREAD:
                whole = None
            else:
                # Samples are coarser than the box: the upright outline fills it exactly.
                self._stretch = (2 * half_wh[0] / spread[0], 2 * half_wh[1] / spread[1])
                middle = complex((whole.real.max() + whole.real.min()) / 2, (whole.imag.max() + whole.imag.min()) / 2)
                self._move = -middle
        self.known = whole is not None
        self._whole = self._fitted(whole) if whole is not None else ellipse(half_wh)
        self._half_wh = half_wh

    def _fitted(self, points: Outline) -> Outline:
        moved = points + self._move
        return np.asarray(moved.real * self._stretch[0] + 1j * moved.imag * self._stretch[1], np.complex128)

    def bounds(self, pose: Similarity) -> Bounds:
        """xyxy of the whole object at a pose."""
        return _bounds(pose, self._whole)

    def bounds_of_part(self, pose: Similarity, part: Outline) -> Bounds:
        """xyxy of what is visible of it at a pose; `part` is an `outline` of the same grid."""
        return _bounds(pose, self._fitted(part))

    def bounds_of_other(self, pose: Similarity, offset: complex, half_wh: tuple[float, float]) -> Bounds:
        """xyxy of a box that belongs to the object (its amodal one): same shape, stretched to that box."""
        ratio = (half_wh[0] / self._half_wh[0], half_wh[1] / self._half_wh[1])
        return _bounds(pose, offset + self._whole.real * ratio[0] + 1j * self._whole.imag * ratio[1])


def _bounds(pose: Similarity, points: Outline) -> Bounds:
    placed = pose.turn * points + pose.shift
    return (
        float(placed.real.min()), float(placed.imag.min()), float(placed.real.max()), float(placed.imag.max())
    )  # fmt: skip
