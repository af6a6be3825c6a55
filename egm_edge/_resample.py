"""Pillow's bicubic resize of a uint8 image in two halves on two cores, bit for bit equal to the installed Pillow in one piece.

Each half is Pillow's own resize with a `box` of half the source, which still reads the pixels beyond its edge. The halves
meet without a seam where source and target split at whole pixels. Knows nothing of patches or models.

Pillow resamples one axis, rounds to uint8, then the other, so the axis that goes first decides the last bit. Up to Pillow 12
it is the width; Pillow 13 takes the height first where it shrinks by more than twice the pixels that the width does
(python-pillow/Pillow pull 9549; 9524 for images 100 times as high as wide). Halving the axis that goes second keeps that
choice. Other versions may choose otherwise, so there an image that changes on both axes is left to Pillow in one piece.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

THREADS = max(1, min(2, os.cpu_count() or 1))
MIN_PIXELS = 1 << 17  # below this the hand-over to a second thread costs more than it saves
PILLOW_MAJOR = int(PIL.__version__.split(".")[0])
NEWEST_KNOWN_PILLOW = 13


def resize_bicubic(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """`image` ([H, W, 3] uint8) resized to [height_px, width_px, 3]; the very same array when the size is unchanged."""
    height, width = image.shape[:2]
    if (width, height) == (width_px, height_px):
        return image
    source = Image.fromarray(image)
    large = max(width * height, width_px * height_px) >= MIN_PIXELS
    if THREADS > 1 and large:
        if _may_halve_rows(width, height, width_px, height_px):
            return _halves_of_rows(source, width_px, height_px)
        if _may_halve_columns(width, height, width_px, height_px):
            return _halves_of_columns(source, width_px, height_px)
    return np.asarray(source.resize((width_px, height_px), Image.Resampling.BICUBIC))


def _may_halve_rows(width: int, height: int, width_px: int, height_px: int) -> bool:
    order_known = width == width_px or (
        _order_known(width, height) and _height_first(width, height, width_px, height_px)
    )
    return height % 2 == 0 and height_px % 2 == 0 and order_known


def _may_halve_columns(width: int, height: int, width_px: int, height_px: int) -> bool:
    order_known = height == height_px or (
        _order_known(width, height) and not _height_first(width, height, width_px, height_px)
    )
    return width % 2 == 0 and width_px % 2 == 0 and order_known


def _order_known(width: int, height: int) -> bool:
    return PILLOW_MAJOR <= NEWEST_KNOWN_PILLOW and height <= 100 * width


def _height_first(width: int, height: int, width_px: int, height_px: int) -> bool:
    return PILLOW_MAJOR >= 13 and height - height_px > max(0, 2 * (width - width_px))


def _halves_of_rows(source: Image.Image, width_px: int, height_px: int) -> NDArray[np.uint8]:
    resized = np.empty((height_px, width_px, 3), np.uint8)
    middle, source_middle = height_px // 2, source.height // 2

    def half(rows: slice, top: int) -> None:
        box = (0, top, source.width, top + source_middle)
        resized[rows] = np.asarray(source.resize((width_px, middle), Image.Resampling.BICUBIC, box))

    second = _pool().submit(half, slice(middle, None), source_middle)
    half(slice(None, middle), 0)
    second.result()
    return resized


def _halves_of_columns(source: Image.Image, width_px: int, height_px: int) -> NDArray[np.uint8]:
    resized = np.empty((height_px, width_px, 3), np.uint8)
    middle, source_middle = width_px // 2, source.width // 2

    def half(columns: slice, left: int) -> None:
        box = (left, 0, left + source_middle, source.height)
        resized[:, columns] = np.asarray(source.resize((middle, height_px), Image.Resampling.BICUBIC, box))

    second = _pool().submit(half, slice(middle, None), source_middle)
    half(slice(None, middle), 0)
    second.result()
    return resized


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="egm-resize")


# The threads of a pool do not live on in a forked child (a data loader's worker), where its queue would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
