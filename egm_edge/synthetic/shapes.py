"""Outlines of the shapes as polygons with a shade each. Knows nothing of scenes or images.

Frame: unit square centred on (0, 0), y down; a shape fills exactly [-w/2, w/2] x [-h/2, h/2] with (w, h) = EXTENT_WH.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egm_edge.synthetic.vocabulary import EXTENT_WH


@dataclass(frozen=True, slots=True)
class Part:
    """A filled polygon of one shape.

    Attributes:
        points: [P, 2] float64, x and y in the unit frame.
        shade: factor on the paint's RGB; 0 means "see through": the table shows (the hole of a ring).
        offset: grey levels added after the factor (a highlight on black paint).
    """

    points: NDArray[np.float64]
    shade: float = 1.0
    offset: float = 0.0


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start_deg: float = 0.0, end_deg: float = 360.0
) -> NDArray[np.float64]:
    angles = np.deg2rad(np.linspace(start_deg, end_deg, 29))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], 1)


def _polygon(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(points, np.float64)


def _band(
    cx: float, cy: float, outer: tuple[float, float], inner: tuple[float, float], start: float, end: float
) -> NDArray[np.float64]:
    """A thick elliptic arc (a handle) as one polygon."""
    out = _ellipse(cx, cy, *outer, start, end)
    return np.concatenate([out, _ellipse(cx, cy, *inner, start, end)[::-1]])


def _star() -> NDArray[np.float64]:
    angles = np.deg2rad(-90 + 36 * np.arange(10))
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    points = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / (high - low) * np.array(EXTENT_WH["star"])


PARTS: dict[str, tuple[Part, ...]] = {
    "mug": (
        Part(_band(0.22, -0.02, (0.28, 0.26), (0.16, 0.14), -90, 90), 0.72),
        Part(_polygon((-0.5, -0.34), (0.26, -0.34), (0.22, 0.36), (0.1, 0.44), (-0.34, 0.44), (-0.46, 0.36)), 0.95),
        Part(_polygon((-0.5, -0.34), (-0.30, -0.34), (-0.27, 0.42), (-0.34, 0.44), (-0.46, 0.36)), 0.75),
        Part(_ellipse(-0.12, -0.34, 0.38, 0.10), 1.12, 8),
        Part(_ellipse(-0.12, -0.33, 0.31, 0.065), 0.5),
    ),
    "ball": (
        Part(_ellipse(0, 0, 0.46, 0.46), 0.78),
        Part(_ellipse(-0.04, -0.05, 0.39, 0.38), 1.0),
        Part(_ellipse(-0.15, -0.17, 0.12, 0.10), 1.15, 45),
    ),
    "box": (
        Part(_polygon((-0.5, -0.22), (-0.28, -0.45), (0.5, -0.45), (0.28, -0.22)), 1.15, 14),
        Part(_polygon((-0.5, -0.22), (0.28, -0.22), (0.28, 0.45), (-0.5, 0.45)), 0.95),
        Part(_polygon((0.28, -0.22), (0.5, -0.45), (0.5, 0.20), (0.28, 0.45)), 0.65),
    ),
    "bottle": (
        Part(
            _polygon(
                (-0.10, -0.52),
                (0.10, -0.52),
                (0.11, -0.28),
                (0.26, -0.10),
                (0.26, 0.54),
                (0.2, 0.6),
                (-0.2, 0.6),
                (-0.26, 0.54),
                (-0.26, -0.10),
                (-0.11, -0.28),
            ),
            0.92,
        ),
        Part(_polygon((-0.26, -0.10), (-0.16, -0.20), (-0.14, 0.60), (-0.2, 0.6), (-0.26, 0.54)), 0.7),
        Part(_polygon((-0.12, -0.60), (0.12, -0.60), (0.12, -0.49), (-0.12, -0.49)), 0.55, 20),
        Part(_polygon((-0.26, 0.10), (0.26, 0.10), (0.26, 0.36), (-0.26, 0.36)), 1.12, 26),
    ),
    "bowl": (
        Part(np.concatenate([_ellipse(0, -0.18, 0.575, 0.50, 0, 180), _polygon((-0.575, -0.18))]), 0.85),
        Part(_ellipse(0, -0.18, 0.575, 0.14), 1.15, 8),
        Part(_ellipse(0, -0.17, 0.48, 0.095), 0.55),
    ),
    "cone": (
        Part(np.concatenate([_polygon((0.0, -0.5)), _ellipse(0, 0.36, 0.43, 0.14, 0, 180)]), 0.95),
        Part(np.concatenate([_polygon((0.0, -0.5)), _ellipse(0, 0.36, 0.43, 0.14, 110, 180)]), 0.72),
        Part(_polygon((-0.135, -0.04), (0.135, -0.04), (0.205, 0.12), (-0.205, 0.12)), 1.1, 30),
    ),
    "ring": (
        Part(_ellipse(0, 0.04, 0.5, 0.32), 0.7),
        Part(_ellipse(0, -0.04, 0.5, 0.32), 1.05, 6),
        Part(_ellipse(0, -0.02, 0.27, 0.16), 0.0),
    ),
    "star": (Part(_star(), 1.0), Part(_star() * 0.55, 1.15, 16)),
}
