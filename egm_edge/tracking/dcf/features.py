"""Channels that the filters correlate: gradient orientations and opponent colours per cell. Knows nothing of filters.

Notation: S samples a side of a patch, N = S / CELL cells a side, C channels.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.frames import grey_of
from egm_edge.tracking.sampling import Floats

CELL = 4  # samples
ORIENTATIONS = 9  # unsigned, over 180 degrees (Dalal & Triggs, CVPR 2005)
CLIP = 0.6  # of a cell's energy
NOISE_ENERGY = 2.0  # grey levels: flat cells have no orientation
COLOUR_GAIN = 1.5
_OPPONENT = np.array([[0.299, 0.587, 0.114], [COLOUR_GAIN, -COLOUR_GAIN, 0.0], [0.75, 0.75, -1.5]], np.float32).T / 255


def orientation_cells(grey: NDArray[np.uint8]) -> Floats:
    """Gradient magnitude by orientation, linear between bins.

    Args:
        grey: [H, W] uint8, sides multiples of CELL.

    Returns:
        [ORIENTATIONS, H / CELL, W / CELL] float32, sums over a cell.
    """
    height, width = grey.shape
    count, slots = (height // CELL) * (width // CELL), 2 * ORIENTATIONS + 2  # a full turn; the last two wrap round
    x = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1)
    y = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1)
    magnitude, angle = cv2.cartToPolar(x, y)
    position = angle * np.float32(ORIENTATIONS / np.pi)
    lower = np.floor(position)
    upper_share = (position - lower) * magnitude
    index = (lower.astype(np.intp) * count + _cell_of(height, width)).ravel()
    sums = np.bincount(index, (magnitude - upper_share).ravel(), slots * count)
    sums[count:] += np.bincount(index, upper_share.ravel(), slots * count)[:-count]
    turn = sums.astype(np.float32).reshape(slots, height // CELL, width // CELL)
    cells = turn[:ORIENTATIONS] + turn[ORIENTATIONS : 2 * ORIENTATIONS]
    cells[:2] += turn[2 * ORIENTATIONS :]
    return cells


def window_features(pixels: NDArray[np.uint8]) -> Floats:
    """Channels of a search window under a Hann window.

    Args:
        pixels: [S, S, 3 or 1] uint8.

    Returns:
        [C, N, N] float32: ORIENTATIONS gradient channels, grey, and the two opponent colours where there is colour.
    """
    cells = orientation_cells(grey_of(pixels))
    side = cells.shape[1]
    means = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).reshape(side * side, -1).astype(np.float32)
    colours = _OPPONENT.T @ means.T if means.shape[1] == 3 else means.T / np.float32(255)
    channels = np.empty((ORIENTATIONS + len(colours), side, side), np.float32)
    energy = cv2.blur(np.einsum("cyx,cyx->yx", cells, cells), (3, 3), borderType=cv2.BORDER_REPLICATE)
    np.minimum(cells / (np.sqrt(energy) + np.float32(NOISE_ENERGY)), np.float32(CLIP), out=channels[:ORIENTATIONS])
    channels[ORIENTATIONS:] = (colours - colours.mean(1, keepdims=True)).reshape(-1, side, side)
    channels *= hann(side)
    return channels


@lru_cache(maxsize=4)
def hann(side: int) -> Floats:
    """[side, side]; never 0, so that no cell is lost."""
    one = np.hanning(side + 2)[1:-1]
    return np.outer(one, one).astype(np.float32)


@lru_cache(maxsize=32)
def _cell_of(height: int, width: int) -> NDArray[np.intp]:
    rows, columns = np.mgrid[:height, :width] // CELL
    return np.asarray(rows * (width // CELL) + columns, np.intp)
