"""Shared memory that carries one frame's pixels from the node to the model's process.

An anonymous file (memfd): it has no name to clean up, is passed to the child by its descriptor, and is gone when both
processes are, however they ended. One frame at a time: the node writes only while the model has no request.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE


class SharedFrame:
    """One [H, W, 3] uint8 frame, shared.

    Args:
        descriptor: of the other side's memory; None to make a new one.

    Attributes:
        descriptor: hand it to the other process.
        byte_count: current size; it grows with the largest frame and never shrinks.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("egm_frame") if descriptor is None else descriptor
        self.byte_count = 0
        self._map: mmap.mmap | None = None

    def write(self, array: NDArray[np.uint8]) -> None:
        """Copy a frame in; memory grows where it must."""
        if array.nbytes > self.byte_count:
            size = -(-array.nbytes // PAGE) * PAGE
            os.ftruncate(self.descriptor, size)
            self.follow(size)
        np.copyto(np.frombuffer(self._map, np.uint8, array.size).reshape(array.shape), array)

    def follow(self, byte_count: int) -> None:
        """Map the memory anew after the other side has grown it."""
        if byte_count != self.byte_count:
            self._map = mmap.mmap(self.descriptor, byte_count)  # the old one goes with the last array that looks at it
            self.byte_count = byte_count

    def read(self, height: int, width: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8, a view: valid until the next write."""
        return np.frombuffer(self._map, np.uint8, height * width * 3).reshape(height, width, 3)

    def close(self) -> None:
        """Give the memory back; a second call, from a stop in the middle of a start, does nothing."""
        self._map = None
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
