"""Pillow's bicubic resize of a uint8 image on two cores, bit for bit equal to the installed Pillow's own in one piece.

Pillow resamples one axis, rounds to uint8, then the other. Rows are independent of each other while the width changes and
columns while the height does, so bands of them can run on different threads (Pillow lets go of the interpreter lock).
Knows nothing of patches or models.

Which axis goes first decides the last bit. Up to Pillow 12 it is the width; Pillow 13 takes the height first where it
shrinks by more than twice the pixels that the width does (python-pillow/Pillow pull 9549, and 9524 for height > 100 width).
Other versions may choose otherwise, so there an image that changes on both axes is left to Pillow in one piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

BANDS = max(1, min(2, os.cpu_count() or 1))
MIN_BAND_PIXELS = 1 << 16  # below this a thread hand-over costs more than it saves
PILLOW_MAJOR = int(PIL.__version__.split(".")[0])
NEWEST_KNOWN_PILLOW = 13


def resize_bicubic(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """`image` ([H, W, 3] uint8) resized to [height_px, width_px, 3]; the very same array when the size is unchanged."""
    height, width = image.shape[:2]
    if (width, height) == (width_px, height_px):
        return image
    small = max(width * height, width_px * height_px) < 2 * MIN_BAND_PIXELS
    both = width != width_px and height != height_px
    if BANDS == 1 or small or (both and (PILLOW_MAJOR > NEWEST_KNOWN_PILLOW or height > 100 * width)):
        return _resized(image, width_px, height_px)
    height_first = PILLOW_MAJOR >= 13 and height - height_px > max(0, 2 * (width - width_px))
    if height_first and both:
        return _with_width(_with_height(image, height_px), width_px)
    return _with_height(_with_width(image, width_px), height_px)


def _with_width(image: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if width == width_px:
        return image
    resized = np.empty((height, width_px, 3), np.uint8)

    def one_band(a: int, b: int) -> None:
        resized[a:b] = _resized(image[a:b], width_px, b - a)

    _in_bands(one_band, height)
    return resized


def _with_height(image: NDArray[np.uint8], height_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if height == height_px:
        return image
    resized = np.empty((height_px, width, 3), np.uint8)

    def one_band(a: int, b: int) -> None:
        resized[:, a:b] = _resized(np.ascontiguousarray(image[:, a:b]), b - a, height_px)

    _in_bands(one_band, width)
    return resized


def _resized(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BICUBIC))


def _in_bands(work: Callable[[int, int], None], length: int) -> None:
    edges = sorted({length * i // BANDS for i in range(BANDS + 1)})
    pending = [_pool().submit(work, a, b) for a, b in pairwise(edges[1:])]
    work(edges[0], edges[1])
    for future in pending:
        future.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=BANDS, thread_name_prefix="egm-resize")


# The threads of a pool do not live on in a forked child (a data loader's worker), where its queue would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
