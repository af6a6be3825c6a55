"""Weight quantizers: error bounds, exactness on representable weights, packing."""

from __future__ import annotations

import numpy as np
import pytest

from build_engine.quantize import dequantize_blocks, pack_nibbles, quantize_blocks, quantize_channels, round_blocks


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.02, (48, 256)).astype(np.float32)


@pytest.mark.parametrize(("bits", "bound"), [pytest.param(4, 0.10, id="int4"), pytest.param(8, 0.006, id="int8")])
def test_relative_error_stays_under_the_format_s_bound(weight: np.ndarray, bits: int, bound: float) -> None:
    restored = dequantize_blocks(quantize_blocks(weight, bits, 64), bits, 256)
    assert np.linalg.norm(restored - weight) / np.linalg.norm(weight) < bound


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_on_the_grid_survive_unchanged(bits: int) -> None:
    zero = 1 << (bits - 1)
    grid = np.random.default_rng(1).integers(-zero, zero, (8, 64)).astype(np.float32)
    grid[:, ::32] = -zero  # each block touches the end that fixes its scale
    restored = dequantize_blocks(quantize_blocks(grid * np.float32(0.25), bits, 32), bits, 64)
    np.testing.assert_allclose(restored, grid * 0.25, rtol=1e-6)


def test_a_searched_int4_scale_beats_the_extreme_one(weight: np.ndarray) -> None:
    grouped = weight.reshape(48, 4, 64)
    extreme = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1) / -8
    plain = np.clip(np.rint(grouped / extreme), -8, 7) * extreme
    searched = dequantize_blocks(quantize_blocks(weight, 4, 64), 4, 256)
    assert ((searched - weight) ** 2).sum() < ((plain.reshape(weight.shape) - weight) ** 2).sum()


def test_int4_packs_the_even_input_into_the_low_nibble() -> None:
    block = np.zeros((1, 16), np.float32)
    block[0, :3] = (-8, 3, -2)
    packed = quantize_blocks(block, 4, 16).packed
    assert packed.shape == (1, 1, 8)
    assert (packed[0, 0, 0] & 0xF, packed[0, 0, 0] >> 4, packed[0, 0, 1] & 0xF) == (0, 11, 6)


@pytest.mark.parametrize("inputs", [pytest.param(33, id="one past a block"), pytest.param(31, id="short of a block")])
def test_inputs_that_do_not_fill_the_last_block_are_padded(inputs: int) -> None:
    weight = np.random.default_rng(2).normal(size=(4, inputs)).astype(np.float32)
    restored = dequantize_blocks(quantize_blocks(weight, 8, 32), 8, inputs)
    np.testing.assert_allclose(restored, weight, atol=0.02)


def test_an_all_zero_block_stays_zero() -> None:
    for bits in (4, 8):
        assert not dequantize_blocks(quantize_blocks(np.zeros((2, 32), np.float32), bits, 32), bits, 32).any()


def test_positive_scales_cost_little_and_clip_nothing_that_matters(weight: np.ndarray) -> None:
    def error(**options: bool) -> float:
        rounded = round_blocks(weight, 4, 64, **options)  # type: ignore[arg-type]
        assert options.get("signed_scales", True) or (rounded.scales > 0).all()
        return float(np.linalg.norm((rounded.values * rounded.scales[..., None]).reshape(weight.shape) - weight))

    assert error() < error(signed_scales=False) < 1.1 * error()


def test_weights_are_rounded_to_multiples_of_the_scale_that_is_stored() -> None:
    weight = np.random.default_rng(4).normal(0, 2e-6, (16, 64)).astype(np.float32)  # where float16 has few values left
    rounded = round_blocks(weight, 4, 64, signed_scales=False, scale_dtype=np.float16)
    assert np.array_equal(rounded.scales.astype(np.float16).astype(np.float32), rounded.scales)
    restored = (rounded.values * rounded.scales[..., None]).reshape(weight.shape)
    assert np.linalg.norm(restored - weight) < 0.12 * np.linalg.norm(weight)


@pytest.mark.parametrize("scale_dtype", [np.float32, np.float16])
def test_a_block_below_every_scale_becomes_zero(scale_dtype: type) -> None:
    rounded = round_blocks(np.zeros((2, 64), np.float32), 4, 64, signed_scales=False, scale_dtype=scale_dtype)
    assert (rounded.scales > 0).all() and not rounded.values.any()


def test_negative_values_are_packed_as_two_s_complement() -> None:
    assert pack_nibbles(np.array([-8, 7, -1, 3], np.int8)).tolist() == [0x78, 0x3F]


def test_channel_weights_are_signed_and_use_the_whole_range(weight: np.ndarray) -> None:
    values, scales = quantize_channels(weight)
    assert values.dtype == np.int8
    assert (np.abs(values).max(1) == 127).all()
    np.testing.assert_allclose(values * scales[:, None], weight, atol=float(scales.max()) * 0.51)


def test_other_bit_widths_are_refused(weight: np.ndarray) -> None:
    with pytest.raises(ValueError, match="4 or 8"):
        quantize_blocks(weight, 3, 64)
