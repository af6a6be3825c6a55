"""Rotary tables and the resampled position grid, computed on the host once per image grid.

Notation: C places in the sequence, d head size, N patches in merge-block order, D vision hidden size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.onnx_runtime.config import EngineConfig

Table = tuple[NDArray[np.float32], NDArray[np.float32]]


def inverse_frequencies(count: int, theta: float, width: int) -> NDArray[np.float32]:
    """theta ** (-2i / width) for i < count, in float32 as transformers computes it."""
    return (1.0 / (np.float32(theta) ** (np.arange(count, dtype=np.float32) * 2 / np.float32(width)))).astype(
        np.float32
    )


def text_table(config: EngineConfig, positions: NDArray[np.int64]) -> Table:
    """Cos and sin of the decoder, [C, d/2] each.

    Args:
        positions: [3, C] time, height, width.
    """
    half = config.head_dim // 2
    axes = rotary_axes(half, config.mrope_section)
    angles = positions[axes].T.astype(np.float32) * inverse_frequencies(half, config.rope_theta, config.head_dim)
    return np.cos(angles), np.sin(angles)


def rotary_axes(count: int, mrope_section: tuple[int, int, int] | None) -> NDArray[np.int64]:
    """Which of the axes time, height and width (0, 1, 2) each of the decoder's `count` frequencies follows.

    With M-RoPE, frequency i follows height where i % 3 == 1 and width where i % 3 == 2 (up to three times the section's
    length), time elsewhere: the interleaved layout of transformers' `Qwen3VLTextRotaryEmbedding`.
    """
    axes = np.zeros(count, np.int64)
    for i in (1, 2) if mrope_section else ():
        axes[i : mrope_section[i] * 3 : 3] = i  # type: ignore[index]
    return axes


def merge_block_order(grid_hw: tuple[int, int], merge: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each patch, [N] each: merge x merge blocks one after another, row by row inside a block."""
    rows, columns = np.indices(grid_hw)
    blocks = (grid_hw[0] // merge, merge, grid_hw[1] // merge, merge)
    return rows.reshape(blocks).transpose(0, 2, 1, 3).reshape(-1), columns.reshape(blocks).transpose(
        0, 2, 1, 3
    ).reshape(-1)


def vision_table(grid_hw: tuple[int, int], merge: int, head_dim: int, theta: float) -> Table:
    """Cos and sin of `vision_angles`, [N, d/2] each."""
    angles = vision_angles(grid_hw, merge, head_dim, theta)
    return np.cos(angles), np.sin(angles)


def vision_angles(grid_hw: tuple[int, int], merge: int, head_dim: int, theta: float) -> NDArray[np.float32]:
    """Rotary angles of the vision tower, [N, d/2]: first half of the frequencies by row, second half by column."""
    rows, columns = merge_block_order(grid_hw, merge)
    frequencies = inverse_frequencies(head_dim // 4, theta, head_dim // 2)
    return np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], 1).astype(np.float32)


def resampled_positions(table: NDArray[np.float32], grid_hw: tuple[int, int], merge: int) -> NDArray[np.float32]:
    """The learned square position grid at an image's own grid, bilinear with aligned corners (transformers 5).

    Args:
        table: [side * side, D].

    Returns:
        [N, D] in merge-block order.
    """
    side = round(len(table) ** 0.5)
    row_low, row_high, row_share = grid_taps(grid_hw[0], side)
    column_low, column_high, column_share = grid_taps(grid_hw[1], side)
    rows, columns = merge_block_order(grid_hw, merge)
    down, right = row_share[rows][:, None], column_share[columns][:, None]
    top, bottom = row_low[rows] * side, row_high[rows] * side
    left_column, right_column = column_low[columns], column_high[columns]
    upper = table[top + left_column] * (1 - right) + table[top + right_column] * right
    lower = table[bottom + left_column] * (1 - right) + table[bottom + right_column] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)


def grid_taps(count: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each of `count` places: the grid line at or before it, the next one, and the share of the next."""
    places = np.linspace(0, side - 1, count, dtype=np.float32)
    low = places.astype(np.int64)
    return low, np.minimum(low + 1, side - 1), places - low
