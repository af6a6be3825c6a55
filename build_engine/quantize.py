"""Weight quantizers, the one owner of rounding: pure NumPy, row chunks in, rounded or packed rows out.

Notation: N output features (rows of a Hugging Face linear weight), K input features, B = ceil(K / block_size).
Knows nothing of graphs or checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# Candidate shrink factors of a block's scale: clipping the extreme a little lowers the squared error of the rest.
INT4_SCALE_SHRINKS = (1.0, 0.92, 0.85)
FP8_LARGEST = 448.0  # of E4M3


@dataclass(frozen=True, slots=True)
class BlockRounded:
    """Weights rounded in blocks, W = values * scales.

    Attributes:
        values: int8 [N, B, block_size], in [-8, 7] for 4 bits.
        scales: float32 [N, B].
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockQuantized:
    """Weights for `MatMulNBits`, symmetric (zero point in the middle of the unsigned range).

    Attributes:
        packed: uint8 [N, B, block_size * bits / 8]; two int4 values a byte, low nibble first.
        scales: float32 [N, B].
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]


def round_blocks(
    weight: NDArray[np.float32],
    bits: int,
    block_size: int,
    *,
    signed_scales: bool = True,
    scale_dtype: Any = np.float32,
) -> BlockRounded:
    """Round weights to `bits` (4 or 8) with one scale per `block_size` inputs.

    Args:
        weight: [N, K] float32; the last block is filled up with zeros.
        bits: 4 or 8.
        block_size: power of two, 16 or more.
        signed_scales: let a scale be negative, so that a block's extreme lands on the longer end of the range whatever its
            sign. NVIDIA's tools write positive scales only, so that TensorRT's kernels are given no others.
        scale_dtype: how the scales will be stored; weights are rounded to multiples of what is stored.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, got {bits}")
    rows, inputs = weight.shape
    blocks = -(-inputs // block_size)
    if inputs % block_size:
        weight = np.pad(weight, ((0, 0), (0, blocks * block_size - inputs)))
    grouped = weight.reshape(rows, blocks, block_size)
    zero = 1 << (bits - 1)
    full = _extreme(grouped) / np.float32(-zero) if signed_scales else _positive_scales(grouped, zero)
    scales = _searched_scales(grouped, zero, full, scale_dtype) if bits == 4 else _stored(full, scale_dtype)
    return BlockRounded(_round_to(grouped, scales, zero).astype(np.int8), scales)


def quantize_blocks(weight: NDArray[np.float32], bits: int, block_size: int) -> BlockQuantized:
    """Rounded weights as the CPU kernels take them; arguments as for `round_blocks`."""
    rounded = round_blocks(weight, bits, block_size)
    unsigned = (rounded.values.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return BlockQuantized(pack_nibbles(unsigned) if bits == 4 else unsigned, rounded.scales)


def pack_nibbles(values: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Two 4-bit values a byte along the last axis, low nibble first; negative ones as two's complement.

    Args:
        values: [..., even], signed or unsigned 4-bit range.
    """
    nibbles = values.astype(np.uint8) & np.uint8(0xF)
    return np.bitwise_or(nibbles[..., 0::2], nibbles[..., 1::2] << 4, dtype=np.uint8)


def dequantize_blocks(quantized: BlockQuantized, bits: int, inputs: int) -> NDArray[np.float32]:
    """The weights [N, K] that the kernel effectively uses."""
    packed = quantized.packed
    values = np.stack((packed & 0xF, packed >> 4), -1).reshape(*packed.shape[:2], -1) if bits == 4 else packed
    zero = 1 << (bits - 1)
    weight = (values.astype(np.float32) - zero) * quantized.scales[..., None]
    return weight.reshape(len(weight), -1)[:, :inputs]


def quantize_channels(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Signed 8-bit weights with one scale per output feature, for W8A8 matrix products.

    Returns:
        int8 [N, K] in [-127, 127] and float32 scales [N].
    """
    scales = np.maximum(np.abs(weight).max(1), 1e-12).astype(np.float32) / np.float32(127.0)
    return np.rint(weight / scales[:, None]).astype(np.int8), scales


def fp8_scale(largest: float, dtype: Any) -> np.float32:
    """The scale, as `dtype` stores it, that puts values of magnitude `largest` at the end of E4M3's range."""
    scale = np.float32(max(largest, 1e-12) / FP8_LARGEST)
    return np.float32(_stored(np.asarray([scale]), dtype)[0])


def round_fp8(weight: NDArray[np.float32], scale_dtype: Any) -> tuple[NDArray[Any], np.float32]:
    """Weights in E4M3 with one scale for all of them.

    Returns:
        float8_e4m3fn of the weight's shape, and the scale.
    """
    scale = fp8_scale(float(np.abs(weight).max()), scale_dtype)
    return np.clip(weight / scale, -FP8_LARGEST, FP8_LARGEST).astype(ml_dtypes.float8_e4m3fn), scale


def _extreme(grouped: NDArray[np.float32]) -> NDArray[np.float32]:
    """Per block the value of largest magnitude with its sign, so that it lands exactly on the end -zero of the range."""
    high, low = grouped.max(-1), grouped.min(-1)
    extreme = np.where(high > -low, high, low)
    return np.where(extreme == 0.0, np.float32(-1e-12), extreme)


def _positive_scales(grouped: NDArray[np.float32], zero: int) -> NDArray[np.float32]:
    """Per block the smallest positive scale that clips nothing."""
    return np.maximum(np.maximum(grouped.max(-1) / (zero - 1), grouped.min(-1) / -zero), 1e-12).astype(np.float32)


def _stored(scales: NDArray[np.float32], dtype: Any) -> NDArray[np.float32]:
    """Scales as `dtype` holds them; never zero, which would leave nothing to divide by."""
    if dtype == np.float32:
        return scales
    narrow: NDArray[np.float32] = scales.astype(dtype).astype(np.float32)
    return np.where(narrow == 0.0, np.float32(np.finfo(dtype).smallest_subnormal), narrow)


def _round_to(grouped: NDArray[np.float32], scales: NDArray[np.float32], zero: int) -> NDArray[np.float32]:
    quantized = grouped / scales[..., None]
    np.rint(quantized, out=quantized)
    return np.clip(quantized, -zero, zero - 1, out=quantized)


def _searched_scales(
    grouped: NDArray[np.float32], zero: int, full: NDArray[np.float32], dtype: Any
) -> NDArray[np.float32]:
    """Per block the candidate scale of least squared error."""
    best_scales, best_errors = full, None
    for shrink in INT4_SCALE_SHRINKS:
        scales = _stored(full * np.float32(shrink), dtype)
        errors = _round_to(grouped, scales, zero)
        errors *= scales[..., None]
        errors -= grouped
        squared = np.einsum("nbk,nbk->nb", errors, errors)
        if best_errors is None:
            best_scales, best_errors = scales, squared
        else:
            better = squared < best_errors
            best_scales = np.where(better, scales, best_scales)
            best_errors = np.where(better, squared, best_errors)
    return best_scales
