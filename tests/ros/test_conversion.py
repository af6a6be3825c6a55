"""ROS image messages to arrays, without ROS."""

from __future__ import annotations

import array
import io
import itertools
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
from egm_ros.conversion import ENCODINGS, RejectedImageError, check, to_picture
from PIL import Image as PilImage
from PIL import ImageOps

MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 20, 12


@dataclass
class FakeImage:
    """The fields of sensor_msgs/Image."""

    width: int
    height: int
    encoding: str
    step: int
    data: array.array
    is_bigendian: int = 0


@dataclass
class FakeCompressed:
    """The fields of sensor_msgs/CompressedImage."""

    format: str
    data: array.array


def scene() -> np.ndarray:
    """[12, 20, 3] uint8 RGB in flat 4x4 blocks, so that shared chroma loses nothing."""
    blocks = np.random.default_rng(3).integers(40, 210, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    return blocks.repeat(4, 0).repeat(4, 1)


def message(rows: np.ndarray, encoding: str, padding: int = 0) -> FakeImage:
    """`rows` [memory rows, row bytes], each followed by `padding` bytes of rubbish."""
    padded = np.pad(rows.reshape(rows.shape[0], -1), ((0, 0), (0, padding)), constant_values=255)
    return FakeImage(WIDTH, HEIGHT, encoding, padded.shape[1], array.array("B", padded.tobytes()))


def rgb_message(pixels: np.ndarray) -> FakeImage:
    """[H, W, 3] uint8 RGB of any size as an rgb8 message."""
    height, width = pixels.shape[:2]
    return FakeImage(width, height, "rgb8", 3 * width, array.array("B", pixels.tobytes()))


def memory_of(encoding: str) -> np.ndarray:
    """`scene()` as a camera driver lays it out in memory, [memory rows, row bytes]."""
    rgb = scene()
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    y = yuv[:HEIGHT]
    u = yuv[HEIGHT : HEIGHT + HEIGHT // 4].reshape(HEIGHT // 2, WIDTH // 2)
    v = yuv[HEIGHT + HEIGHT // 4 :].reshape(HEIGHT // 2, WIDTH // 2)
    pairs = {"u": u.repeat(2, 0), "v": v.repeat(2, 0), "y0": y[:, 0::2], "y1": y[:, 1::2]}

    def interleaved(*order: str) -> np.ndarray:
        return np.stack([pairs[name] for name in order], -1).reshape(HEIGHT, WIDTH * 2)

    planes = {
        "rgb": rgb,
        "bgr": rgb[..., ::-1],
        "rgba": np.concatenate([rgb, np.full((HEIGHT, WIDTH, 1), 7, np.uint8)], -1),
        "bgra": np.concatenate([rgb[..., ::-1], np.full((HEIGHT, WIDTH, 1), 7, np.uint8)], -1),
        "mono": grey(rgb),
        **{f"bayer_{pattern}": mosaic(rgb, pattern) for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    }
    full = yuv_full(rgb)
    rows = {
        **{f"{name}8": plane for name, plane in planes.items()},
        **{f"{name}16": wide(plane) for name, plane in planes.items()},
        "8UC1": grey(rgb),
        "8UC3": rgb[..., ::-1],
        "8UC4": planes["bgra"],
        "yuyv": interleaved("y0", "u", "y1", "v"),
        "yuv422_yuy2": interleaved("y0", "u", "y1", "v"),
        "uyvy": interleaved("u", "y0", "v", "y1"),
        "yuv422": interleaved("u", "y0", "v", "y1"),
        "nv12": np.concatenate([y, np.stack([u, v], -1).reshape(HEIGHT // 2, WIDTH)]),
        "nv21": np.concatenate([y, np.stack([v, u], -1).reshape(HEIGHT // 2, WIDTH)]),
        "nv24": np.concatenate([full[..., 0], full[..., 1:].reshape(2 * HEIGHT, WIDTH)]),
    }[encoding]
    return np.ascontiguousarray(rows).reshape(rows.shape[0], -1).view(np.uint8)


def grey(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma."""
    return (rgb @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)


def wide(plane: np.ndarray) -> np.ndarray:
    """16-bit samples, little-endian, whose low byte must not matter."""
    return (plane.astype("<u2") << 8) | 0xA5


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor sees of it: the pattern's letters are the first two rows' first two pixels, row by row."""
    seen = np.empty(rgb.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        y, x = divmod(place, 2)
        seen[y::2, x::2] = rgb[y::2, x::2, "rgb".index(letter)]
    return seen


def yuv_full(rgb: np.ndarray) -> np.ndarray:
    """[H, W, 3] Y, Cb, Cr of limited range, by the formulas of ITU-R BT.601."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    cb = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    cr = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return np.stack([y, cb, cr], -1).round().astype(np.uint8)


@pytest.mark.parametrize("padding", [0, 8], ids=["tight rows", "padded rows"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_scene(encoding: str, padding: int) -> None:
    picture = to_picture(message(memory_of(encoding), encoding, padding), MAX_PIXELS)
    rgb = (picture.array[..., ::-1] if picture.color == "bgr" else picture.array).astype(int)
    expected = scene().astype(int)
    assert picture.array.shape == (HEIGHT, WIDTH, 3)
    assert picture.array.dtype == np.uint8
    if encoding.startswith("bayer"):
        # Inside a flat block of 4x4 no neighbour is of another colour; demosaicing is exact there.
        rgb, expected = (
            image.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3)[1:-1, 1:3, 1:-1, 1:3] for image in (rgb, expected)
        )
    if encoding in ("mono8", "mono16", "8UC1"):
        expected = grey(scene())[..., None].astype(int)
    # Limited-range YUV rounds by a few grey levels.
    assert np.abs(rgb - expected).max() <= (4 if encoding.startswith(("yu", "uy", "nv")) else 0)


@pytest.mark.parametrize("encoding", ["rgb16", "mono16", "bayer_grbg16"])
def test_big_endian_samples_are_swapped(encoding: str) -> None:
    little = message(memory_of(encoding), encoding)
    swapped = np.frombuffer(little.data, "<u2").astype(">u2")
    big = replace(little, data=array.array("B", swapped.tobytes()), is_bigendian=1)
    assert np.array_equal(to_picture(big, MAX_PIXELS).array, to_picture(little, MAX_PIXELS).array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_stands_as_egm_ground_shows_it(orientation: int) -> None:
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    data = compressed("JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(PilImage.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(to_picture(bits(data), MAX_PIXELS).array, np.asarray(upright))


def test_rgb_is_a_view_of_the_message() -> None:
    source = message(memory_of("rgb8"), "rgb8")
    picture = to_picture(source, MAX_PIXELS)
    source.data[0] = 99
    assert picture.array[0, 0, 0] == 99


def test_endianness_of_bytes_is_ignored() -> None:
    swapped = replace(message(memory_of("rgb8"), "rgb8"), is_bigendian=1)
    assert np.array_equal(to_picture(swapped, MAX_PIXELS).array, scene())


@pytest.mark.parametrize(
    ("changes", "reason", "expected"),
    [
        pytest.param({"width": 0}, "size", "found 0x12", id="no width"),
        pytest.param({"height": 0}, "size", "found 20x0", id="no height"),
        pytest.param({"width": 0, "height": 0}, "size", "found 0x0", id="0x0"),
        pytest.param({"width": 20_000, "height": 20_000}, "size", "found 20000x20000", id="larger than the cap"),
        pytest.param({"step": 59}, "step", "step >= 60 bytes", id="step one byte short"),
        pytest.param({"step": 0}, "step", "found step 0", id="no step"),
        pytest.param(
            {"height": 13}, "length", "expected 13 rows of 60 bytes (780); found 720 bytes", id="one row short"
        ),
        pytest.param(
            {"step": 64}, "length", "expected 12 rows of 64 bytes (768)", id="step says padding, data has none"
        ),
        pytest.param({"data": array.array("B")}, "length", "found 0 bytes", id="no data"),
        pytest.param({"encoding": "16UC1"}, "encoding", "'16UC1' (depth)", id="depth in millimetres"),
        pytest.param({"encoding": "32FC1"}, "encoding", "(depth)", id="depth in metres"),
        pytest.param({"encoding": "rgb16"}, "step", "step >= 120 bytes", id="bytes that are called 16-bit samples"),
        pytest.param({"encoding": ""}, "encoding", "''", id="no encoding"),
        pytest.param(
            {"encoding": "yuyv", "width": 19}, "size", "an even size for yuyv", id="odd width with shared chroma"
        ),
        pytest.param(
            {"encoding": "nv12", "height": 11}, "size", "an even size for nv12", id="odd height with shared chroma"
        ),
    ],
)
def test_unusable_messages_are_refused_with_a_reason(changes: dict[str, Any], reason: str, expected: str) -> None:
    broken = replace(message(memory_of("rgb8"), "rgb8"), **changes)
    for function in (check, to_picture):
        with pytest.raises(RejectedImageError) as refusal:
            function(broken, MAX_PIXELS)
        assert refusal.value.reason == reason
        assert expected in str(refusal.value)


def compressed(kind: str, pixels: np.ndarray | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(scene() if pixels is None else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def bits(data: bytes, form: str = "jpeg") -> FakeCompressed:
    return FakeCompressed(form, array.array("B", data))


def test_png_is_exact_and_jpeg_is_close() -> None:
    assert np.array_equal(to_picture(bits(compressed("PNG"), "png"), MAX_PIXELS).array, scene())
    jpeg = to_picture(bits(compressed("JPEG", quality=95), "bgr8; jpeg compressed bgr8"), MAX_PIXELS)
    assert jpeg.color == "rgb"
    assert np.abs(jpeg.array.astype(int) - scene()).mean() < 8


@pytest.mark.parametrize(
    ("data", "form", "expected"),
    [
        pytest.param(compressed("JPEG")[:-40], "jpeg", "do not decode", id="truncated JPEG"),
        pytest.param(compressed("PNG")[:60], "png", "do not decode", id="truncated PNG"),
        pytest.param(b"\xff\xd8" + b"\0" * 50, "jpeg", "do not decode", id="only the magic bytes"),
        pytest.param(b"", "jpeg", "0 bytes starting with nothing", id="empty"),
        pytest.param(b"RIFF1234WEBP", "webp", "starting with 52494646", id="another format"),
        pytest.param(compressed("PNG"), "16UC1; compressedDepth png", "found format", id="compressed depth"),
        pytest.param(
            compressed("PNG", np.zeros((1100, 1000), np.uint8)), "png", "found 1000x1100", id="larger than the cap"
        ),
    ],
)
def test_unusable_compressed_images_are_refused(data: bytes, form: str, expected: str) -> None:
    with pytest.raises(RejectedImageError) as refusal:
        to_picture(bits(data, form), MAX_PIXELS)
    assert expected in str(refusal.value)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pictures_of_a_few_pixels_are_converted_or_refused(encoding: str) -> None:
    kind = ENCODINGS[encoding]
    converted: set[tuple[int, int]] = set()
    for width, height in itertools.product((1, 2, 3, 4, 5), repeat=2):
        step = width * kind.bytes_per_pixel
        data = array.array("B", bytes(step * kind.memory_rows(height)))
        try:
            found = to_picture(FakeImage(width, height, encoding, step, data), MAX_PIXELS)
        except RejectedImageError:
            continue
        assert found.array.shape == (height, width, 3)
        converted.add((width, height))
    assert {(2, 2), (4, 4)} <= converted
