"""rasterize: triangles become, per pixel, the nearest triangle and the place on it. NumPy alone; knows nothing of shading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Hits:
    """The pixels that something covers.

    Attributes:
        pixel: [P] int64, row * side + column.
        face: [P] int64.
        weights: [P, 3] float32, perspective-correct barycentric weights of the face's corners.
    """

    pixel: NDArray[np.int64]
    face: NDArray[np.int64]
    weights: NDArray[np.float32]


def rasterize(points: NDArray[np.float32], faces: NDArray[np.int64], side: int) -> Hits:
    """Draw triangles with a depth buffer.

    Args:
        points: [V, 3] float32: x and y in pixels, and 1 / depth (larger is nearer).
        faces: [F, 3] int64, in either winding.
        side: of the square picture, pixels.
    """
    corners = points[faces]  # [F, 3, 3]
    first, second, third = (corners[:, i, :2] for i in range(3))
    # a reduction over an axis of three costs ten times as much
    low = np.clip(np.ceil(np.minimum(np.minimum(first, second), third) - 0.5), 0, side).astype(np.int64)
    high = np.clip(np.floor(np.maximum(np.maximum(first, second), third) - 0.5) + 1, 0, side).astype(np.int64)
    wide, tall = np.maximum(high - low, 0).T
    edge = corners[:, 1:, :2] - corners[:, :1, :2]
    area = edge[:, 0, 0] * edge[:, 1, 1] - edge[:, 0, 1] * edge[:, 1, 0]
    kept = np.flatnonzero((wide * tall > 0) & (np.abs(area) > 1e-9))
    counts = (wide * tall)[kept]
    nearest = np.full(side * side, -1.0, np.float64)
    winner = np.full(side * side, -1, np.int64)
    weights = np.zeros((side * side, 3), np.float32)
    start = 0
    ends = np.cumsum(counts)
    while start < len(kept):
        base = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, base + _CHUNK)))
        chosen, count = kept[start:stop], counts[start:stop]
        face = np.repeat(chosen, count)
        offset = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        x = low[face, 0] + offset % wide[face]
        y = low[face, 1] + offset // wide[face]
        dx, dy = x + 0.5 - corners[face, 0, 0], y + 0.5 - corners[face, 0, 1]
        e = edge[face]
        b = (dx * e[:, 1, 1] - dy * e[:, 1, 0]) / area[face]
        c = (dy * e[:, 0, 0] - dx * e[:, 0, 1]) / area[face]
        inside = (b >= 0) & (c >= 0) & (b + c <= 1)
        face, b, c = face[inside], b[inside], c[inside]
        pixel = y[inside] * side + x[inside]
        screen = np.stack([1 - b - c, b, c], 1).astype(np.float32)
        inverse = corners[face, :, 2] * screen
        near = inverse[:, 0] + inverse[:, 1] + inverse[:, 2]
        order = np.argsort(near, kind="stable")  # the nearest is written last and stays
        pixel, near, face = pixel[order], near[order], face[order]
        best = np.full(side * side, -1, np.int64)
        best[pixel] = np.arange(len(pixel))
        touched = np.flatnonzero(best >= 0)
        at = best[touched]
        closer = near[at] > nearest[touched]
        touched, at = touched[closer], at[closer]
        nearest[touched], winner[touched] = near[at], face[at]
        weights[touched] = inverse[order[at]] / near[at, None]
        start = stop
    pixel = np.flatnonzero(winner >= 0)
    return Hits(pixel, winner[pixel], weights[pixel])
