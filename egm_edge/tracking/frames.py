"""Small frames and the ring that keeps the last seconds of them. Knows nothing of tracks.

Frame of all coordinates here: "small pixels", the original image scaled so that its longer side is `working_side_px`; a
coordinate is a pixel *edge* (the centre of the first pixel is at 0.5), so a box scales by plain multiplication.

Small frames keep their colour: an orange cup on a grey table of the same brightness has no outline in grey.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError
from egm_edge.tracking.similarity import Similarity

LEVELS = 3


@dataclass(frozen=True, slots=True, eq=False)
class SmallFrame:
    """One camera frame, small.

    Attributes:
        stamp_ns: the camera's stamp.
        levels: [H, W, C] uint8 each, every level half the size of the one before; C is 3, or 1 for grey cameras.
        greys: [H, W] uint8 each, the levels without their colours.
        original_wh: width and height of the original image, pixels.
        to_small: small pixels per original pixel.
        camera: where the background of the previous frame went; identity when that is not known.
    """

    stamp_ns: int
    levels: tuple[NDArray[np.uint8], ...]
    greys: tuple[NDArray[np.uint8], ...]
    original_wh: tuple[int, int]
    to_small: tuple[float, float]
    camera: Similarity

    @property
    def grey(self) -> NDArray[np.uint8]:
        return self.greys[0]

    @property
    def wh(self) -> tuple[int, int]:
        height, width = self.levels[0].shape[:2]
        return width, height


def shrink(image: NDArray[np.uint8], working_side_px: int, color: str) -> tuple[NDArray[np.uint8], ...]:
    """Image pyramid of an original image.

    Args:
        image: [H, W, 3] or [H, W] (or [H, W, 1]) uint8.
        working_side_px: longer side of the first level; a smaller image keeps its size.
        color: "rgb", "bgr" or "grey". One track only ever compares frames of one order, so none is converted.

    Raises:
        InputError: another type, shape or colour.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = f"{getattr(image, 'dtype', type(image).__name__)}"
        raise InputError("a uint8 image", found, "convert with image.astype(np.uint8)")
    channels = {"rgb": 3, "bgr": 3, "grey": 1}.get(color)
    if channels is None:
        raise InputError("color 'rgb', 'bgr' or 'grey'", repr(color), "pass one of the three")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] != channels or min(image.shape[:2]) < 1:
        raise InputError(f"an [H, W, {channels}] image for {color}", f"shape {image.shape}", "pass color=... as it is")
    height, width = image.shape[:2]
    factor = min(1.0, working_side_px / max(height, width))
    level = image
    if factor < 1.0:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        level = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    else:
        level = image.copy()
    levels = [_with_channels(level)]
    for _ in range(LEVELS - 1):
        rows, columns = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (max(1, columns // 2), max(1, rows // 2)), interpolation=cv2.INTER_AREA)
        levels.append(_with_channels(half.astype(np.uint8, copy=False)))
    return tuple(levels)


def grey_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W] of [H, W, C]; rgb or bgr alike, for one track only ever compares one order."""
    grey = pixels[..., 0] if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.uint8)


def _with_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else image[..., None]


class FrameRing:
    """The last `memory_s` of small frames, oldest first; stamps grow strictly."""

    def __init__(self, memory_s: float, max_frames: int) -> None:
        self._memory_ns = int(memory_s * 1e9)
        self._frames: deque[SmallFrame] = deque(maxlen=max_frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[SmallFrame]:
        return iter(self._frames)

    @property
    def newest(self) -> SmallFrame | None:
        return self._frames[-1] if self._frames else None

    def add(self, frame: SmallFrame) -> None:
        self._frames.append(frame)
        while frame.stamp_ns - self._frames[0].stamp_ns > self._memory_ns:
            self._frames.popleft()

    def clear(self) -> None:
        self._frames.clear()

    def since(self, stamp_ns: int, tolerance_ns: int) -> list[SmallFrame]:
        """The frame nearest to `stamp_ns` and all after it; empty when none lies within `tolerance_ns`."""
        frames = list(self._frames)
        if not frames:
            return []
        nearest = min(range(len(frames)), key=lambda i: abs(frames[i].stamp_ns - stamp_ns))
        return frames[nearest:] if abs(frames[nearest].stamp_ns - stamp_ns) <= tolerance_ns else []

    def after(self, stamp_ns: int) -> list[SmallFrame]:
        """All frames newer than `stamp_ns`."""
        return [frame for frame in self._frames if frame.stamp_ns > stamp_ns]
