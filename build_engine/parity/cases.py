"""Cases: pictures with expressions that both sides of a comparison are asked. Knows nothing of models.

Pictures travel as PNG bytes, so that each side decodes them with its own code.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egm_edge.boxes import Box
from egm_edge.encoding import png
from egm_edge.grounding import Task
from egm_edge.images import EXIF_ORIENTATION
from egm_edge.pixels import TILES, PixelSpec
from egm_edge.synthetic import layout, render, sample_query, sample_scene

SCENE_SEED = 980_000_000  # beyond the ranges that EGM-Nano trains and is evaluated on
SCENE_WH = (640, 480)
GOLDEN_CASES, GOLDEN_SEED, GOLDEN_WH = 6, 981_000_000, (288, 216)
# Kind of question, objects in the scene, task: the suites of EGM-Nano's model card in turn.
SCENE_SUITES = (
    ("attribute", (1, 3), Task.MODAL),
    ("superlative", (3, 6), Task.MODAL),
    ("ordinal", (3, 6), Task.MODAL),
    ("relation", (3, 6), Task.MODAL),
    ("attribute", (3, 6), Task.AMODAL),
)
MAX_SIZE_PROBE_PIXELS = 2_500_000
LARGE_WH = (1952, 1096)  # pictures of 2 ** 21 pixels and more are decoded in place


@dataclass(frozen=True, slots=True)
class Case:
    """One request.

    Attributes:
        picture: PNG or JPEG bytes.
        truth: xyxy, pixels of the picture; None when it is not known.
    """

    picture: bytes
    expression: str
    task: Task
    truth: Box | None = None


@lru_cache(maxsize=1)
def probes() -> tuple[Case, ...]:
    """Five requests on four drawn pictures of different aspect and odd sizes, one as wide as another is high, and a picture that
    was displaced asked again. They exercise every graph with realistic input and say nothing about how well the model grounds."""
    sizes = ((480, 640), (777, 333), (320, 320), (333, 777))
    wide, tall, square, odd = (png(_table(*size, seed=i)) for i, size in enumerate(sizes))
    return (
        Case(wide, "the red mug", Task.MODAL),
        Case(tall, "the blue ball", Task.AMODAL),
        Case(wide, "the leftmost green box", Task.AMODAL),
        Case(square, "the yellow block behind the red mug", Task.MODAL),
        Case(odd, "The second cup,  from the right.", Task.MODAL)  # as typed: nothing may tidy it,
    )


@lru_cache(maxsize=4)
def largest_probe(spec: PixelSpec, most_pixels: int) -> Case:
    """A request on a picture near the largest that the spec lets through, `most_pixels` at most."""
    if spec.rule == TILES:
        rows = max(1, int((min(spec.max_tiles, max(1, most_pixels // spec.tile_size**2)) * 3 / 4) ** 0.5))
        columns = min(spec.max_tiles, max(1, most_pixels // spec.tile_size**2)) // rows
        height, width = rows * spec.tile_size + 3, columns * spec.tile_size + 5
    else:
        area = min(spec.max_pixels, most_pixels) * 0.97
        height = max(spec.patch_size * spec.merge_size, int((area * 9 / 16) ** 0.5))
        width = int(height * 16 / 9)
    return Case(png(_table(height, width, seed=9)), "the smallest green box", Task.MODAL)


@lru_cache(maxsize=1)
def displacing_picture() -> bytes:
    """A small picture that no case shows."""
    return png(_noise(70, 90, seed=77))


@lru_cache(maxsize=1)
def golden_cases() -> tuple[Case, ...]:
    """The requests whose answers a bundle carries: six scenes, both tasks, small enough to travel."""
    return tuple(scenes(GOLDEN_CASES, first_seed=GOLDEN_SEED, image_wh=GOLDEN_WH))


def scenes(count: int, *, first_seed: int = SCENE_SEED, image_wh: tuple[int, int] = SCENE_WH) -> Iterator[Case]:
    """`count` drawn tabletop scenes with their true boxes: the world that EGM-Nano knows."""
    made, seed = 0, first_seed
    while made < count:
        seed += 1
        kind, objects, task = SCENE_SUITES[made % len(SCENE_SUITES)]
        occlusion = 1.0 if task is Task.AMODAL else 0.35
        scene = sample_scene(seed, objects, occlusion=occlusion)
        where = layout(scene, *image_wh)
        query = sample_query(scene, where, random.Random(seed), kind=kind, task=task)
        if query is None or query.box_norm1000 is None:
            continue
        made += 1
        truth = Box.from_norm1000(query.box_norm1000, *image_wh)
        yield Case(png(render(scene, *image_wh).image), query.expression, task, truth)


def rows(path: Path, pictures: Path | None, limit: int | None) -> list[Case]:
    """Rows of a grounding jsonl (the forms that `egm evaluate` reads), pictures beside it or under `pictures`.

    Raises:
        InputError: unusable rows, or a picture that cannot be read.
    """
    from egm_edge.data.pictures import encoded, find_picture
    from egm_edge.data.readers import load_rows

    found = []
    for row in load_rows([path])[:limit]:
        picture, _, _ = encoded(find_picture(row.image, [pictures or path.parent]), mirrored=row.mirrored)
        found.append(Case(picture, row.expression, row.task, row.box))
    return found


@lru_cache(maxsize=4)
def size_probes(spec: PixelSpec) -> tuple[bytes, ...]:
    """Pictures on both sides of every limit of a pixel spec: tiny, long, square, at a budget, beyond it; and a camera's."""
    unit = spec.tile_size if spec.rule == TILES else spec.patch_size * spec.merge_size
    sizes = [(unit // 2 + 1, unit // 3 + 2), (5 * unit + 3, unit + 1), (unit + 5, 4 * unit - 3), (101, 67), (640, 480)]
    sizes += [(3 * unit, 2 * unit), (777, 333), LARGE_WH, *_half_way(spec)]
    for area in (spec.min_pixels, spec.max_pixels):
        for share in (0.9, 1.3):
            width = int((area * share * 4 / 3) ** 0.5)
            sizes.append((width, int(width * 3 / 4)))
    kept = [(w, h) for w, h in sizes if w >= 8 and h >= 8 and w * h <= MAX_SIZE_PROBE_PIXELS]
    return tuple(png(_noise(*size, seed=i)) for i, size in enumerate(dict.fromkeys(kept)))


@lru_cache(maxsize=1)
def odd_probes() -> tuple[bytes, ...]:
    """Pictures that have to be flattened first: turned by EXIF, grey, and with a colour under their transparency; and JPEGs, a
    small one and a large one that is turned."""
    noise = _noise(150, 90, seed=78)
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6
    alpha = np.dstack([noise, np.linspace(0, 255, noise[..., 0].size).reshape(noise.shape[:2])]).astype(np.uint8)
    photo = _encoded(_noise(*LARGE_WH, seed=79), "JPEG", exif=turned)
    return _encoded(noise, exif=turned), _encoded(noise[..., 0]), _encoded(alpha), _encoded(noise, "JPEG"), photo


def _encoded(image: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def _half_way(spec: PixelSpec) -> list[tuple[int, int]]:
    """A small and a large size whose height lies half-way between two, where rounding to even and rounding up part."""
    if spec.rule == TILES:
        return []
    unit = spec.patch_size * spec.merge_size
    pairs = [(columns, rows) for rows in range(2, 64, 2) for columns in range(2, 64)]
    fits = [pair for pair in pairs if spec.min_pixels <= pair[0] * pair[1] * unit**2 <= spec.max_pixels]
    return [(columns * unit, rows * unit + unit // 2) for columns, rows in (*fits[:1], *fits[-1:])]


def _noise(width: int, height: int, *, seed: int) -> NDArray[np.uint8]:
    """Soft colours with hard edges, different in every channel and corner."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    soft[height // 2 :, : width // 3] = rng.integers(0, 256, 3, np.uint8)
    return np.asarray(soft, np.uint8)


def _table(height: int, width: int, *, seed: int) -> NDArray[np.uint8]:
    """A grey table with four coloured shapes and a little noise."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(120, 190, height)[:, None, None]
    image = np.clip(shade + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)
    colours = ((200, 40, 40), (40, 160, 60), (50, 80, 200), (220, 190, 40))
    for i, colour in enumerate(colours):
        centre = (int(width * (0.15 + 0.22 * i)), int(height * rng.uniform(0.35, 0.75)))
        radius = int(min(height, width) * rng.uniform(0.07, 0.13))
        if i % 2:
            cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA)
        else:
            corner = (centre[0] + radius, centre[1] + radius)
            cv2.rectangle(image, (centre[0] - radius, centre[1] - radius), corner, colour, -1)
    return image
