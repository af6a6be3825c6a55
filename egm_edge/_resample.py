"""Pillow's bicubic resize of a uint8 image on two cores, bit for bit equal to Pillow's own in one piece.

Pillow resamples rows first, rounds to uint8, then columns. Rows are independent of each other in the first pass and
columns in the second, so bands of them can run on different threads (Pillow lets go of the interpreter lock while it
resamples). Knows nothing of patches or models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BANDS = max(1, min(2, os.cpu_count() or 1))
MIN_BAND_PIXELS = 1 << 16  # below this a thread hand-over costs more than it saves


def resize_bicubic(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """`image` ([H, W, 3] uint8) resized to [height_px, width_px, 3]; the very same array when the size is unchanged."""
    height, width = image.shape[:2]
    if (width, height) == (width_px, height_px):
        return image
    if max(width * height, width_px * height_px) < 2 * MIN_BAND_PIXELS or BANDS == 1:
        return _resized(image, width_px, height_px)
    if width != width_px:
        rows = np.empty((height, width_px, 3), np.uint8)

        def one_row_band(a: int, b: int) -> None:
            rows[a:b] = _resized(image[a:b], width_px, b - a)

        _in_bands(one_row_band, height)
        image = rows
    if height != height_px:
        columns = np.empty((height_px, width_px, 3), np.uint8)

        def one_column_band(a: int, b: int) -> None:
            columns[:, a:b] = _resized(np.ascontiguousarray(image[:, a:b]), b - a, height_px)

        _in_bands(one_column_band, width_px)
        image = columns
    return image


def _resized(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BICUBIC))


def _in_bands(work: Callable[[int, int], None], length: int) -> None:
    edges = [length * i // BANDS for i in range(BANDS + 1)]
    pending = [_pool().submit(work, a, b) for a, b in pairwise(edges[1:])]
    work(edges[0], edges[1])
    for future in pending:
        future.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=BANDS, thread_name_prefix="egm-resize")
