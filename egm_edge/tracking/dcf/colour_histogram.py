"""Which pixels have the object's colours rather than its surroundings'. Knows nothing of filters or frames.

Staple (Bertinetto et al., "Staple: Complementary Learners for Real-Time Tracking", CVPR 2016): colours know no shape, so they
hold where the object deforms, and a filter does not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.sampling import Floats, Mask

BITS = 4  # of a channel: 16 levels
INNER, OUTER = 0.8, 1.1  # of the box: surely object inside the one, surely surroundings outside the other


class ColourHistogram:
    """Colours of the object and of what is round it.

    Args:
        pixels: [S, S, C] uint8, a window about the object.
        half_wh: half width and height of its box, samples.
        before: what earlier looks at the object gave; this one's share of the mean is `share`.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        half_wh: tuple[float, float],
        before: ColourHistogram | None = None,
        share: float = 1.0,
    ) -> None:
        away = np.abs(np.arange(pixels.shape[0]) - (pixels.shape[0] - 1) / 2)
        self._inside: Mask = np.logical_and.outer(away <= INNER * half_wh[1], away <= INNER * half_wh[0])
        self._outside: Mask = ~np.logical_and.outer(away <= OUTER * half_wh[1], away <= OUTER * half_wh[0])
        self._kernel = (max(1, int(2 * INNER * half_wh[0])), max(1, int(2 * INNER * half_wh[1])))
        self._own, self._other = self._shares(pixels)
        if before is not None:
            own, other = before._grounded
            self._own, self._other = own + share * (self._own - own), other + share * (self._other - other)
        self._grounded: tuple[Floats, Floats] = self._own, self._other
        self._likelihood = _ratio(self._own, self._other)

    def learn(self, pixels: NDArray[np.uint8], rate: float) -> None:
        """Move towards the colours of a window with the object at its centre."""
        own, other = self._shares(pixels)
        self._own = self._own + rate * (own - self._own)
        self._other = self._other + rate * (other - self._other)
        self._likelihood = _ratio(self._own, self._other)

    def respond(self, pixels: NDArray[np.uint8], cells: int) -> Floats:
        """Mean likelihood of a box about each cell's centre, [cells, cells], 0-1, origin at [0, 0] as the filters' is."""
        likelihood = self._likelihood[_bins(pixels)]
        half_cell = pixels.shape[0] // cells // 2
        width, height = self._kernel
        anchor = (min(width - 1, (width - 1) // 2 + half_cell), min(height - 1, (height - 1) // 2 + half_cell))
        boxes = cv2.boxFilter(likelihood, -1, (width, height), anchor=anchor, borderType=cv2.BORDER_CONSTANT)
        small = cv2.resize(boxes, (cells, cells), interpolation=cv2.INTER_AREA)
        return np.asarray(np.roll(small, (-(cells // 2), -(cells // 2)), (0, 1)), np.float32)

    def _shares(self, pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        bins, count = _bins(pixels), 1 << BITS * pixels.shape[2]
        own, other = (np.bincount(bins[where], minlength=count) for where in (self._inside, self._outside))
        return (own / max(1, own.sum())).astype(np.float32), (other / max(1, other.sum())).astype(np.float32)


def _ratio(own: Floats, other: Floats) -> Floats:
    return own / (own + other + np.float32(1e-5))


def _bins(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    levels = (pixels >> (8 - BITS)).astype(np.int32)
    index = levels[..., 0]
    for channel in range(1, pixels.shape[2]):
        index = (index << BITS) + levels[..., channel]
    return index
