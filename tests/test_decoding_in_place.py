"""Large JPEGs and PNGs: the pixels are Pillow's whatever the EXIF turn, and the picture never lies in memory twice."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from egm_edge import _decoding_in_place, images
from egm_edge.errors import InputError
from egm_edge.images import EXIF_ORIENTATION, load_image

SIZES = [pytest.param((301, 207), id="wide"), pytest.param((64, 500), id="tall"), pytest.param((7, 9), id="one band")]


KINDS = [("JPEG", 3), ("PNG", 3), ("PNG", 4)]


def picture(width: int, height: int, orientation: int, kind: str = "JPEG", channels: int = 3) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[EXIF_ORIENTATION] = orientation
    noise = np.random.default_rng(width).integers(0, 256, (height, width, channels), np.uint8)
    Image.fromarray(noise).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _small_pictures_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "IN_PLACE_FROM_PIXELS", 0)
    monkeypatch.setattr(_decoding_in_place, "BAND_BYTES", 3 * 4096)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "channels"), KINDS)
def test_the_pixels_are_those_that_pillow_gives(size: tuple[int, int], orientation: int, kind: str, channels: int) -> None:
    data = picture(*size, orientation, kind, channels)
    found = load_image(data)
    assert found.flags.c_contiguous and found.flags.writeable
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(found, np.asarray(turned)[..., :3])  # alpha is dropped


def test_of_an_animated_png_the_first_frame_is_taken() -> None:
    frames = [Image.fromarray(np.full((40, 50, 4), value, np.uint8)) for value in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    assert np.unique(load_image(buffer.getvalue())).tolist() == [10]


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize(("kind", "channels"), KINDS)
def test_a_cut_file_is_refused(kept: float, kind: str, channels: int) -> None:
    data = picture(301, 207, 6, kind, channels)
    with pytest.raises(InputError, match="complete and undamaged"):
        load_image(data[: int(len(data) * kept)])


GROUND = r"""
import re, sys
from pathlib import Path
from egm_edge import open_grounder

def peak_mb():  # ru_maxrss would begin with what the parent had
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

with open_grounder() as grounder:
    grounder.warm_up()
    before = peak_mb()
    print(grounder.ground(sys.argv[1], "the red bowl").image_wh, peak_mb() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("orientation", "name"), [(1, "large.jpg"), (6, "large.jpg"), (6, "large.png")], ids=["upright", "turned", "png"]
)
def test_48_megapixels_add_less_than_250_mb(orientation: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.linear_gradient("L").resize((8000, 6000)).convert("RGB").save(path, exif=exif, compress_level=1)
    done = subprocess.run([sys.executable, "-c", GROUND, str(path)], capture_output=True, text=True, check=True, timeout=300)
    size, _, added_mb = done.stdout.strip().rpartition(" ")
    assert size == ("(8000, 6000)" if orientation == 1 else "(6000, 8000)")
    assert 150 < float(added_mb) < 250  # one picture at Pillow's four bytes a pixel is 192
