"""preprocess + normalise against the Hugging Face image processors: same grid and same float values.

Tolerance: none. The reference is the processors' Pillow backend; their torchvision backend, not installed here, differs
from it by at most one grey level of 255 where a resize happens.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egm_edge.files import write_json

pytest.importorskip("transformers")
import cv2
from PIL import Image

from egm_edge import _resample
from egm_edge.errors import InputError
from egm_edge.pixels import PixelSpec, normalise, preprocess
from tests.support.hf_reference import hf_image_processor
from tests.support.token_files import internvl_image_processor, qwen_image_processor

SETTINGS: dict[str, dict[str, Any]] = {
    "qwen3_vl published": qwen_image_processor(65536, 16777216),
    "qwen3_vl small budget": qwen_image_processor(64 * 64, 256 * 256),
    "qwen3_vl fixed area": qwen_image_processor(192 * 192, 192 * 192),
    "qwen2_vl patches of 14": qwen_image_processor(3136, 200_000) | {"patch_size": 14},
    "internvl3 published": internvl_image_processor(448),
    "internvl3 small tiles": internvl_image_processor(56),
    "internvl3 four tiles": internvl_image_processor(112, max_patches=4),
    "internvl3 one tile": internvl_image_processor(112, max_patches=1),
    "internvl3 at least two tiles": internvl_image_processor(56) | {"min_patches": 2, "max_patches": 6},
}
SIZES = [
    pytest.param(640, 480, id="640x480: no resize in Qwen"),
    pytest.param(641, 479, id="odd sides"),
    pytest.param(333, 777, id="tall, both sides odd"),
    pytest.param(32, 32, id="one token"),
    pytest.param(1, 1, id="a single pixel"),
    pytest.param(3, 3, id="three by three: no mistaking rows for channels"),
    pytest.param(1, 190, id="one pixel wide"),
    pytest.param(200, 1, id="one pixel high, at the aspect limit"),
    pytest.param(1999, 10, id="very wide"),
    pytest.param(11, 1500, id="very tall"),
    pytest.param(17, 23, id="tiny"),
    pytest.param(112, 224, id="multiples of the tile"),
    pytest.param(448, 448, id="exactly one published tile"),
    pytest.param(900, 900, id="square"),
    pytest.param(48, 80, id="half-way between two multiples of 32"),
]


@pytest.fixture(scope="module", params=SETTINGS)
def processor_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("processor")
    write_json(directory / "preprocessor_config.json", SETTINGS[request.param])
    return directory


def photo(width: int, height: int) -> np.ndarray:
    """Smooth and hard edges both, from black to white."""
    noise = np.random.default_rng(width * 10007 + height).integers(0, 256, (height, width, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0).reshape(height, width, 3)
    return np.where((np.arange(width) // 7 % 2 == 0)[None, :, None], noise, smooth).astype(np.uint8)


def theirs(processor_dir: Path, image: np.ndarray) -> dict[str, Any]:
    processor = hf_image_processor(processor_dir)
    tiled = {} if hasattr(processor, "merge_size") else {"crop_to_patches": True}
    return processor(Image.fromarray(image), return_tensors="np", **tiled)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_grid_and_values_are_those_of_the_processor(processor_dir: Path, width: int, height: int) -> None:
    spec, image = PixelSpec.from_checkpoint(processor_dir), photo(width, height)
    ours, reference = preprocess(image, spec), theirs(processor_dir, image)
    if spec.rule == "smart_resize":
        assert [1, *ours.grid_hw] == reference["image_grid_thw"][0].tolist()
        assert ours.image_token_count == np.prod(ours.grid_hw) // spec.merge_size**2
    else:
        tiles = reference["num_patches"][0]
        assert ours.grid_hw[0] * ours.grid_hw[1] == max(1, tiles - 1)
        assert ours.image_token_count == tiles * spec.tokens_per_tile
    assert ours.image_wh == (width, height)
    assert spec.image_token_count(width, height) == ours.image_token_count
    np.testing.assert_array_equal(normalise(ours, spec), reference["pixel_values"])


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1280, 720)])
@pytest.mark.parametrize("name", ["qwen3_vl published", "internvl3 published"])
def test_camera_sizes(name: str, width: int, height: int, tmp_path: Path) -> None:
    write_json(tmp_path / "preprocessor_config.json", SETTINGS[name])
    spec, image = PixelSpec.from_checkpoint(tmp_path), photo(width, height)
    np.testing.assert_array_equal(normalise(preprocess(image, spec), spec), theirs(tmp_path, image)["pixel_values"])


def test_both_refuse_beyond_200_to_1(tmp_path: Path) -> None:
    write_json(tmp_path / "preprocessor_config.json", SETTINGS["qwen3_vl published"])
    image = photo(201, 1)
    with pytest.raises(ValueError, match="aspect ratio"):
        theirs(tmp_path, image)
    with pytest.raises(InputError, match="200 times as long as wide; found 201x1"):
        preprocess(image, PixelSpec.from_checkpoint(tmp_path))


@pytest.mark.parametrize("budget", [32 * 32, 5000, 100_000, 1_000_000])
def test_a_smaller_budget_equals_the_processor_with_that_budget(budget: int, tmp_path: Path) -> None:
    write_json(tmp_path / "preprocessor_config.json", SETTINGS["qwen3_vl published"])
    spec = PixelSpec.from_checkpoint(tmp_path).with_max_pixels(budget)
    write_json(
        tmp_path / "preprocessor_config.json", qwen_image_processor(65536 if budget >= 65536 else 32 * 32, budget)
    )
    image = photo(640, 480)
    np.testing.assert_array_equal(normalise(preprocess(image, spec), spec), theirs(tmp_path, image)["pixel_values"])


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param((640, 480), (448, 448), id="both sides shrink, the width more"),
        pytest.param((480, 640), (448, 448), id="both sides shrink, the height more"),
        pytest.param((640, 480), (1792, 1344), id="both sides grow"),
        pytest.param((1280, 720), (1280, 704), id="only the height changes"),
        pytest.param((500, 400), (512, 400), id="only the width changes"),
        pytest.param((501, 401), (512, 384), id="odd sides"),
        pytest.param((500, 400), (500, 400), id="nothing changes"),
        pytest.param((2, 998), (32, 500), id="two columns"),
        pytest.param((4, 2000), (32, 500), id="500 times as high as wide"),
        pytest.param((9, 7), (100, 3), id="small"),
    ],
)
def test_bands_are_seamless(threads: int, source: tuple[int, int], target: tuple[int, int], monkeypatch: Any) -> None:
    monkeypatch.setattr(_resample, "THREADS", threads)
    monkeypatch.setattr(_resample, "MIN_PIXELS", 0)
    image = photo(*source)
    one_piece = np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(_resample.resize_bicubic(image, *target), one_piece)


def test_bands_are_seamless_at_random_sizes(monkeypatch: Any) -> None:
    monkeypatch.setattr(_resample, "THREADS", 4)
    monkeypatch.setattr(_resample, "MIN_PIXELS", 0)
    monkeypatch.setattr(_resample, "BAND_PIXELS", 2000)
    taken, real = [], _resample._resize_axis
    monkeypatch.setattr(_resample, "_resize_axis", lambda image, axis, px: taken.append(axis) or real(image, axis, px))
    rng = np.random.default_rng(0)
    for width, height, new_width, new_height in np.exp(rng.uniform(0.0, np.log(300), (400, 4))).astype(int):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        target = (int(new_width), int(new_height))
        one_piece = np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(_resample.resize_bicubic(image, *target), one_piece)
    # Both orders must have been tried, or the comparison says little.
    assert {tuple(taken[i : i + 2]) for i in range(len(taken) - 1)} >= {(0, 1), (1, 0)}


def test_a_pillow_of_unknown_order_is_left_in_one_piece(monkeypatch: Any) -> None:
    monkeypatch.setattr(_resample, "PILLOW_MAJOR", 99)
    assert _resample._axes_in_order(640, 480, 320, 240) is None
    assert _resample._axes_in_order(480, 640, 448, 448) is None
    assert _resample._axes_in_order(1280, 720, 1280, 704) == (_resample.ROWS,)
    monkeypatch.setattr(_resample, "PILLOW_MAJOR", 12)
    assert _resample._axes_in_order(480, 640, 448, 448) == (_resample.COLUMNS, _resample.ROWS)
    assert _resample._axes_in_order(4, 2000, 32, 500) is None


def test_a_forked_worker_can_resize_after_its_parent_did() -> None:
    image = photo(900, 900)
    _resample.resize_bicubic(image, 800, 850)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_resample.resize_bicubic, args=(image, 800, 850))
    child.start()
    child.join(30)
    finished = child.exitcode
    child.kill()
    assert finished == 0
