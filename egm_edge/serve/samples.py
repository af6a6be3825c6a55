"""Pictures to try the page with: drawn tabletop scenes and something to find in each, made when first asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from egm_edge.encoding import jpeg

SEEDS = (990_000_003, 990_000_004, 990_000_007, 990_000_011)  # outside every training and evaluation range
WIDTH_PX, HEIGHT_PX = 640, 480
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class SamplePicture:
    """A JPEG, and an expression that refers to something in it."""

    jpeg: bytes
    expression: str


@cache
def samples() -> tuple[SamplePicture, ...]:
    """The same pictures on every machine."""
    return tuple(_sample(seed) for seed in SEEDS)


def _sample(seed: int) -> SamplePicture:
    from egm_edge.synthetic import queries, render, sample_scene

    scene = sample_scene(seed, (3, 5))
    picture = render(scene, WIDTH_PX, HEIGHT_PX)
    asked = queries(scene, random.Random(seed), where=picture.layout, count=6, amodal=0.0)
    found = next((query for query in asked if query.box_norm1000 is not None), asked[0])
    return SamplePicture(jpeg(picture.image, JPEG_QUALITY), found.expression.strip().lower())
