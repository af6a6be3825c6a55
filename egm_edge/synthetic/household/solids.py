"""The drawn world's shapes as solids: meshes made by formula, each part of one paint. Knows nothing of rendering.

They stand on the same tables as the household objects, so that a mug is a mug as an outline and in the round.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from egm_edge.synthetic.household.assets import Asset, Part

_SIDES = 32
_UNIT_M = 0.11
_WHITE = np.ones(3, np.float32)
Mesh = tuple[NDArray[np.float64], NDArray[np.int64]]


def _swept(rings: NDArray[np.float64], closed: bool = False) -> Mesh:
    """Skin over rings of points [R, S, 3]; `closed` joins the last ring to the first."""
    count, sides = rings.shape[:2]
    at = np.arange(count * sides).reshape(count, sides)
    first, second = (at, np.roll(at, -1, 0)) if closed else (at[:-1], at[1:])
    a, b, c, d = first, np.roll(first, -1, 1), np.roll(second, -1, 1), second
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    return rings.reshape(-1, 3), faces


def _turned(*profile: tuple[float, float]) -> Mesh:
    """A profile of (radius, height) turned about the vertical."""
    angles = np.linspace(0, 2 * math.pi, _SIDES, endpoint=False)
    radius, height = np.array(profile, np.float64).T
    flat = np.stack([np.cos(angles), np.sin(angles)], -1)
    rings = np.concatenate([radius[:, None, None] * flat, np.broadcast_to(height[:, None, None], (len(profile), _SIDES, 1))], -1)
    return _swept(rings)


def _torus(radius: float, thick: float, arc_deg: float = 360.0) -> Mesh:
    """A ring, or an arc of one about the x axis, in the plane z = 0."""
    closed = arc_deg >= 360
    along = np.radians(np.linspace(-arc_deg / 2, arc_deg / 2, _SIDES, endpoint=not closed))
    around = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    out = radius + thick * np.cos(around)
    up = np.broadcast_to(thick * np.sin(around), (_SIDES, 12))
    return _swept(np.stack([np.outer(np.cos(along), out), np.outer(np.sin(along), out), up], -1), closed)


def _prism(outline: NDArray[np.float64], height: float) -> Mesh:
    """A star-shaped outline [P, 2] about the origin, made `height` high."""
    rings = [np.concatenate([outline * k, np.full((len(outline), 1), z)], 1) for k, z in ((0, 0), (1, 0), (1, height), (0, height))]
    return _swept(np.stack(rings))


def _star(height: float) -> Mesh:
    angles = math.pi / 2 + math.pi / 5 * np.arange(10)
    return _prism(np.stack([np.cos(angles), np.sin(angles)], 1) * np.where(np.arange(10) % 2, 0.26, 0.58)[:, None], height)


def _box(wide: float, deep: float, high: float) -> Mesh:
    return _prism(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [wide / 2, deep / 2], high)


def _tilted(mesh: Mesh, degrees: float) -> Mesh:
    """Raised about the x axis, and set down on the table."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = mesh[0] @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    middle = (points.max(0) + points.min(0)) / 2
    return points - [0, middle[1], points[:, 2].min()], mesh[1]


def _mug(radius: float, high: float) -> Mesh:
    wall = radius - 0.05
    body = _turned((0, 0), (radius, 0), (radius, high), (wall, high), (wall, 0.08), (0, 0.08))
    points, faces = _torus(0.3 * high, 0.055, 180)
    handle = points[:, [0, 2, 1]] + [radius - 0.02, 0, high / 2]
    return np.concatenate([body[0], handle]), np.concatenate([body[1], faces + len(body[0])])


def _ball() -> Mesh:
    turns = np.linspace(0, math.pi, 20)
    return _turned(*((0.46 * math.sin(t), 0.46 - 0.46 * math.cos(t)) for t in turns))


_SOLIDS: dict[str, tuple[Mesh, ...]] = {
    "mug": (_mug(0.40, 0.88), _mug(0.34, 1.0), _mug(0.42, 0.7)),
    "ball": (_ball(),),
    "box": (_box(0.9, 0.7, 0.6), _box(0.75, 0.75, 0.75), _box(1.0, 0.6, 0.4)),
    "bottle": (
        _turned((0, 0), (0.26, 0), (0.26, 0.7), (0.1, 0.92), (0.09, 1.2), (0, 1.2)),
        _turned((0, 0), (0.24, 0), (0.24, 0.82), (0.21, 0.9), (0.09, 0.96), (0.09, 1.1), (0.12, 1.1), (0.12, 1.2), (0, 1.2)),
        _turned((0, 0), (0.3, 0), (0.32, 0.3), (0.24, 0.6), (0.1, 0.85), (0.1, 1.15), (0, 1.15)),
    ),
    "bowl": (
        _turned((0, 0), (0.22, 0), (0.42, 0.15), (0.56, 0.45), (0.52, 0.45), (0.38, 0.18), (0, 0.06)),
        _turned((0, 0), (0.3, 0), (0.48, 0.12), (0.55, 0.32), (0.51, 0.32), (0.44, 0.15), (0, 0.05)),
    ),
    "cone": (_turned((0, 0), (0.44, 0), (0, 1.0)), _turned((0, 0), (0.36, 0), (0, 1.05))),
    "ring": (
        _tilted(_torus(0.38, 0.12), 0), _tilted(_torus(0.40, 0.10), 0), _tilted(_torus(0.38, 0.12), 90),
        _tilted(_torus(0.38, 0.11), 50),
    ),
    "star": (_tilted(_star(0.2), 0), _tilted(_star(0.25), 90), _tilted(_star(0.3), 75), _tilted(_star(0.2), 40)),
}  # fmt: skip
"""Noun -> meshes of about unit size, foot on z = 0, in several proportions and poses."""


@functools.cache
def solids() -> tuple[Asset, ...]:
    """Every solid, in a fixed order; all of them may be painted in any colour."""
    return tuple(
        Asset(noun, f"solid-{noun}-{number}", f"solid {noun} {number}", "", "", "", "", repaint=True, held_out=False, solid=True)
        for noun, meshes in _SOLIDS.items()
        for number in range(len(meshes))
    )


def solid_parts(key: str) -> list[Part]:
    """The one part of a solid."""
    _, noun, number = key.split("-")
    points, faces = _SOLIDS[noun][int(number)]
    return [Part((points * _UNIT_M).astype(np.float32), faces, _WHITE, None, None)]
