"""Pictures of rows on their way to a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from egm_edge.data.pictures import encoded
from egm_edge.images import load_image


@pytest.mark.parametrize(
    ("save", "as_it_is"),
    [
        pytest.param(lambda p: Image.new("RGB", (9, 7), (200, 40, 10)).save(p), True, id="RGB"),
        pytest.param(lambda p: Image.new("L", (9, 7), 77).save(p), True, id="grey"),
        pytest.param(lambda p: Image.new("RGBA", (9, 7), (200, 40, 10, 30)).save(p), False, id="alpha"),
        pytest.param(lambda p: Image.new("LA", (9, 7), (90, 30)).save(p), False, id="grey with alpha"),
        pytest.param(lambda p: Image.new("I;16", (9, 7), 40000).save(p), False, id="16-bit grey"),
        pytest.param(lambda p: cv2.imwrite(str(p), np.full((7, 9, 3), 40000, np.uint16)), False, id="16-bit RGB"),
        pytest.param(lambda p: Image.new("P", (9, 7), 3).save(p, transparency=3), False, id="transparent palette"),
    ],
)
def test_a_server_gets_the_pixels_that_a_bundle_gets(save: Callable[[Path], object], as_it_is: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save(path)
    data, media_type, image_wh = encoded(path)
    assert (media_type, image_wh) == ("image/png", (9, 7))
    assert (data == path.read_bytes()) == as_it_is
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], load_image(path))
