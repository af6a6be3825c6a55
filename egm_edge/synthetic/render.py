"""render: a Scene becomes pixels, with the exact modal and amodal box of every object. Knows nothing of questions.

Paint and masks are drawn from the same polygons; boxes are the bounds of the masks, so they are exact to the pixel.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.synthetic.scene import Scene, SceneObject, Surroundings
from egm_edge.synthetic.shapes import PARTS, Part
from egm_edge.synthetic.vocabulary import COLOURS

_SHIFT = 4
_BANK_SIDE = 512


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every object of a scene is, in the order of `scene.objects`.

    Attributes:
        wh: width and height of the frame, pixels.
        modal: bounds of the visible pixels, or None when nothing is visible.
        amodal: bounds of all its pixels, hidden ones included.
        visible: visible pixels / all pixels, 0-1.
        owner: [H, W] uint8, 1 + index of the object seen there, 0 for none.
    """

    wh: tuple[int, int]
    modal: tuple[Box | None, ...]
    amodal: tuple[Box, ...]
    visible: tuple[float, ...]
    owner: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture of a scene.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        layout: boxes and visibility in its pixels.
    """

    image: NDArray[np.uint8]
    layout: Layout


def layout(scene: Scene, width_px: int, height_px: int) -> Layout:
    """Boxes of every object without drawing the picture (about a tenth of the cost of `render`)."""
    owner = np.zeros((height_px, width_px), np.uint8)
    scratch = np.zeros((height_px, width_px), np.uint8)
    amodal: list[Box] = [Box(0, 0, 0, 0)] * len(scene.objects)
    pixels = [0] * len(scene.objects)
    for index in _far_to_near(scene):
        polygons = _polygons(scene.objects[index], width_px, height_px)
        _fill(scratch, polygons, PARTS[scene.objects[index].shape])
        x1, y1, x2, y2 = _frame(polygons, width_px, height_px)
        mask = scratch[y1:y2, x1:x2]
        bounds = _bounds(mask)
        amodal[index] = _shifted(bounds, x1, y1) if bounds else Box(x1, y1, x1, y1)
        pixels[index] = int(cv2.countNonZero(mask)) if mask.size else 0
        np.copyto(owner[y1:y2, x1:x2], index + 1, where=mask.astype(bool))
        mask[:] = 0
    return seen_layout(owner, amodal, pixels)


def seen_layout(owner: NDArray[np.uint8], amodal: list[Box], pixels: list[int]) -> Layout:
    """The layout of objects that were put into `owner`, from the whole box and the count of all pixels of each."""
    modal: list[Box | None] = []
    visible: list[float] = []
    for number, (whole, count) in enumerate(zip(amodal, pixels, strict=True), 1):
        x1, y1, x2, y2 = (int(v) for v in whole.xyxy)
        seen = (owner[y1:y2, x1:x2] == number).astype(np.uint8)
        bounds = _bounds(seen)
        modal.append(_shifted(bounds, x1, y1) if bounds else None)
        visible.append(float(seen.sum()) / count if count else 0.0)
    return Layout((owner.shape[1], owner.shape[0]), tuple(modal), tuple(amodal), tuple(visible), owner)


def render(scene: Scene, width_px: int, height_px: int) -> Rendered:
    """Draw a scene.

    Args:
        scene: what to draw.
        width_px, height_px: size of the picture; any size and aspect ratio.

    Returns:
        The RGB picture and the layout in its pixels.
    """
    image = expose(paint(scene, width_px, height_px), scene.surroundings)
    return Rendered(image, layout(scene, width_px, height_px))


def paint(scene: Scene, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB: the scene before lens and sensor, which `expose` adds."""
    image = _table(scene, width_px, height_px)
    for index in _far_to_near(scene):
        thing = scene.objects[index]
        colour = np.array(COLOURS[thing.colour], np.float64) + thing.tint
        polygons = _polygons(thing, width_px, height_px)
        hole = [polygon for polygon, part in zip(polygons, PARTS[thing.shape], strict=True) if part.shade == 0.0]
        behind = image.copy() if hole else image
        for polygon, part in zip(polygons, PARTS[thing.shape], strict=True):
            if part.shade:
                cv2.fillPoly(image, [polygon], _shade(colour, part), cv2.LINE_AA, _SHIFT)
        if hole:
            mask = np.zeros(image.shape[:2], np.uint8)
            cv2.fillPoly(mask, hole, 255, cv2.LINE_AA, _SHIFT)
            cv2.copyTo(behind, mask, image)
    return image


def _far_to_near(scene: Scene) -> list[int]:
    bottoms = [thing.outline(4 / 3)[3] for thing in scene.objects]
    return sorted(range(len(bottoms)), key=bottoms.__getitem__)


def outline_points(thing: SceneObject, width_px: int, height_px: int) -> list[NDArray[np.float64]]:
    """Corners of its parts, [P, 2] float64 each, x and y in pixels; pixel centres are whole numbers."""
    side = thing.scale * math.sqrt(width_px * height_px)
    scale = np.array([-side if thing.mirrored else side, side])
    centre = np.array([thing.x * width_px - 0.5, thing.y * height_px - 0.5])
    corners = [part.points * scale for part in PARTS[thing.shape]]
    if thing.turn_deg:
        cos, sin = math.cos(math.radians(thing.turn_deg)), math.sin(math.radians(thing.turn_deg))
        corners = [points @ np.array([[cos, sin], [-sin, cos]]) for points in corners]
    return [points + centre for points in corners]


def _polygons(thing: SceneObject, width_px: int, height_px: int) -> list[NDArray[np.int32]]:
    """The same in fixed point: int32 with `_SHIFT` fractional bits."""
    return [np.rint(points * (1 << _SHIFT)).astype(np.int32) for points in outline_points(thing, width_px, height_px)]


def _fill(mask: NDArray[np.uint8], polygons: list[NDArray[np.int32]], parts: tuple[Part, ...]) -> None:
    """Silhouette: 1 wherever a part paints; a hole (drawn last) is not part of the object."""
    for polygon, part in zip(polygons, parts, strict=True):
        cv2.fillPoly(mask, [polygon], 1 if part.shade else 0, cv2.LINE_8, _SHIFT)


def _frame(polygons: list[NDArray[np.int32]], width_px: int, height_px: int) -> tuple[int, int, int, int]:
    points = np.concatenate(polygons)
    low = (points.min(0) >> _SHIFT) - 1
    high = (points.max(0) >> _SHIFT) + 3
    return (
        int(np.clip(low[0], 0, width_px)), int(np.clip(low[1], 0, height_px)),
        int(np.clip(high[0], 0, width_px)), int(np.clip(high[1], 0, height_px)),
    )  # fmt: skip


def _bounds(mask: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    if not mask.size:
        return None
    x, y, width, height = cv2.boundingRect(mask)
    return (x, y, x + width, y + height) if width else None


def _shifted(bounds: tuple[int, int, int, int], dx: int, dy: int) -> Box:
    return Box(float(bounds[0] + dx), float(bounds[1] + dy), float(bounds[2] + dx), float(bounds[3] + dy))


def _shade(rgb: NDArray[np.float64], part: Part) -> tuple[float, float, float]:
    return tuple(float(v) for v in np.clip(rgb * part.shade + part.offset, 0, 255))  # type: ignore[return-value]


def _table(scene: Scene, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Table, wall, planks, mottling, light and soft shadows."""
    look = scene.surroundings
    mottling = _bank()[look.seed % 400 :][:12, (look.seed // 400) % 400 :][:, :16, :1]
    ramp = np.linspace(-0.5, 0.5, 16)[None, :] * look.light[0] + np.linspace(-0.5, 0.5, 12)[:, None] * look.light[1]
    coarse = mottling * look.texture + ramp[..., None] + np.array(look.table_rgb)
    image = cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    edge = round(look.horizon * height_px)
    if edge:
        cv2.rectangle(image, (0, 0), (width_px, edge - 1), look.wall_rgb, -1)
    if look.grain:
        tone = [max(0, v - 14) for v in look.table_rgb]
        for row in range(1, look.grain):
            y = edge + (height_px - edge) * (row / look.grain) ** 1.6
            cv2.line(image, (0, round(y)), (width_px, round(y)), tone, max(1, round(height_px / 190)), cv2.LINE_AA)
    side = math.sqrt(width_px * height_px)
    for thing in scene.objects:
        x1, _, x2, y2 = thing.outline(width_px / height_px)
        centre = (round((thing.x + 0.012) * width_px), round(y2 * height_px - 0.05 * thing.scale * side))
        axes = (round(0.56 * (x2 - x1) * width_px), round(0.14 * thing.scale * side))
        ground = image[min(max(centre[1], 0), height_px - 1), min(max(centre[0], 0), width_px - 1)]
        shade = [float(v) * (1 - look.shadow) for v in ground]
        cv2.ellipse(image, centre, axes, 0, 0, 360, shade, -1, cv2.LINE_AA)
    reach = max(3, round(side / 26)) | 1
    return cv2.blur(image, (reach, reach)).astype(np.uint8, copy=False)


def expose(image: NDArray[np.uint8], look: Surroundings) -> NDArray[np.uint8]:
    """Lens blur, exposure, white balance and sensor noise on a painted [H, W, 3] uint8 RGB picture."""
    height_px, width_px = image.shape[:2]
    if look.blur_px:
        image = cv2.GaussianBlur(image, (0, 0), look.blur_px * max(1.0, width_px / 256)).astype(np.uint8, copy=False)
    lit = cv2.multiply(image, np.array([*look.gain, 1.0]))
    top, left = (look.seed >> 3) % _BANK_SIDE, (look.seed >> 14) % _BANK_SIDE
    noise = noise_window(height_px, width_px, top, left) * np.float32(look.noise)
    return cv2.add(lit, noise, dtype=cv2.CV_8U).astype(np.uint8, copy=False)


def noise_window(height_px: int, width_px: int, top: int, left: int) -> NDArray[np.float32]:
    """A window of the noise bank, repeated when the picture is larger than the bank."""
    bank = _bank()
    rows, cols = -(-height_px // _BANK_SIDE), -(-width_px // _BANK_SIDE)
    window = bank[top : top + _BANK_SIDE, left : left + _BANK_SIDE]
    if rows > 1 or cols > 1:
        window = np.tile(window, (rows, cols, 1))
    return window[:height_px, :width_px]


@functools.cache
def _bank() -> NDArray[np.float32]:
    """[2S, 2S, 3] float32 unit noise, fixed: drawing it anew for each picture would cost more than the picture."""
    tile = np.random.Generator(np.random.PCG64(7)).standard_normal((_BANK_SIDE, _BANK_SIDE, 3), np.float32)
    return np.tile(tile, (2, 2, 1))
