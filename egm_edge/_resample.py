"""Pillow's bicubic resize of a uint8 image in bands on several cores, bit for bit equal to the installed Pillow in one piece.

Pillow resamples one axis, rounds to uint8, then the other; each of the two is done here by Pillow itself, in bands of the
axis that stays as it is, so that they meet without a seam and a large picture is never held twice. Knows nothing of patches
or models.

Which axis goes first decides the last bit. Up to Pillow 12 it is the width; Pillow 13 takes the height first where it shrinks
by more than twice the pixels that the width does (python-pillow/Pillow pull 9549; 9524 for images 100 times as high as wide).
Newer versions may choose otherwise, so with them an image that changes on both axes is left to Pillow in one piece.
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
BAND_PIXELS = 1 << 20  # Pillow holds 4 bytes a pixel of every band that is in work
PILLOW_MAJOR = int(PIL.__version__.split(".")[0])
NEWEST_KNOWN_PILLOW = 13
ROWS, COLUMNS = 0, 1  # axes of [H, W, 3]


def resize_bicubic(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """`image` ([H, W, 3] uint8) resized to [height_px, width_px, 3]; the very same array when the size is unchanged."""
    height, width = image.shape[:2]
    axes = _axes_in_order(width, height, width_px, height_px)
    if axes is None or max(width * height, width_px * height_px) < MIN_PIXELS:
        return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BICUBIC))
    for axis in axes:
        image = _resize_axis(image, axis, height_px if axis == ROWS else width_px)
    return image


def _axes_in_order(width: int, height: int, width_px: int, height_px: int) -> tuple[int, ...] | None:
    """The axes that Pillow resamples, in its order; None when that is not known."""
    if width == width_px or height == height_px:
        return (ROWS,) * (height != height_px) + (COLUMNS,) * (width != width_px)
    if PILLOW_MAJOR > NEWEST_KNOWN_PILLOW or height > 100 * width:
        return None
    rows_first = PILLOW_MAJOR >= 13 and height - height_px > max(0, 2 * (width - width_px))
    return (ROWS, COLUMNS) if rows_first else (COLUMNS, ROWS)


def _resize_axis(image: NDArray[np.uint8], axis: int, target_px: int) -> NDArray[np.uint8]:
    """[H, W, 3] with `target_px` along `axis`."""
    height, width = image.shape[:2]
    across = width if axis == ROWS else height
    resized = np.empty((target_px, width, 3) if axis == ROWS else (height, target_px, 3), np.uint8)
    is_small = max(height * width, resized.shape[0] * resized.shape[1]) < MIN_PIXELS  # of two passes, the second may be
    count = 1 if is_small else min(across, max(THREADS, -(-height * width // BAND_PIXELS)))
    edges = [across * i // count for i in range(count + 1)]

    def one_band(i: int) -> None:
        band = slice(edges[i], edges[i + 1])
        part = (slice(None), band) if axis == ROWS else (band, slice(None))
        source = Image.fromarray(np.ascontiguousarray(image[part]))
        size = (source.width, target_px) if axis == ROWS else (target_px, source.height)
        resized[part] = np.asarray(source.resize(size, Image.Resampling.BICUBIC))

    _run_all(one_band, count)
    return resized


def _run_all(work: Callable[[int], None], count: int) -> None:
    """A share on this thread, the others beside it (Pillow lets go of the interpreter lock)."""
    shares = min(THREADS, count)

    def share(first: int) -> None:
        for i in range(first, count, shares):
            work(i)

    pending = [_pool().submit(share, first) for first in range(1, shares)]
    share(0)
    for future in pending:
        future.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="egm-resize")


# The threads of a pool do not live on in a forked child (a data loader's worker), where its queue would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
