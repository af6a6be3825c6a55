"""ROS image messages to HWC uint8 arrays, without cv_bridge.

Knows the fields of sensor_msgs/Image and CompressedImage, but imports neither rclpy nor messages: any object with those
fields will do. `check` is O(1) and cheap enough for the camera callback; `to_picture` converts, in the model's thread.
`is_bigendian` is ignored: every accepted encoding has one byte per sample.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from egm_edge.errors import InputError

JPEG_MAGIC = b"\xff\xd8"
PNG_MAGIC = b"\x89PNG"


class RejectedImageError(InputError):
    """An image message cannot be used.

    Args:
        reason: one word for the counter: "size", "step", "length", "encoding", "compressed".
    """

    def __init__(self, reason: str, expected: str, found: str, hint: str) -> None:
        self.reason = reason
        super().__init__(expected, found, hint)


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame as the Grounder takes it.

    Attributes:
        array: [H, W, 3] uint8; a view of the message's own bytes where the encoding allows it.
        color: order of the last axis, "rgb" or "bgr".
    """

    array: NDArray[np.uint8]
    color: str


@dataclass(frozen=True, slots=True)
class Encoding:
    """Memory layout of one value of Image.encoding.

    Attributes:
        bytes_per_pixel: of one row of the (first) plane.
        convert: [rows, row bytes] uint8 without padding, width -> Picture.
        even_width, even_height: chroma is shared by two neighbours.
        half_rows: rows in memory per two image rows (2, or 3 for the planar 4:2:0 formats).
    """

    bytes_per_pixel: int
    convert: Callable[[NDArray[np.uint8], int], Picture]
    even_width: bool = False
    even_height: bool = False
    half_rows: int = 2

    def memory_rows(self, height: int) -> int:
        return height * self.half_rows // 2


def _colour(color: str, channels: int) -> Callable[[NDArray[np.uint8], int], Picture]:
    def convert(rows: NDArray[np.uint8], width: int) -> Picture:
        pixels = rows.reshape(rows.shape[0], width, channels)
        return Picture(pixels if channels == 3 else np.ascontiguousarray(pixels[..., :3]), color)

    return convert


def _through_opencv(code: int, channels: int) -> Callable[[NDArray[np.uint8], int], Picture]:
    def convert(rows: NDArray[np.uint8], width: int) -> Picture:
        return Picture(cv2.cvtColor(rows.reshape(rows.shape[0], width, channels), code), "rgb")

    return convert


_MONO = Encoding(1, _through_opencv(cv2.COLOR_GRAY2RGB, 1))
_YUYV = Encoding(2, _through_opencv(cv2.COLOR_YUV2RGB_YUY2, 2), even_width=True)
_UYVY = Encoding(2, _through_opencv(cv2.COLOR_YUV2RGB_UYVY, 2), even_width=True)

# Names of sensor_msgs/image_encodings; `yuv422` and `yuv422_yuy2` are the older names of `uyvy` and `yuyv`, and `nv12`
# has no constant there but camera drivers publish it.
ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3, _colour("rgb", 3)),
    "bgr8": Encoding(3, _colour("bgr", 3)),
    "8UC3": Encoding(3, _colour("bgr", 3)),
    "rgba8": Encoding(4, _colour("rgb", 4)),
    "bgra8": Encoding(4, _colour("bgr", 4)),
    "mono8": _MONO,
    "8UC1": _MONO,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "nv12": Encoding(1, _through_opencv(cv2.COLOR_YUV2RGB_NV12, 1), True, True, half_rows=3),
    "nv21": Encoding(1, _through_opencv(cv2.COLOR_YUV2RGB_NV21, 1), True, True, half_rows=3),
}
_WIDE_SAMPLES = ("mono16", "16UC", "16SC", "32FC", "32SC", "64FC", "rgb16", "bgr16", "rgba16", "bgra16")


def check(message: Any, max_pixels: int) -> None:
    """Refuse an Image or CompressedImage message that `to_picture` could not use, in O(1).

    Args:
        message: sensor_msgs/Image or sensor_msgs/CompressedImage.
        max_pixels: cap on width * height.

    Raises:
        RejectedImageError: with the reason to count it under.
    """
    if hasattr(message, "encoding"):
        _check_raw(message, max_pixels)
    else:
        _check_compressed(message)


def to_picture(message: Any, max_pixels: int) -> Picture:
    """Convert an Image or CompressedImage message; the result may share memory with it.

    Raises:
        RejectedImageError: the message is unusable (see `check`), or its compressed bytes are damaged or too large.
    """
    check(message, max_pixels)
    if not hasattr(message, "encoding"):
        return _decode(message, max_pixels)
    encoding = ENCODINGS[message.encoding]
    rows = encoding.memory_rows(message.height)
    row_bytes = message.width * encoding.bytes_per_pixel
    buffer = np.frombuffer(message.data, np.uint8)[: rows * message.step]
    return encoding.convert(buffer.reshape(rows, message.step)[:, :row_bytes], message.width)


def _check_raw(message: Any, max_pixels: int) -> None:
    width, height, name = message.width, message.height, message.encoding
    _check_size(width, height, max_pixels)
    encoding = ENCODINGS.get(name)
    if encoding is None:
        known = ", ".join(ENCODINGS)
        kind = " (depth or 16-bit samples)" if name.startswith(_WIDE_SAMPLES) else ""
        raise RejectedImageError(
            "encoding", f"an encoding of {known}", f"{name!r}{kind}", "convert it in the camera driver"
        )
    if (encoding.even_width and width % 2) or (encoding.even_height and height % 2):
        found = f"{width}x{height}"
        raise RejectedImageError(
            "size", f"an even size for {name}", found, "set an even resolution in the camera driver"
        )
    row_bytes, rows = width * encoding.bytes_per_pixel, encoding.memory_rows(height)
    if message.step < row_bytes:
        expected = f"step >= {row_bytes} bytes for {width} pixels of {name}"
        raise RejectedImageError("step", expected, f"step {message.step}", "correct the publisher's step")
    if len(message.data) < rows * message.step:
        expected = f"{rows} rows of {message.step} bytes ({rows * message.step})"
        raise RejectedImageError("length", expected, f"{len(message.data)} bytes", "correct the publisher's data length")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0 or width * height > max_pixels:
        expected, hint = (
            f"an image of 1 to {max_pixels} pixels",
            "lower the camera's resolution or raise max_image_pixels",
        )
        raise RejectedImageError("size", expected, f"{width}x{height}", hint)


def _check_compressed(message: Any) -> None:
    head = bytes(message.data[:4])
    if "compressedDepth" in message.format:
        raise RejectedImageError("compressed", "a colour image", f"format {message.format!r}", "use the colour topic")
    if not head.startswith((JPEG_MAGIC, PNG_MAGIC)):
        found = f"{len(message.data)} bytes starting with {head.hex() or 'nothing'}"
        raise RejectedImageError("compressed", "JPEG or PNG bytes", found, "publish jpeg or png")


def _decode(message: Any, max_pixels: int) -> Picture:
    try:
        with PilImage.open(io.BytesIO(message.data), formats=("JPEG", "PNG")) as image:
            _check_size(*image.size, max_pixels)
            if image.mode.startswith(("I", "F")):
                raise RejectedImageError("compressed", "8-bit samples", f"mode {image.mode}", "publish an 8-bit image")
            return Picture(np.asarray(image.convert("RGB")), "rgb")
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        found = f"{len(message.data)} bytes that do not decode ({error})"
        raise RejectedImageError("compressed", "a whole JPEG or PNG", found, "check the publisher's encoder") from error
