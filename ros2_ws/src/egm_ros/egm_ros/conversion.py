"""ROS image messages to HWC uint8 arrays, without cv_bridge.

Knows the fields of sensor_msgs/Image and CompressedImage, but imports neither rclpy nor messages: any object with those
fields will do. `check` is O(1) and cheap enough for the camera callback; `to_picture` converts, in the model's thread.
Compressed images are opened as `egm ground` opens files: an EXIF orientation is applied, and boxes are pixels of the picture
as it is displayed. `is_bigendian` matters for 16-bit samples alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError
from egm_edge.images import load_image, read_image_wh

JPEG_MAGIC = b"\xff\xd8"
PNG_MAGIC = b"\x89PNG"


class RejectReason(str, Enum):
    """What of an image message is unusable."""

    SIZE = "size"
    STEP = "step"
    LENGTH = "length"
    ENCODING = "encoding"
    COMPRESSED = "compressed"


class RejectedImageError(InputError):
    """An image message cannot be used.

    Args:
        reason: what to count it under.
    """

    def __init__(self, reason: RejectReason, expected: str, found: str, hint: str) -> None:
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


UINT8, UINT16 = np.dtype(np.uint8), np.dtype(np.uint16)
Convert = Callable[[NDArray[Any], int], Picture]


@dataclass(frozen=True, slots=True)
class Encoding:
    """Memory layout of one value of Image.encoding.

    Attributes:
        samples: in one row of the (first) plane, per pixel.
        convert: [rows, samples of a row] without padding, in the machine's own byte order, width -> Picture.
        sample: type of one.
        even_width, even_height: chroma is shared by two neighbours.
        half_rows: rows in memory per two image rows (2; 3 or 6 where chroma has a plane of its own).
    """

    samples: int
    convert: Convert
    sample: np.dtype = UINT8
    even_width: bool = False
    even_height: bool = False
    half_rows: int = 2

    @property
    def bytes_per_pixel(self) -> int:
        return self.samples * self.sample.itemsize

    def memory_rows(self, height: int) -> int:
        return height * self.half_rows // 2


def _colour(color: str, channels: int) -> Convert:
    def convert(rows: NDArray[np.uint8], width: int) -> Picture:
        pixels = rows.reshape(rows.shape[0], width, channels)
        return Picture(pixels if channels == 3 else np.ascontiguousarray(pixels[..., :3]), color)

    return convert


def _through_opencv(code: int, channels: int) -> Convert:
    def convert(rows: NDArray[np.uint8], width: int) -> Picture:
        return Picture(cv2.cvtColor(rows.reshape(rows.shape[0], width, channels), code), "rgb")

    return convert


def _nv24(rows: NDArray[np.uint8], width: int) -> Picture:
    """A plane of Y, then one of U and V for every pixel; as YUYV in which every pixel is a pair of its own."""
    height = rows.shape[0] // 3
    luma, chroma = rows[:height], rows[height:].reshape(height, width, 2)
    pairs = np.stack([luma, chroma[..., 0], luma, chroma[..., 1]], -1).reshape(height, 2 * width, 2)
    return Picture(np.ascontiguousarray(cv2.cvtColor(pairs, cv2.COLOR_YUV2RGB_YUY2)[:, ::2]), "rgb")


def _high_byte(convert: Convert) -> Convert:
    """16-bit samples keep their high byte, as everywhere in egm_edge."""
    return lambda rows, width: convert((rows >> 8).astype(np.uint8), width)


def _even_chroma(convert: Convert, samples: int, *, planes: bool) -> Encoding:
    return Encoding(samples, convert, even_width=True, even_height=planes, half_rows=3 if planes else 2)


_MONO = _through_opencv(cv2.COLOR_GRAY2RGB, 1)
_YUYV = _even_chroma(_through_opencv(cv2.COLOR_YUV2RGB_YUY2, 2), 2, planes=False)
_UYVY = _even_chroma(_through_opencv(cv2.COLOR_YUV2RGB_UYVY, 2), 2, planes=False)
# Of 8 and of 16 bits. OpenCV names a pattern by its second row's second and third pixel, ROS by its first two rows.
_BOTH_DEPTHS: dict[str, tuple[int, Convert]] = {
    "rgb": (3, _colour("rgb", 3)),
    "bgr": (3, _colour("bgr", 3)),
    "rgba": (4, _colour("rgb", 4)),
    "bgra": (4, _colour("bgr", 4)),
    "mono": (1, _MONO),
    "bayer_rggb": (1, _through_opencv(cv2.COLOR_BayerBG2RGB, 1)),
    "bayer_bggr": (1, _through_opencv(cv2.COLOR_BayerRG2RGB, 1)),
    "bayer_gbrg": (1, _through_opencv(cv2.COLOR_BayerGR2RGB, 1)),
    "bayer_grbg": (1, _through_opencv(cv2.COLOR_BayerGB2RGB, 1)),
}

# Names of sensor_msgs/image_encodings; `yuv422` and `yuv422_yuy2` are the older names of `uyvy` and `yuyv`, and `nv12`
# has no constant there but camera drivers publish it.
ENCODINGS: dict[str, Encoding] = {
    **{f"{name}8": Encoding(samples, convert) for name, (samples, convert) in _BOTH_DEPTHS.items()},
    **{
        f"{name}16": Encoding(samples, _high_byte(convert), UINT16) for name, (samples, convert) in _BOTH_DEPTHS.items()
    },
    "8UC1": Encoding(1, _MONO),
    "8UC3": Encoding(3, _colour("bgr", 3)),
    "8UC4": Encoding(4, _colour("bgr", 4)),
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "nv12": _even_chroma(_through_opencv(cv2.COLOR_YUV2RGB_NV12, 1), 1, planes=True),
    "nv21": _even_chroma(_through_opencv(cv2.COLOR_YUV2RGB_NV21, 1), 1, planes=True),
    "nv24": Encoding(1, _nv24, half_rows=6),
}
_NO_COLOUR = ("16UC", "16SC", "32FC", "32SC", "64FC")


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
    count = encoding.memory_rows(message.height)
    rows = rows_of(message, count, message.width * encoding.bytes_per_pixel, encoding.sample)
    return encoding.convert(rows, message.width)


def rows_of(message: Any, count: int, row_bytes: int, sample: np.dtype) -> NDArray[Any]:
    """[count, samples of a row] of an Image message that was checked: without padding, numbers as the message means them."""
    buffer = np.frombuffer(message.data, np.uint8)[: count * message.step]
    rows = buffer.reshape(count, message.step)[:, :row_bytes]
    if sample.itemsize == 1:
        return rows
    return np.ascontiguousarray(rows).view(sample.newbyteorder(">" if message.is_bigendian else "<"))


def _check_raw(message: Any, max_pixels: int) -> None:
    width, height, name = message.width, message.height, message.encoding
    _check_size(width, height, max_pixels)
    encoding = ENCODINGS.get(name)
    if encoding is None:
        known = ", ".join(ENCODINGS)
        kind = " (depth)" if name.startswith(_NO_COLOUR) else ""
        raise RejectedImageError(
            RejectReason.ENCODING, f"an encoding of {known}", f"{name[:40]!r}{kind}", "convert it in the camera driver"
        )
    if (encoding.even_width and width % 2) or (encoding.even_height and height % 2):
        found = f"{width}x{height}"
        raise RejectedImageError(
            RejectReason.SIZE, f"an even size for {name}", found, "set an even resolution in the camera driver"
        )
    row_bytes, rows = width * encoding.bytes_per_pixel, encoding.memory_rows(height)
    if message.step < row_bytes:
        expected = f"step >= {row_bytes} bytes for {width} pixels of {name}"
        raise RejectedImageError(RejectReason.STEP, expected, f"step {message.step}", "correct the publisher's step")
    if len(message.data) < rows * message.step:
        expected = f"{rows} rows of {message.step} bytes ({rows * message.step})"
        raise RejectedImageError(
            RejectReason.LENGTH, expected, f"{len(message.data)} bytes", "correct the publisher's data length"
        )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0 or width * height > max_pixels:
        expected, hint = (
            f"an image of 1 to {max_pixels} pixels",
            "lower the camera's resolution or raise max_image_pixels",
        )
        raise RejectedImageError(RejectReason.SIZE, expected, f"{width}x{height}", hint)


def _check_compressed(message: Any) -> None:
    head = bytes(message.data[:4])
    if "compressedDepth" in message.format:
        raise RejectedImageError(
            RejectReason.COMPRESSED, "a colour image", f"format {message.format[:40]!r}", "use the colour topic"
        )
    if not head.startswith((JPEG_MAGIC, PNG_MAGIC)):
        found = f"{len(message.data)} bytes starting with {head.hex() or 'nothing'}"
        raise RejectedImageError(RejectReason.COMPRESSED, "JPEG or PNG bytes", found, "publish jpeg or png")


def _decode(message: Any, max_pixels: int) -> Picture:
    try:
        data = bytes(message.data)
        _check_size(*read_image_wh(data), max_pixels)
        return Picture(load_image(data), "rgb")
    except RejectedImageError:
        raise
    except InputError as error:
        found = f"{len(message.data)} bytes that do not decode ({error.found})"
        hint = "check the publisher's encoder"
        raise RejectedImageError(RejectReason.COMPRESSED, "a whole JPEG or PNG", found, hint) from error
