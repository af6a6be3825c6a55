"""Pixels of a frame on an object's grid, and the colour that tells the object from what is round it.

Knows nothing of time. A grid is `size` samples, `step` object pixels apart, centred on the object's origin.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.frames import LEVELS, SmallFrame
from egm_edge.tracking.similarity import Similarity

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

TYPICAL_PERCENTILE = 75.0
SHADOW = (0.45, 1.0)  # brightness of a soft shadow, of the table's
MIN_OWN_SHARE = 0.2  # of the box
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def sample(frame: SmallFrame, pose: Similarity, size: tuple[int, int], step: float) -> tuple[NDArray[np.uint8], Mask]:
    """Read a grid.

    Args:
        frame: where to read; the pyramid level that fits the grid's step is taken.
        pose: object coordinates to small pixels of `frame`.
        size: samples across and down.
        step: object pixels between two samples.

    Returns:
        [h, w, C] uint8 and which samples lie inside the image, [h, w]; the border is repeated outside.
    """
    image, (fx, fy) = level_for(frame.levels, step * pose.scale)
    rows, columns = image.shape[:2]
    turn = pose.turn * step
    first = pose.shift + turn * complex(0.5 - size[0] / 2, 0.5 - size[1] / 2)
    a, b, c = turn.real * fx, -turn.imag * fx, first.real * fx - 0.5
    d, e, f = turn.imag * fy, turn.real * fy, first.imag * fy - 0.5
    matrix = np.array(((a, b, c), (d, e, f)))
    warped = cv2.warpAffine(image, matrix, size, flags=_WARP, borderMode=cv2.BORDER_REPLICATE)
    patch = np.asarray(warped, np.uint8).reshape(size[1], size[0], -1)
    right, down = size[0] - 1, size[1] - 1
    xs = (c, c + a * right, c + b * down, c + a * right + b * down)
    ys = (f, f + d * right, f + e * down, f + d * right + e * down)
    if min(xs) >= -0.5 and min(ys) >= -0.5 and max(xs) <= columns - 0.5 and max(ys) <= rows - 0.5:
        return patch, _all(size)
    across, below = np.arange(size[0]), np.arange(size[1])[:, None]
    x, y = a * across + b * below + c, d * across + e * below + f
    inside = (x >= -0.5) & (y >= -0.5) & (x <= columns - 0.5) & (y <= rows - 0.5)
    return patch, inside


def level_for(levels: tuple[Pixels, ...], stride: float) -> tuple[Pixels, tuple[float, float]]:
    """The pyramid level for samples `stride` small pixels apart, and its pixels per small pixel across and down."""
    image = levels[0 if stride < 1.5 else 1 if stride < 3.0 else LEVELS - 1]
    height, width = levels[0].shape[:2]
    return image, (image.shape[1] / width, image.shape[0] / height)


@lru_cache(maxsize=64)
def _all(size: tuple[int, int]) -> Mask:
    """Every sample, [h, w]; shared, so not to be written to."""
    every = np.ones((size[1], size[0]), bool)
    every.flags.writeable = False
    return every


def grid(size: tuple[int, int], step: float) -> tuple[Floats, Floats]:
    """Object coordinates of every sample: u, v, [h, w] float32 each."""
    columns = ((np.arange(size[0]) + 0.5 - size[0] / 2) * step).astype(np.float32)
    rows = ((np.arange(size[1]) + 0.5 - size[1] / 2) * step).astype(np.float32)
    u, v = np.meshgrid(columns, rows)
    return u, v


def own_pixels(pixels: Floats, in_box: Mask, around: Mask, least_apart: float) -> tuple[Mask, bool]:
    """The samples that are the object itself, told from the table and from its shadow on it.

    Args:
        pixels: [h, w, C] float32.
        in_box, around: [h, w], samples of the box and of its surroundings.
        least_apart: smallest difference that counts, grey levels.

    Returns:
        [h, w] and True; all of `in_box` and False where object and surroundings cannot be told apart.
    """
    if not around.any() or not in_box.any():
        return in_box, False
    outside = np.median(pixels[around], 0)
    away = np.linalg.norm(pixels - outside, axis=2)
    # Not the middle of the box: the middle of a ring is table.
    typical = float(np.percentile(away[in_box], TYPICAL_PERCENTILE))
    if typical < least_apart:
        return in_box, False
    # A shadow is the table's own colour times a factor below one; black paint is darker than any soft shadow.
    factor = pixels @ outside / max(1.0, float(outside @ outside))
    off_colour = np.linalg.norm(pixels - factor[..., None] * outside, axis=2)
    shadow = (factor > SHADOW[0]) & (factor < SHADOW[1]) & (off_colour < max(least_apart, 0.25 * typical))
    own = in_box & (away > 0.4 * typical)
    for guess in (own & ~shadow, own):
        if float(guess.sum()) >= MIN_OWN_SHARE * float(in_box.sum()):
            return guess, True
    return in_box, False


def colour_axis(pixels: Floats, own: Mask, around: Mask) -> tuple[Floats, float, float]:
    """The line through colour space along which an object differs most from what is round it.

    Args:
        pixels: [h, w, C] float32.
        own, around: [h, w], samples of the object and of its surroundings.

    Returns:
        [1, C] weights of length 1, the middle value along them, and how far the two colours are apart, grey levels.
    """
    channels = pixels.shape[2]
    grey = np.full(channels, 1 / math.sqrt(channels))
    apart = np.zeros(channels)
    if own.any() and around.any():
        apart = np.median(pixels[own], 0).astype(np.float64) - np.median(pixels[around], 0)
    length = float(np.linalg.norm(apart))
    axis = grey
    if channels > 1 and length > 1.0:
        # Some grey stays in: shading inside an object is mostly grey.
        axis = apart / length * min(1.0, length / 10.0) + 0.35 * math.copysign(1.0, float(apart.sum())) * grey
        axis = axis / float(np.linalg.norm(axis))
    return axis.astype(np.float32)[None, :], float(pixels.reshape(-1, channels).mean(0) @ axis), length
