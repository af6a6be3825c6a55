"""PixelSpec: reading it, hashing it, budgets; and what preprocess refuses. Needs neither torch nor transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egm_edge.errors import BundleError, CheckpointError, EgmError, InputError
from egm_edge.files import write_json
from egm_edge.pixels import PixelSpec, normalise, preprocess
from tests.support.token_files import internvl_image_processor, qwen_image_processor

QWEN = PixelSpec(
    rule="smart_resize",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    patch_size=16,
    merge_size=2,
    temporal_patch_size=2,
    min_pixels=65536,
    max_pixels=16777216,
)
TILES = PixelSpec(
    rule="tiles",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    tile_size=448,
    min_tiles=1,
    max_tiles=12,
    tokens_per_tile=256,
)


def checkpoint(directory: Path, settings: dict[str, Any], name: str = "preprocessor_config.json") -> Path:
    write_json(directory / name, settings)
    return directory


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        pytest.param(qwen_image_processor(65536, 16777216), QWEN, id="Qwen3-VL as published"),
        pytest.param(
            internvl_image_processor(448), TILES, id="InternVL3 as published, tiling switched on by its processor"
        ),
        pytest.param(
            qwen_image_processor(1, 2) | {"min_pixels": 65536, "max_pixels": 16777216},
            QWEN,
            id="the older min_pixels keys win",
        ),
        pytest.param(
            qwen_image_processor(65536, 16777216) | {"image_processor_type": "Qwen2VLImageProcessor"},
            QWEN,
            id="slow processor",
        ),
    ],
)
def test_settings_are_read(settings: dict[str, Any], spec: PixelSpec, tmp_path: Path) -> None:
    assert PixelSpec.from_checkpoint(checkpoint(tmp_path, settings)) == spec


def test_settings_inside_processor_config_are_read(tmp_path: Path) -> None:
    values = {"image_processor": internvl_image_processor(56), "image_seq_length": 4}
    spec = PixelSpec.from_checkpoint(checkpoint(tmp_path, values, "processor_config.json"))
    assert (spec.tile_size, spec.tokens_per_tile) == (56, 4)


def test_tokens_per_tile_come_from_the_checkpoint(tmp_path: Path) -> None:
    checkpoint(tmp_path, internvl_image_processor(112))
    write_json(tmp_path / "config.json", {"image_seq_length": 16})
    assert PixelSpec.from_checkpoint(tmp_path).tokens_per_tile == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"image_processor_type": "CLIPImageProcessor"}, "found 'CLIPImageProcessor'", id="another processor"
        ),
        pytest.param({"image_processor_type": None}, "found None", id="no processor type"),
        pytest.param({"resample": 2}, "resample=2", id="bilinear"),
        pytest.param({"do_resize": False}, "do_resize=False", id="no resize"),
        pytest.param(
            {"do_normalize": False, "do_rescale": False}, "do_rescale=False, do_normalize=False", id="raw pixels"
        ),
        pytest.param({"rescale_factor": 1.0}, "rescale_factor=1.0", id="another scale"),
        pytest.param({"do_center_crop": True}, "do_center_crop=True", id="centre crop"),
        pytest.param({"size": {"longest_edge": 5}}, "KeyError: 'shortest_edge'", id="half a size"),
        pytest.param({"size": 7}, "TypeError", id="size of the wrong kind"),
        pytest.param({"patch_size": 0}, "patch_size=0", id="no patch"),
        pytest.param({"image_mean": [0.5]}, "mean=(0.5,)", id="one channel"),
        pytest.param({"image_std": [0.5, 0.5, 0.0]}, "std=(0.5, 0.5, 0.0)", id="no spread"),
        pytest.param({"size": {"longest_edge": 5, "shortest_edge": 9}}, "min_pixels > max_pixels", id="empty range"),
    ],
)
def test_settings_that_would_change_pixels_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        PixelSpec.from_checkpoint(checkpoint(tmp_path, qwen_image_processor(65536, 16777216) | changes))
    assert message in str(caught.value)


def test_tiles_that_are_not_square_are_refused(tmp_path: Path) -> None:
    settings = internvl_image_processor(448) | {"size": {"height": 448, "width": 224}}
    with pytest.raises(CheckpointError, match="square"):
        PixelSpec.from_checkpoint(checkpoint(tmp_path, settings))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no image-processor settings", id="missing"),
        pytest.param("{", "a JSON object", id="cut"),
        pytest.param("[1]", "found a list", id="a list"),
        pytest.param("\xff", "a JSON object", id="not text"),
        pytest.param(" " * (5 << 20), "at most", id="huge"),
    ],
)
def test_unreadable_settings_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError) as caught:
        PixelSpec.from_checkpoint(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize("spec", [QWEN, TILES], ids=["smart_resize", "tiles"])
def test_round_trip_and_hash(spec: PixelSpec) -> None:
    values = spec.to_dict()
    assert PixelSpec.from_dict(values) == spec
    assert PixelSpec.from_dict(values).hash == spec.hash
    for key, value in values.items():
        if isinstance(value, int) and value:
            assert PixelSpec.from_dict(values | {key: value + 1}).hash != spec.hash
    assert QWEN.hash != TILES.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"rule": "stretch"}, "'stretch'", id="unknown rule"),
        pytest.param({"extra": 1}, "keys extra", id="unknown key"),
        pytest.param({"merge_size": 0}, "merge_size=0", id="no merge size"),
    ],
)
def test_a_spec_from_a_bundle_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as caught:
        PixelSpec.from_dict(QWEN.to_dict() | change)
    assert message in str(caught.value)


def test_a_missing_key_is_named() -> None:
    values = QWEN.to_dict()
    del values["mean"]
    with pytest.raises(EgmError, match="keys mean"):
        PixelSpec.from_dict(values)


@pytest.mark.parametrize(
    ("spec", "budget", "most_pixels"),
    [
        (QWEN, 20_000, 20_000),
        (QWEN, 200_000, 200_000),
        (TILES, 448 * 448, 448 * 448),
        (TILES, 2 * 448 * 448, 448 * 448),
        (TILES, 5 * 448 * 448, 5 * 448 * 448),
    ],
)
def test_a_budget_is_kept(spec: PixelSpec, budget: int, most_pixels: int) -> None:
    small = spec.with_max_pixels(budget)
    for width, height in ((640, 480), (1920, 300), (300, 1920), (50, 50)):
        patches = preprocess(np.zeros((height, width, 3), np.uint8), small).patches
        assert patches.size // 3 <= most_pixels
    assert small.hash != spec.hash


@pytest.mark.parametrize(("spec", "budget"), [(QWEN, 32 * 32 - 1), (TILES, 448 * 448 - 1), (QWEN, 0)])
def test_a_budget_below_one_token_is_refused(spec: PixelSpec, budget: int) -> None:
    with pytest.raises(InputError, match="pixel budget"):
        spec.with_max_pixels(budget)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        pytest.param(np.zeros((4, 4), np.uint8), "a uint8 array of shape (4, 4)", id="grey"),
        pytest.param(np.zeros((4, 4, 3), np.float32), "a float32 array", id="float"),
        pytest.param(np.zeros((3, 40, 40), np.uint8), "shape (3, 40, 40)", id="channels first"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), "shape (0, 4, 3)", id="no rows"),
        pytest.param([[1]], "a list", id="a list"),
    ],
)
def test_preprocess_refuses(image: Any, found: str) -> None:
    with pytest.raises(InputError) as caught:
        preprocess(image, QWEN)
    assert found in str(caught.value)


def test_patches_are_in_merge_block_order_channel_major() -> None:
    rows, columns = np.mgrid[0:256, 0:320]
    image = np.stack([rows // 16, columns // 16, (rows + columns) % 16], axis=-1).astype(np.uint8)
    pixels = preprocess(image, QWEN)
    assert pixels.grid_hw == (16, 20)
    patches = pixels.patches.reshape(-1, 3, 16, 16)
    order = [(int(p[0, 0, 0]), int(p[1, 0, 0])) for p in patches[:6]]
    assert order == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3)]
    np.testing.assert_array_equal(patches[0, 2], (rows + columns)[:16, :16] % 16)


def test_patches_are_fresh_and_contiguous_for_any_strides() -> None:
    base = np.random.default_rng(0).integers(0, 256, (512, 640, 3), np.uint8)
    view = base[::2, ::-2, ::-1]
    pixels = preprocess(view, QWEN)
    assert pixels.patches.flags.c_contiguous
    assert not np.shares_memory(pixels.patches, base)
    np.testing.assert_array_equal(pixels.patches, preprocess(view.copy(), QWEN).patches)


def test_a_read_only_picture_will_do() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image.flags.writeable = False
    assert preprocess(image, QWEN).image_token_count == 64


def test_normalise_without_the_temporal_copy_is_the_first_half() -> None:
    pixels = preprocess(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8), QWEN)
    whole = normalise(pixels, QWEN).reshape(-1, 3, 2, 256)
    half = normalise(pixels, QWEN, duplicate_temporal=False).reshape(-1, 3, 256)
    np.testing.assert_array_equal(whole[:, :, 0], half)
    np.testing.assert_array_equal(whole[:, :, 1], half)


def test_the_module_needs_neither_torch_nor_a_template_engine() -> None:
    heavy = "{'torch', 'transformers', 'jinja2', 'onnxruntime'} & set(sys.modules)"
    modules = "egm_edge.pixels, egm_edge.families, egm_edge.families.chat_template, egm_edge.images, egm_edge.parsing"
    code = f"import sys, {modules}; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
