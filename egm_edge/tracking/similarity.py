"""Similarity transforms of the plane as two complex numbers: z -> turn * z + shift.

`abs(turn)` is the scale and `phase(turn)` the angle (y points down, so it is clockwise on the screen). Knows nothing of images.
"""

from __future__ import annotations

import cmath
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Similarity:
    """z -> turn * z + shift, with x + iy for the point (x, y)."""

    turn: complex = 1.0 + 0.0j
    shift: complex = 0.0j

    def __call__(self, point: complex) -> complex:
        return self.turn * point + self.shift

    def after(self, first: Similarity) -> Similarity:
        """self o first."""
        return Similarity(self.turn * first.turn, self.turn * first.shift + self.shift)

    @property
    def inverse(self) -> Similarity:
        return Similarity(1 / self.turn, -self.shift / self.turn)

    @property
    def scale(self) -> float:
        return abs(self.turn)

    @property
    def angle_rad(self) -> float:
        return cmath.phase(self.turn)

    def matrix(self) -> NDArray[np.float64]:
        """[2, 3] as OpenCV takes it."""
        a, b = self.turn.real, self.turn.imag
        return np.array([[a, -b, self.shift.real], [b, a, self.shift.imag]])
