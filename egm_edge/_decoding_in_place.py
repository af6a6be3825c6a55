"""Pillow's decoders writing into pages of ours, and those pages become an RGB array without the picture lying twice.

Pillow keeps 4 bytes a pixel and an RGB array 3: together 336 MB for 48 megapixels. Here the pages that were copied are given
back as the copying goes on, so that the most is one picture of 4 bytes a pixel. The decoder, and so every pixel, is Pillow's.
Knows nothing of files or headers.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BAND_BYTES = 8 << 20
MODES = ("RGB", "RGBA")  # Pillow's, that lie in memory as four bytes a pixel, red first
SLANTED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class PixelPages:
    """Memory for [height, width, 4] uint8 that can be given back page by page."""

    def __init__(self, width: int, height: int) -> None:
        self._map = mmap.mmap(-1, width * height * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.rgbx: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8).reshape(height, width, 4)

    def release(self, begin: int, end: int) -> None:
        """Give back the whole pages between two byte offsets; what they held is lost."""
        first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


def load_into_pages(image: Image.Image) -> PixelPages:
    """Decode a picture of one of MODES that was opened and not loaded, a single frame; Pillow's errors pass through.

    Its `load_prepare` makes memory only where there is none of that mode and size.
    """
    pages = PixelPages(image.width, image.height)
    core: Any = Image.core
    opened: Any = image
    opened.im = core.map_buffer(pages.rgbx.reshape(-1), image.size, "raw", 0, (image.mode, 0, 1))
    image.load()
    return pages


def upright_rgb(pages: PixelPages, orientation: int) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB, contiguous, turned as its EXIF orientation says; uses the pages up."""
    import cv2

    height, width = pages.rgbx.shape[:2]
    rows = max(1, BAND_BYTES // (width * 4))
    bands = [(first, min(first + rows, height)) for first in range(0, height, rows)]
    if orientation in SLANTED:
        return _upright_slanted(pages, orientation, bands)
    upright = np.empty((height, width, 3), np.uint8)
    for first, end in bands:
        band = cv2.cvtColor(pages.rgbx[first:end], cv2.COLOR_RGBA2RGB)
        band = band[:, ::-1] if orientation in (2, 3) else band
        if orientation in (3, 4):
            upright[height - end : height - first] = band[::-1]
        else:
            upright[first:end] = band
        pages.release(first * width * 4, end * width * 4)
    return upright


def _upright_slanted(pages: PixelPages, orientation: int, bands: list[tuple[int, int]]) -> NDArray[np.uint8]:
    """First every band is transposed within its own pages, then slices across all bands are put together."""
    import cv2

    height, width = pages.rgbx.shape[:2]
    memory = pages.rgbx.reshape(-1)
    for first, end in bands:  # [rows, width, 4] -> [width, rows, 3]
        band = cv2.transpose(cv2.cvtColor(pages.rgbx[first:end], cv2.COLOR_RGBA2RGB))
        begin = first * width * 4
        memory[begin : begin + band.size] = band.reshape(-1)
        pages.release(begin + band.size, end * width * 4)
    transposed = np.empty((width, height, 3), np.uint8)  # what orientation 5 asks for
    columns = max(1, BAND_BYTES // (height * 3))
    mirrored, upside_down = orientation in (6, 7), orientation in (7, 8)
    for left in range(0, width, columns):
        right = min(left + columns, width)
        # Rows of the upright picture: `left` to `right`, or as many from its end.
        to = slice(width - right, width - left) if upside_down else slice(left, right)
        for first, end in bands:
            begin, row_bytes = first * width * 4, (end - first) * 3
            piece = memory[begin + left * row_bytes : begin + right * row_bytes].reshape(right - left, end - first, 3)
            piece = piece[::-1] if upside_down else piece
            if mirrored:
                transposed[to, height - end : height - first] = piece[:, ::-1]
            else:
                transposed[to, first:end] = piece
            pages.release(begin + left * row_bytes, begin + right * row_bytes)
    return transposed
