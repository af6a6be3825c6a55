"""Image tokens and position ids against transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from egm_edge.errors import CheckpointError, InputError
from egm_edge.families import FAMILIES, family_for
from egm_edge.pixels import Pixels, PixelSpec, preprocess

IMAGE_TOKEN = 7
SIZES = [(64, 64), (640, 480), (480, 640), (300, 31), (20, 500), (1, 90)]


def pixels_of(grid_hw: tuple[int, int], tokens: int) -> Pixels:
    return Pixels(np.zeros((0, 0), np.uint8), grid_hw, (1, 1), tokens)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_qwen_positions_equal_get_rope_index(tiny_qwen3_vl: Path, width: int, height: int) -> None:
    torch = pytest.importorskip("torch")
    from tests.support.hf_reference import hf_model

    family = family_for("qwen3_vl")
    pixels = preprocess(np.zeros((height, width, 3), np.uint8), PixelSpec.from_checkpoint(tiny_qwen3_vl))
    prefix = [1, 2, 3, IMAGE_TOKEN, 4, 5]
    ids = family.prefix_token_ids(prefix, IMAGE_TOKEN, pixels)
    tail = [9, 9, 9]
    kinds = torch.tensor([[int(i == IMAGE_TOKEN) for i in ids + tail]])
    grid = torch.tensor([[1, *pixels.grid_hw]])
    theirs, _ = hf_model(tiny_qwen3_vl).model.get_rope_index(torch.tensor([ids + tail]), kinds, image_grid_thw=grid)
    ours = family.positions(prefix, IMAGE_TOKEN, pixels)
    follow = ours.max() + 1 + np.arange(len(tail))
    np.testing.assert_array_equal(np.concatenate([ours, np.tile(follow, (3, 1))], axis=1), theirs[:, 0].numpy())


def test_qwen_positions_of_a_small_grid_written_out() -> None:
    positions = family_for("qwen3_vl").positions([1, IMAGE_TOKEN, 4], IMAGE_TOKEN, pixels_of((4, 6), 6))
    assert positions.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]]


def test_internvl_positions_count_up_on_every_axis() -> None:
    positions = family_for("internvl3").positions([1, IMAGE_TOKEN, 4], IMAGE_TOKEN, pixels_of((1, 2), 4))
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]] * 3


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_image_token_is_repeated_once_and_only_once(family) -> None:
    pixels = pixels_of((2, 4), 2)
    expanded = family.prefix_token_ids([1, IMAGE_TOKEN, 4], IMAGE_TOKEN, pixels)
    assert expanded == [1, IMAGE_TOKEN, IMAGE_TOKEN, 4]
    assert family.prefix_token_ids(expanded, IMAGE_TOKEN, pixels) == expanded
    plain, again = (family.positions(ids, IMAGE_TOKEN, pixels) for ids in ([1, IMAGE_TOKEN, 4], expanded))
    np.testing.assert_array_equal(plain, again)
    assert plain.dtype == np.int64


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([1, 2], id="no image token"),
        pytest.param([IMAGE_TOKEN] * 3, id="neither one nor all"),
        pytest.param([IMAGE_TOKEN, 1, IMAGE_TOKEN], id="in two places"),
    ],
)
def test_a_prefix_of_another_image_is_refused(family, ids: list[int]) -> None:
    with pytest.raises(InputError, match="image token 7"):
        family.prefix_token_ids(ids, IMAGE_TOKEN, pixels_of((2, 4), 2))


@pytest.mark.parametrize(
    ("name", "family"), [("qwen3_vl", "qwen3_vl"), ("internvl", "internvl3"), ("internvl3", "internvl3")]
)
def test_families_by_model_type_and_by_name(name: str, family: str) -> None:
    assert family_for(name).name == family


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl_chat", "", "QWEN3_VL"])
def test_an_unknown_family_lists_the_known_ones(name: str) -> None:
    with pytest.raises(CheckpointError, match="internvl, internvl3, qwen3_vl"):
        family_for(name)
