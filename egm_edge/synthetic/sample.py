"""sample_scene: a seed becomes a Scene, the same on every machine. Knows nothing of pixels.

Only `random.Random.random()` is drawn from: its stream is the one that Python guarantees across versions and platforms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from egm_edge.synthetic.scene import Scene, SceneObject, Surroundings
from egm_edge.synthetic.vocabulary import COLOURS, EXTENT_WH, SHAPES, SIZES

T = TypeVar("T")

_MARGIN = 0.012
_GAP = 0.012


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """A uniform choice that only uses `rng.random()`."""
    return items[int(rng.random() * len(items))]


def between(rng: random.Random, low: float, high: float) -> float:
    """Uniform in [low, high)."""
    return low + (high - low) * rng.random()


def sample_scene(
    seed: int, n_objects: tuple[int, int] = (1, 3), *, aspect: float = 4 / 3, occlusion: float = 0.35
) -> Scene:
    """Draw a scene.

    Args:
        seed: any int; equal seeds (and arguments) give equal scenes.
        n_objects: fewest and most objects, inclusive.
        aspect: width / height of the images it is meant for; decides what "inside the frame" and "apart" mean.
        occlusion: probability that one object is put deliberately in front of another.

    Returns:
        A scene whose objects lie wholly inside the frame. Fewer objects than asked when they do not fit.
    """
    rng = random.Random(seed)
    low, high = n_objects
    count = low + int(rng.random() * (high - low + 1))
    shapes = [pick(rng, SHAPES) for _ in range(1 + int(3 * rng.random()))] if rng.random() < 0.6 else list(SHAPES)
    colours = (
        [pick(rng, tuple(COLOURS)) for _ in range(2 + int(2 * rng.random()))] if rng.random() < 0.4 else list(COLOURS)
    )
    wants_hidden = count >= 2 and rng.random() < occlusion
    objects: list[SceneObject] = []
    for index in range(count):
        hide = objects[-1] if wants_hidden and index == count - 1 else None
        placed = _place(rng, objects, pick(rng, shapes), pick(rng, colours), aspect, count, hide)
        if placed is not None:
            objects.append(placed)
    return Scene(objects=tuple(objects), surroundings=_sample_surroundings(rng), seed=seed)


def _place(
    rng: random.Random,
    others: list[SceneObject],
    shape: str,
    colour: str,
    aspect: float,
    count: int,
    hide: SceneObject | None,
) -> SceneObject | None:
    """Find room for one more object; `hide` asks for a place in front of that object."""
    weights = (0.30, 0.70) if count <= 4 else (0.35, 0.80)
    for attempt in range(40):
        roll = rng.random()
        size = "small" if roll < weights[0] else "medium" if roll < weights[1] else "large"
        scale = between(rng, *SIZES[size])
        width, height = EXTENT_WH[shape]
        half_w = 0.5 * width * scale / math.sqrt(aspect)
        half_h = 0.5 * height * scale * math.sqrt(aspect)
        x = between(rng, half_w + _MARGIN, 1 - half_w - _MARGIN)
        y = between(rng, half_h + 0.04, 1 - half_h - _MARGIN)
        if hide is not None and attempt < 25:
            x1, y1, x2, y2 = hide.outline(aspect)
            x = hide.x + between(rng, -0.6, 0.6) * (x2 - x1)
            y = y2 + between(rng, 0.02, 0.5) * (y2 - y1) - half_h
        spread = 5 if colour in ("black", "white") else 16
        tint = (
            int(between(rng, -spread, spread)),
            int(between(rng, -spread, spread)),
            int(between(rng, -spread, spread)),
        )
        candidate = SceneObject(shape, colour, size, x, y, scale, rng.random() < 0.5, tint)
        if _fits(candidate, others, aspect, hide if attempt < 25 else None):
            return candidate
    return None


def _fits(candidate: SceneObject, others: list[SceneObject], aspect: float, hide: SceneObject | None) -> bool:
    x1, y1, x2, y2 = candidate.outline(aspect)
    if x1 < _MARGIN or y1 < _MARGIN or x2 > 1 - _MARGIN or y2 > 1 - _MARGIN:
        return False
    for other in others:
        u1, v1, u2, v2 = other.outline(aspect)
        if other is hide:
            overlap = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            if not 0.20 <= overlap / ((u2 - u1) * (v2 - v1)) <= 0.60 or (other.colour, other.shape) == (
                candidate.colour,
                candidate.shape,
            ):
                return False
        elif x1 < u2 + _GAP and u1 < x2 + _GAP and y1 < v2 + _GAP and v1 < y2 + _GAP:
            return False
    return True


def _sample_surroundings(rng: random.Random) -> Surroundings:
    grey = between(rng, 110, 190)
    warm = between(rng, -6, 14)
    wall = between(rng, 70, 200)
    exposure = between(rng, 0.86, 1.10)
    return Surroundings(
        table_rgb=(int(grey + warm), int(grey + 0.3 * warm), int(grey - warm)),
        wall_rgb=(int(wall), int(wall), int(wall + between(rng, -6, 6))),
        horizon=between(rng, 0.04, 0.18) if rng.random() < 0.5 else 0.0,
        light=(between(rng, -28, 28), between(rng, -28, 28)),
        texture=between(rng, 0, 7),
        grain=int(between(rng, 4, 9)) if rng.random() < 0.3 else 0,
        gain=tuple(exposure * between(rng, 0.97, 1.03) for _ in range(3)),  # type: ignore[arg-type]
        noise=between(rng, 0, 5),
        blur_px=between(rng, 0.3, 0.8) if rng.random() < 0.5 else 0.0,
        shadow=between(rng, 0.15, 0.5),
        seed=int(rng.random() * 2**31),
    )
