"""load_image: what is read, how it is turned upright and to RGB, and what each unusable source is told."""

from __future__ import annotations

import io
import os
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from egm_edge import images
from egm_edge.errors import InputError
from egm_edge.images import load_image, load_picture

PHOTO = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def webp_canvas_of(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides


def jpeg_header_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.fromarray(PHOTO), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


RGB_PNG = encoded(Image.fromarray(PHOTO), "PNG")


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_lossless_files_give_back_the_pixels(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(PHOTO), form, **options)), PHOTO)


def test_jpeg_is_decoded_as_pillow_decodes_it() -> None:
    data = encoded(Image.fromarray(PHOTO), "JPEG")
    np.testing.assert_array_equal(load_image(data), np.asarray(Image.open(io.BytesIO(data))))


def test_path_str_bytes_and_memoryview_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(RGB_PNG)
    for source in (path, str(path), RGB_PNG, bytearray(RGB_PNG), memoryview(RGB_PNG)):
        image = load_image(source)
        assert image.flags.c_contiguous
        assert image.flags.writeable
        np.testing.assert_array_equal(image, PHOTO)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    np.testing.assert_array_equal(load_image(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(load_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_alpha_is_dropped_not_blended() -> None:
    rgba = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(rgba), "PNG")), PHOTO)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = load_image(encoded(Image.fromarray(levels), "PNG"))
    assert image[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    data = encoded(Image.fromarray(PHOTO), "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = load_image(data)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage!"], ids=["cut", "no TIFF"])
def test_a_damaged_exif_block_does_not_cost_the_picture(exif: bytes) -> None:
    data = encoded(Image.fromarray(PHOTO), "PNG", exif=exif)
    np.testing.assert_array_equal(load_image(data), PHOTO)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [3, bytes(range(16))], ids=["one colour", "a level per colour"])
def test_a_palette_with_transparency_is_read_without_a_warning(transparency: int | bytes) -> None:
    palette = Image.fromarray(PHOTO).quantize(16)
    data = encoded(palette, "PNG", transparency=transparency)
    np.testing.assert_array_equal(load_image(data), np.asarray(palette.convert("RGB")))


def test_arrays_in_either_order_and_grey() -> None:
    np.testing.assert_array_equal(load_image(PHOTO, color="rgb"), PHOTO)
    np.testing.assert_array_equal(load_image(PHOTO, color="bgr"), PHOTO[..., ::-1])
    for grey in (PHOTO[..., 0], PHOTO[..., :1]):
        np.testing.assert_array_equal(load_image(grey), np.repeat(PHOTO[..., :1], 3, axis=2))


def test_a_strided_view_becomes_contiguous() -> None:
    view = PHOTO[::2, ::-1]
    image = load_image(view, color="rgb")
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, view)


@pytest.mark.parametrize(
    ("source", "color", "message"),
    [
        pytest.param(b"", None, "no bytes", id="empty bytes"),
        pytest.param(b"hello world", None, "beginning with b'hello wo'", id="text, not an image"),
        pytest.param(b"8BPS\0\1" + bytes(40), None, "JPEG, PNG, WebP, BMP, GIF", id="PSD"),
        pytest.param(RGB_PNG[: len(RGB_PNG) // 2], None, "complete and undamaged", id="truncated PNG"),
        pytest.param(
            encoded(Image.fromarray(PHOTO), "JPEG")[:700], None, "complete and undamaged", id="truncated JPEG"
        ),
        pytest.param(
            encoded(Image.fromarray(PHOTO), "WEBP")[:200], None, "complete and undamaged", id="truncated WebP"
        ),
        pytest.param(encoded(Image.fromarray(PHOTO), "BMP")[:200], None, "complete and undamaged", id="truncated BMP"),
        pytest.param(RGB_PNG[:20], None, "at least one pixel", id="PNG cut in its header"),
        pytest.param(png_header_of(0, 0), None, "0x0 pixels", id="PNG of 0x0"),
        pytest.param(png_header_of(3, 3), None, "complete and undamaged", id="PNG without pixel data"),
        pytest.param(png_header_of(20000, 20000), None, "20000x20000 pixels (400 megapixels)", id="20000x20000 PNG"),
        pytest.param(jpeg_header_of(20000, 20000), None, "400 megapixels", id="20000x20000 JPEG"),
        pytest.param(webp_canvas_of(16384, 16384), None, "268 megapixels", id="WebP of a huge canvas"),
        pytest.param(PHOTO, None, "color='rgb' or color='bgr'", id="array without a colour order"),
        pytest.param(PHOTO, "RGB", "'rgb' or 'bgr'; found 'RGB'", id="unknown colour order"),
        pytest.param(PHOTO / 255, "rgb", "float64 array", id="float array"),
        pytest.param(PHOTO.astype(np.uint16), "rgb", "uint16 array", id="16-bit array"),
        pytest.param(PHOTO.transpose(2, 0, 1), "rgb", "[H, W, 3]", id="channels first"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), "rgb", "[H, W, 3]", id="four channels"),
        pytest.param(np.zeros((4, 4, 3, 1), np.uint8), "rgb", "[H, W, 3]", id="four axes"),
        pytest.param(np.zeros((0, 0, 3), np.uint8), "rgb", "at least one pixel", id="0x0 array"),
        pytest.param(np.zeros((0, 5), np.uint8), None, "at least one pixel", id="grey array without rows"),
        pytest.param(np.broadcast_to(np.uint8(0), (20000, 20000, 3)), "rgb", "64 megapixels", id="20000x20000 array"),
        pytest.param(None, None, "a NoneType", id="None"),
        pytest.param(12, None, "a int", id="a number"),
        pytest.param("no/such/file.png", None, "nothing at no/such/file.png", id="missing file"),
        pytest.param("/", None, "no regular file", id="a folder"),
        pytest.param("x" * 5000, None, "readable image file", id="an impossibly long path"),
    ],
)
def test_unusable_sources_get_one_line_that_says_why(source: object, color: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_image(source, color=color)  # type: ignore[arg-type]
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert caught.value.expected
    assert caught.value.found
    assert caught.value.hint
    assert caught.value.__cause__ is None


def test_a_file_beyond_the_size_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    path = tmp_path / "photo.png"
    path.write_bytes(RGB_PNG)
    with pytest.raises(InputError, match="at most 0 MiB"):
        load_image(path)
    with pytest.raises(InputError, match="at most 0 MiB"):
        load_image(RGB_PNG)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(RGB_PNG)
    path.chmod(0)
    with pytest.raises(InputError, match="readable"):
        load_image(path)


def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(1)
    originals = [encoded(Image.fromarray(PHOTO), form) for form in ("PNG", "JPEG", "WEBP", "BMP")]
    for _ in range(400):
        data = bytearray(originals[rng.integers(4)])
        for at in rng.integers(0, len(data), rng.integers(1, 8)):
            data[at] = rng.integers(256)
        try:
            image = load_image(bytes(data))
        except InputError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "AVIF"])
def test_what_cameras_and_browsers_save_is_read(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    flat = np.full((24, 32, 3), (200, 40, 40), np.uint8)
    found = load_image(encoded(Image.fromarray(flat), kind))
    assert found.shape == flat.shape
    assert np.abs(found.astype(int) - flat).max() <= 6  # a palette and a lossy codec


def test_heic_without_its_plugin_names_it() -> None:
    if find_spec("pillow_heif"):
        pytest.skip("pillow-heif is here")
    with pytest.raises(InputError, match="pip install pillow-heif"):
        load_image(b"\0\0\0\x18ftypheic" + bytes(64))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_pictures_converted_in_bands_are_those_converted_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BAND_PIXELS", 150)
    image = Image.fromarray(PHOTO).convert(mode)
    np.testing.assert_array_equal(load_image(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("needed", "by"), [((20, 15), 8), ((39, 29), 4), ((80, 60), 2), ((161, 121), 1), ((900, 900), 1)])
def test_a_reduced_jpeg_is_as_large_as_needed_and_knows_its_original(needed: tuple[int, int], by: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    upright = Image.fromarray(np.random.default_rng(3).integers(0, 256, (121, 161, 3), np.uint8))
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    data = encoded(stored, "JPEG", exif=exif)
    found = load_picture(data, reduced_to=lambda width, height: needed)
    assert found.original_wh == (161, 121)
    assert found.reduced_by == by
    assert found.image_rgb.shape == (-(-121 // by), -(-161 // by), 3)
    if by == 1:
        np.testing.assert_array_equal(found.image_rgb, load_image(data))


def test_what_is_no_jpeg_is_decoded_whole() -> None:
    found = load_picture(RGB_PNG, reduced_to=lambda width, height: (4, 3))
    assert found.reduced_by == 1
    np.testing.assert_array_equal(found.image_rgb, PHOTO)
