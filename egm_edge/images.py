"""The one way in for pictures: path, encoded bytes or array -> HWC uint8 RGB array.

A picture is judged by its header before anything is decoded. Knows nothing of models; every failure, Pillow's included,
becomes one InputError. Decisions: EXIF orientation is applied; alpha is dropped, as the Hugging Face processors drop it;
16-bit samples keep their high byte; of an animation the first frame is taken. Pixels are those of Pillow's decoders, unless
a reduced decoding is asked for, which says so in its result.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egm_edge._decoding_in_place import MODES, SLANTED, load_into_pages, upright_rgb
from egm_edge.errors import InputError

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 64_000_000
COLOR_ORDERS = ("rgb", "bgr")
EXIF_ORIENTATION = 0x0112
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic")
BAND_PIXELS = 1 << 21  # converted at a time
IN_PLACE_FROM_PIXELS = 1 << 21  # smaller pictures are copied faster than pages are mapped
_HEADER_BYTES = 64
_FORMATS = "a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PLAIN_MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

# EXIF orientation -> how the stored array must be turned to stand upright.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


PictureSource = str | Path | bytes | bytearray | memoryview | NDArray[np.uint8]
NeededWH = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """An upright picture and what it is of.

    Attributes:
        image_rgb: [H, W, 3] uint8 RGB, C-contiguous.
        original_wh: width and height of the picture as it is displayed, pixels.
        reduced_by: 1, or 2, 4 or 8 where a JPEG was decoded at that fraction of its width and height.
    """

    image_rgb: NDArray[np.uint8]
    original_wh: tuple[int, int]
    reduced_by: int = 1


def load_image(source: PictureSource, color: str | None = None) -> NDArray[np.uint8]:
    """An upright RGB picture.

    Args:
        source: path of a picture file (JPEG, PNG, WebP, BMP, GIF, TIFF; AVIF and HEIC where Pillow reads them), the bytes
            of one, or a uint8 array [H, W, 3] or [H, W] (grey).
        color: "rgb" or "bgr"; required for arrays with three channels, never guessed; files carry their own order.

    Returns:
        [H, W, 3] uint8 RGB, C-contiguous; shares memory with an array that was already so.

    Raises:
        InputError: anything that cannot be read as a picture of at most MAX_PIXELS pixels.
    """
    return load_picture(source, color).image_rgb


def load_picture(source: PictureSource, color: str | None = None, *, reduced_to: NeededWH | None = None) -> DecodedPicture:
    """As `load_image`, with the size of the original.

    Args:
        reduced_to: width and height, of the displayed original, to the least size that is needed. A JPEG is then decoded by
            its own 1/2, 1/4 or 1/8 scale where that is still as large; other pictures are decoded as they are.
    """
    if color is not None and color not in COLOR_ORDERS:
        raise InputError("color 'rgb' or 'bgr'", repr(color), "pass one of the two")
    if isinstance(source, np.ndarray):
        array = _from_array(source, color)
        return DecodedPicture(array, (array.shape[1], array.shape[0]))
    if not isinstance(source, (str, Path, bytes, bytearray, memoryview)):
        found = f"a {type(source).__name__}"
        raise InputError("a path, encoded bytes or an HWC uint8 array", found, "pass one of the three")
    with _stream(source) as (stream, name), _opened(stream, name) as image:
        return _decoded(image, reduced_to)


def read_image_wh(source: str | Path | bytes | bytearray | memoryview, *, upright: bool = False) -> tuple[int, int]:
    """Width and height that a picture's header announces, pixels; nothing is decoded.

    Args:
        upright: as it is displayed, its EXIF orientation applied, instead of as it is stored.

    Raises:
        InputError: no picture of a known format, or more than MAX_PIXELS.
    """
    with _stream(source) as (stream, name), _opened(stream, name) as image:
        turned = upright and _orientation(image) in SLANTED
        return (image.height, image.width) if turned else (image.width, image.height)


def check_image_file(path: Path) -> None:
    """Whether a picture file is there and of a format and size that is read, by its header; nothing is decoded.

    Raises:
        InputError: it is not.
    """
    with _stream(path) as (stream, name), _opened(stream, name):
        pass


def plain_media_type(data: bytes) -> str:
    """The media type of an encoded picture of which every reader makes the same pixels as `load_image`.

    "" for one that has to be flattened first: alpha or a transparent colour, more than 8 bits, other colours than RGB and
    grey, several frames, an EXIF turn, or a format that not everyone reads.

    Raises:
        InputError: it cannot be read as a picture.
    """
    with _opened(io.BytesIO(data), f"{len(data)} bytes") as image:
        deep = image.format == "PNG" and data[24] > 8  # IHDR's bit depth; Pillow shows 16-bit RGB as RGB
        plain = image.mode in ("RGB", "L") and not deep and "transparency" not in image.info
        if not plain or getattr(image, "n_frames", 1) > 1 or _orientation(image) != 1:
            return ""
        return _PLAIN_MEDIA_TYPES.get(image.format or "", "")


def _from_array(array: NDArray[Any], color: str | None) -> NDArray[np.uint8]:
    import cv2

    found = f"a {array.dtype} array of shape {array.shape}"
    if array.dtype != np.uint8:
        raise InputError("a uint8 array", found, "scale it to 0-255 and convert it with astype(np.uint8)")
    grey = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if grey.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise InputError(
            "an array of shape [H, W, 3] or [H, W]", found, "pass height, width and 3 channels, in that order"
        )
    _check_size(array.shape[1], array.shape[0], found)
    if grey.ndim == 2:
        return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
    if color is None:
        raise InputError("color='rgb' or color='bgr' with an array", "no color", "say which order the channels have")
    image = np.ascontiguousarray(array)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if color == "bgr" else image


@contextmanager
def _stream(source: str | Path | bytes | bytearray | memoryview) -> Iterator[tuple[BinaryIO, str]]:
    """The encoded picture and what it is called; files are read as the decoder asks for them."""
    if not isinstance(source, (str, Path)):
        size, name = len(source), f"{len(source)} bytes"
        if size > MAX_FILE_BYTES:
            raise InputError(f"an image of at most {MAX_FILE_BYTES >> 20} MiB", f"{size >> 20} MiB", "make it smaller")
        yield io.BytesIO(source), name
        return
    path = Path(source)
    try:
        if not path.exists():
            raise InputError("an image file", f"nothing at {path}", "check the path")
        if not path.is_file():
            raise InputError("an image file", f"{path}, which is no regular file", "check the path")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"an image file of at most {MAX_FILE_BYTES >> 20} MiB", f"{size >> 20} MiB", "make it smaller"
            )
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError("a readable image file", f"{path}: {error}", "check the path and its permissions") from None
    with file:
        yield file, str(source)


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    """An image whose header was checked and whose pixels are not decoded yet; Pillow's errors become InputErrors."""
    try:
        header = stream.read(_HEADER_BYTES)
        stream.seek(0)
        if not header:
            raise InputError(_FORMATS, f"{name}: no bytes", "check where it comes from")
        opener = _opener(header, name)
        if opener is None:
            raise InputError(_FORMATS, f"{name}, beginning with {header[:8]!r}", "convert it to one of these")
        # Pillow's own limits are process-wide settings, so the header's size is checked here before load() decodes.
        with opener(stream) as image:
            _check_size(image.width, image.height, name)
            yield image
    except InputError:
        raise
    except Exception as error:  # on hostile bytes Pillow's decoders raise almost anything
        reason = f"{name}: {str(error)[:160] or type(error).__name__}"
        raise InputError(f"{_FORMATS}, complete and undamaged", reason, "take or copy the picture again") from None


def _opener(data: bytes, name: str) -> Callable[[BinaryIO], Image.Image] | None:
    """Pillow's reader for the format that the first bytes announce; imported one by one, `Image.open` loads them all."""
    if data.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        from PIL.PngImagePlugin import PngImageFile

        _check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), name)
        return PngImageFile
    if data.startswith((b"II*\x00", b"MM\x00*")):
        from PIL.TiffImagePlugin import TiffImageFile

        return TiffImageFile
    if data[4:8] == b"ftyp":
        return _iso_opener(data, name)
    if data.startswith(b"BM"):
        from PIL.BmpImagePlugin import BmpImageFile

        return BmpImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        from PIL.GifImagePlugin import GifImageFile

        _check_size(int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little"), name)
        return GifImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        from PIL.WebPImagePlugin import WebPImageFile

        # Pillow's WebP reader allocates the whole canvas on opening, so its header is read here.
        _check_size(*_webp_wh(data), name)
        return WebPImageFile
    return None


def _iso_opener(data: bytes, name: str) -> Callable[[BinaryIO], Image.Image] | None:
    """AVIF comes with newer Pillows, HEIC with the plugin pillow-heif, where it is installed."""
    brands = data[8:64]
    if not any(brand in brands for brand in (b"avif", b"avis", *_HEIC_BRANDS)):
        raise InputError(_FORMATS, f"{name}, a video by its first bytes", "give it a video's name, such as .mp4, or take a picture")
    wanted, plugin, hint = (
        ("AVIF", "PIL.AvifImagePlugin:AvifImageFile", "pip install 'pillow>=11.3', or convert it to JPEG")
        if b"avif" in brands or b"avis" in brands
        else ("HEIC", "pillow_heif:HeifImageFile", "pip install pillow-heif, or convert it to JPEG")
    )
    module, _, kind = plugin.partition(":")
    try:
        opener: Callable[[BinaryIO], Image.Image] = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError):
        raise InputError(f"a picture that Pillow reads here, or its {wanted} plugin", f"{name}, {wanted}", hint) from None
    return opener


def _webp_wh(data: bytes) -> tuple[int, int]:
    """Width and height from a WebP header (RFC 9649, sections 2.5 to 2.7); (0, 0) when it is cut short."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise InputError(
            "an image with at least one pixel", f"{name} of {width}x{height} pixels", "check where it comes from"
        )
    if width * height > MAX_PIXELS:
        found = f"{width}x{height} pixels ({width * height / 1e6:.0f} megapixels)"
        raise InputError(f"an image of at most {MAX_PIXELS // 1_000_000} megapixels", found, "scale it down first")


def _decoded(image: Image.Image, reduced_to: NeededWH | None) -> DecodedPicture:
    orientation = _orientation(image) if image.format == "JPEG" else 1  # a JPEG's EXIF block stands before its pixels
    turned = orientation in SLANTED
    original_wh = (image.height, image.width) if turned else (image.width, image.height)
    reduced_by = 1
    if reduced_to is not None and image.format == "JPEG":
        needed = reduced_to(*original_wh)
        stored_width = image.width
        image.draft(None, needed[::-1] if turned else needed)
        reduced_by = round(stored_width / image.width)
    if _is_decoded_in_place(image):
        array = upright_rgb(load_into_pages(image), _orientation(image))
    else:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        array = np.ascontiguousarray(turn(_rgb(image)) if turn else _rgb(image))
    return DecodedPicture(array, original_wh if reduced_by > 1 else (array.shape[1], array.shape[0]), reduced_by)


def _is_decoded_in_place(image: Image.Image) -> bool:
    large = image.width * image.height >= IN_PLACE_FROM_PIXELS
    return large and image.format in ("JPEG", "PNG") and image.mode in MODES and getattr(image, "n_frames", 1) == 1


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """[H, W, 3] of a loaded image as it is stored, converted in bands: Pillow's conversions would hold all of it again."""
    if image.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion to 8 bit clips instead of scaling; 16-bit RGB it scales while decoding.
        grey = (np.clip(np.asarray(image, np.int64), 0, 0xFFFF) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    image.info.pop("transparency", None)  # dropped like every alpha; Pillow would warn on stderr before it drops it
    array = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        array[top:bottom] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return array


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1
