"""RGB arrays as the bytes of a PNG or JPEG file. Knows nothing of where they go."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError

QUICK_PNG = 1  # of zlib's levels: a picture that only travels is written quickly rather than small


def png(image_rgb: NDArray[np.uint8]) -> bytes:
    """A picture, [H, W, 3] uint8 RGB, losslessly.

    Raises:
        InputError: it cannot be written as PNG.
    """
    return _encoded(".png", image_rgb, cv2.IMWRITE_PNG_COMPRESSION, QUICK_PNG)


def jpeg(image_rgb: NDArray[np.uint8], quality: int) -> bytes:
    """A picture, [H, W, 3] uint8 RGB, at a quality of 0-100.

    Raises:
        InputError: it cannot be written as JPEG.
    """
    return _encoded(".jpg", image_rgb, cv2.IMWRITE_JPEG_QUALITY, quality)


def _encoded(suffix: str, image_rgb: NDArray[np.uint8], *options: int) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image_rgb[..., ::-1]), options)
    if not done:
        raise InputError(f"a picture that {suffix} can hold", f"one of shape {image_rgb.shape}", "check the picture")
    return data.tobytes()
