"""Pillow's bicubic resize of a uint8 image in strips on several cores, bit for bit equal to the installed Pillow in one piece.

Each strip is Pillow's own resize with a `box` of its share of the source, which still reads the pixels beyond its edges.
Strips meet without a seam where source and target are divided at whole pixels. Knows nothing of patches or models.

Pillow resamples one axis, rounds to uint8, then the other, so the axis that goes first decides the last bit. Up to Pillow 12
it is the width; Pillow 13 takes the height first where it shrinks by more than twice the pixels that the width does
(python-pillow/Pillow pull 9549; 9524 for images 100 times as high as wide). Dividing the axis that goes first keeps that
choice: its own change only looks larger to Pillow. Newer versions may choose otherwise, so with them an image that changes
on both axes is left to Pillow in one piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
MIN_PIXELS = 1 << 17  # below this the hand-over to other threads costs more than it saves
PILLOW_MAJOR = int(PIL.__version__.split(".")[0])
NEWEST_KNOWN_PILLOW = 13


def resize_bicubic(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """`image` ([H, W, 3] uint8) resized to [height_px, width_px, 3]; the very same array when the size is unchanged."""
    height, width = image.shape[:2]
    if (width, height) == (width_px, height_px):
        return image
    source = Image.fromarray(image)
    if max(width * height, width_px * height_px) >= MIN_PIXELS:
        axis = _axis_to_divide(width, height, width_px, height_px)
        if axis == "height" and (strips := _strip_count(height, height_px)) > 1:
            return _in_strips_of_rows(source, width_px, height_px, strips)
        if axis == "width" and (strips := _strip_count(width, width_px)) > 1:
            return _in_strips_of_columns(source, width_px, height_px, strips)
    return np.asarray(source.resize((width_px, height_px), Image.Resampling.BICUBIC))


def _axis_to_divide(width: int, height: int, width_px: int, height_px: int) -> str:
    """The axis that Pillow resamples alone or first: "width", "height", or "" when it is not known which."""
    if width == width_px:
        return "height"
    if height == height_px:
        return "width"
    if PILLOW_MAJOR > NEWEST_KNOWN_PILLOW or height > 100 * width:
        return ""
    height_first = PILLOW_MAJOR >= 13 and height - height_px > max(0, 2 * (width - width_px))
    return "height" if height_first else "width"


def _strip_count(source_px: int, target_px: int) -> int:
    return next((n for n in range(THREADS, 1, -1) if source_px % n == 0 and target_px % n == 0), 1)


def _in_strips_of_rows(source: Image.Image, width_px: int, height_px: int, strips: int) -> NDArray[np.uint8]:
    resized = np.empty((height_px, width_px, 3), np.uint8)
    rows, source_rows = height_px // strips, source.height // strips

    def one_strip(i: int) -> None:
        box = (0, i * source_rows, source.width, (i + 1) * source_rows)
        resized[i * rows : (i + 1) * rows] = np.asarray(source.resize((width_px, rows), Image.Resampling.BICUBIC, box))

    _run_all(one_strip, strips)
    return resized


def _in_strips_of_columns(source: Image.Image, width_px: int, height_px: int, strips: int) -> NDArray[np.uint8]:
    resized = np.empty((height_px, width_px, 3), np.uint8)
    columns, source_columns = width_px // strips, source.width // strips

    def one_strip(i: int) -> None:
        box = (i * source_columns, 0, (i + 1) * source_columns, source.height)
        strip = source.resize((columns, height_px), Image.Resampling.BICUBIC, box)
        resized[:, i * columns : (i + 1) * columns] = np.asarray(strip)

    _run_all(one_strip, strips)
    return resized


def _run_all(work: Callable[[int], None], count: int) -> None:
    """The first on this thread, the others beside it (Pillow lets go of the interpreter lock)."""
    pending = [_pool().submit(work, i) for i in range(1, count)]
    work(0)
    for future in pending:
        future.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="egm-resize")


# The threads of a pool do not live on in a forked child (a data loader's worker), where its queue would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
