"""Large JPEGs: the pixels are Pillow's whatever the EXIF turn, and the picture never lies in memory twice."""

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


def jpeg(width: int, height: int, orientation: int) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[EXIF_ORIENTATION] = orientation
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _small_pictures_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "IN_PLACE_FROM_PIXELS", 0)
    monkeypatch.setattr(_decoding_in_place, "BAND_BYTES", 3 * 4096)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_are_those_that_pillow_gives(size: tuple[int, int], orientation: int) -> None:
    data = jpeg(*size, orientation)
    found = load_image(data)
    assert found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_file_is_refused(kept: float) -> None:
    data = jpeg(301, 207, 6)
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
@pytest.mark.parametrize("orientation", [1, 6], ids=["upright", "turned"])
def test_48_megapixels_add_less_than_250_mb(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.linear_gradient("L").resize((8000, 6000)).convert("RGB").save(path, exif=exif)
    done = subprocess.run([sys.executable, "-c", GROUND, str(path)], capture_output=True, text=True, check=True, timeout=300)
    size, _, added_mb = done.stdout.strip().rpartition(" ")
    assert size == ("(8000, 6000)" if orientation == 1 else "(6000, 8000)")
    assert 150 < float(added_mb) < 250  # one picture at Pillow's four bytes a pixel is 192
