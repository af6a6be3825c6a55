"""Table textures drawn from noise: wood, cloth, tiles, stone, planks, speckle. Knows nothing of scenes or cameras.

A texture is periodic in both directions, so a table of any size can be laid with it.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 384
COUNT = 36
HELD_OUT = 8
"""The last ones are for testing; training lays tables with the first `COUNT - HELD_OUT`."""
_TONES: tuple[tuple[int, int, int], ...] = (
    (168, 128, 88), (120, 82, 54), (205, 180, 145), (92, 66, 48), (190, 188, 182), (140, 142, 146), (96, 104, 112),
    (214, 210, 200), (110, 120, 100), (150, 120, 116), (72, 70, 72), (100, 112, 138),
)  # fmt: skip


def _noise(rng: np.random.Generator, cells_w: int, cells_h: int) -> NDArray[np.float32]:
    """[SIDE, SIDE] smooth periodic noise, about -1..1, `cells` bumps across."""
    coarse = rng.standard_normal((cells_h, cells_w)).astype(np.float32)
    wrapped = cv2.copyMakeBorder(coarse, 2, 2, 2, 2, cv2.BORDER_WRAP)
    scale_w, scale_h = SIDE / cells_w, SIDE / cells_h
    large = cv2.resize(wrapped, None, fx=scale_w, fy=scale_h, interpolation=cv2.INTER_CUBIC)
    top, left = round(2 * scale_h), round(2 * scale_w)
    return large[top : top + SIDE, left : left + SIDE].astype(np.float32, copy=False)


def _wood(rng: np.random.Generator) -> NDArray[np.float32]:
    rings = 3 * _noise(rng, 6, 3) + np.linspace(0, 2 * math.pi * rng.integers(3, 7), SIDE, dtype=np.float32)[None]
    return 0.5 * np.sin(rings) + 0.5 * _noise(rng, 96, 4)


def _cloth(rng: np.random.Generator) -> NDArray[np.float32]:
    at = np.arange(SIDE, dtype=np.float32) * 2 * math.pi * rng.integers(24, 60) / SIDE
    return 0.5 * (np.sin(at)[None] + np.sin(at)[:, None]) + 0.4 * _noise(rng, 64, 64)


def _tiles(rng: np.random.Generator) -> NDArray[np.float32]:
    count = int(rng.choice((4, 6, 8)))
    cell = SIDE // count
    tone = np.kron(rng.standard_normal((count, count)).astype(np.float32) * 0.5, np.ones((cell, cell), np.float32))
    grid = np.arange(SIDE) % cell < 4
    tone[grid] = tone[:, grid] = -1.6
    return tone + 0.2 * _noise(rng, 48, 48)


def _stone(rng: np.random.Generator) -> NDArray[np.float32]:
    total = np.sum([_noise(rng, n, n) / np.float32(1 + i) for i, n in enumerate((4, 12, 32, 96))], 0)
    return (np.abs(total) * 1.4 - 0.8 if rng.random() < 0.5 else total * 0.7).astype(np.float32)


def _planks(rng: np.random.Generator) -> NDArray[np.float32]:
    count = int(rng.choice((4, 6, 8)))
    tone = np.repeat(rng.standard_normal(count).astype(np.float32) * 0.6, SIDE // count)[:, None]
    seams = (np.arange(SIDE) % (SIDE // count) < 3)[:, None]
    return np.where(seams, -1.8, tone + 0.5 * _noise(rng, 5, 128)).astype(np.float32)


def _speckle(rng: np.random.Generator) -> NDArray[np.float32]:
    return _noise(rng, 128, 128) * 0.6 + _noise(rng, 8, 8) * 0.4


_KINDS = (_wood, _cloth, _tiles, _stone, _planks, _speckle)


@functools.lru_cache(maxsize=COUNT)
def texture(index: int) -> NDArray[np.uint8]:
    """[SIDE, SIDE, 3] uint8 RGB, the `index`-th of COUNT textures; the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(1000 + index))
    relief = _KINDS[index % len(_KINDS)](rng)[..., None]
    tone = np.array(_TONES[(index * 5 + index // 12) % len(_TONES)], np.float32)
    paint = tone * (1 + rng.uniform(0.05, 0.22) * relief) + rng.uniform(-5, 5, 3).astype(np.float32) * relief
    return np.clip(paint, 0, 255).astype(np.uint8)
