"""Sparse optical flow: how the background moved between two frames, and how a box did. Knows nothing of tracks.

Pyramidal Lucas-Kanade throughout. An object's points are checked forward and backward (MedianFlow, Kalal et al., ICPR 2010).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.similarity import Similarity

Grey = NDArray[np.uint8]
Points = NDArray[np.float32]

BACKGROUND_SIDE_PX = 160
BACKGROUND_GRID = (10, 8)  # points across and down
MIN_AGREEING = 0.35  # of the points: less is no common motion
AGREE_PX = 0.7  # of the shrunken frame
FIT_ROUNDS = 4
OBJECT_GRID = 6
MAX_ROUND_TRIP_PX = 1.0
MIN_POINTS = 8


def background_motion(before: Grey, after: Grey) -> Similarity:
    """Where the camera's own motion takes every place, pixels of the given frames; the identity where that is unclear.

    Args:
        before, after: [H, W] uint8 of one size.
    """
    height, width = before.shape
    shrink = min(1.0, BACKGROUND_SIDE_PX / max(height, width))
    small_wh = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    if min(small_wh) < 24:
        return Similarity()
    first, second = (_resized(grey, small_wh) for grey in (before, after))
    points = _grid(small_wh[0] / 2, small_wh[1] / 2, small_wh[0] * 0.45, small_wh[1] * 0.45, BACKGROUND_GRID)
    moved, found = _lucas_kanade(first, second, points)
    good = found
    if np.count_nonzero(good) < MIN_POINTS:
        return Similarity()
    factor = width / small_wh[0]
    fit = fit_similarity(points[good], moved[good], AGREE_PX, MIN_AGREEING)
    return Similarity(fit.turn, fit.shift * factor) if fit is not None else Similarity()


def object_motion(before: Grey, after: Grey, centre: complex, half_wh: tuple[float, float]) -> complex | None:
    """Median shift of the points in a box between two frames, pixels; None where too few come back where they started."""
    reach = int(1.2 * max(half_wh) + 24)
    x1, y1 = max(0, int(centre.real - half_wh[0] - reach)), max(0, int(centre.imag - half_wh[1] - reach))
    x2, y2 = int(centre.real + half_wh[0] + reach), int(centre.imag + half_wh[1] + reach)
    first, second = before[y1:y2, x1:x2], after[y1:y2, x1:x2]
    if min(first.shape) < 24:
        return None
    points = _grid(centre.real - x1, centre.imag - y1, 0.8 * half_wh[0], 0.8 * half_wh[1], (OBJECT_GRID, OBJECT_GRID))
    there, found = _lucas_kanade(first, second, points)
    back, found_back = _lucas_kanade(second, first, there)
    good = found & found_back
    good &= np.linalg.norm(back - points, axis=1) < MAX_ROUND_TRIP_PX
    if np.count_nonzero(good) < MIN_POINTS:
        return None
    shift = np.median(there[good] - points[good], 0)
    return complex(float(shift[0]), float(shift[1]))


def fit_similarity(before: Points, after: Points, tolerance_px: float, least_agreeing: float) -> Similarity | None:
    """The similarity that most points agree on: least squares again and again over those within the tolerance.

    Args:
        before, after: [K, 2], pixels.
        tolerance_px: how far a point may lie off.
        least_agreeing: share of the points that must agree; None is returned otherwise.
    """
    z, target = before[:, 0] + 1j * before[:, 1], after[:, 0] + 1j * after[:, 1]
    shift = complex(float(np.median((target - z).real)), float(np.median((target - z).imag)))
    turn = 1 + 0j
    agree = np.abs(z + shift - target) < 3 * tolerance_px
    for _ in range(FIT_ROUNDS):
        if np.count_nonzero(agree) < max(MIN_POINTS, least_agreeing * len(z)):
            return None
        middle, middle_after = z[agree].mean(), target[agree].mean()
        centred = z[agree] - middle
        turn = complex(np.vdot(centred, target[agree] - middle_after) / max(1e-9, np.vdot(centred, centred).real))
        shift = complex(middle_after - turn * middle)
        agreed, agree = agree, np.abs(turn * z + shift - target) < tolerance_px
        if np.array_equal(agreed, agree):
            break
    return Similarity(turn, shift)


def _resized(grey: Grey, wh: tuple[int, int]) -> Grey:
    return np.asarray(cv2.resize(grey, wh, interpolation=cv2.INTER_AREA), np.uint8)


def _lucas_kanade(before: Grey, after: Grey, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where points [K, 2] went, and which could be followed."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, np.empty_like(points), winSize=(11, 11), maxLevel=2, criteria=(3, 10, 0.03)
    )
    return np.asarray(moved, np.float32), found.ravel() > 0


def _grid(x: float, y: float, half_width: float, half_height: float, counts: tuple[int, int]) -> Points:
    across, down = np.linspace(-half_width, half_width, counts[0]), np.linspace(-half_height, half_height, counts[1])
    grid_x, grid_y = np.meshgrid(across + x, down + y)
    return np.stack([grid_x.ravel(), grid_y.ravel()], 1).astype(np.float32)
