"""augment: what a camera, a table and a distance do to a picture, on top of what its scene draws. Knows nothing of queries.

Boxes follow where the picture moves. Hue turns by 28 degrees at most: a colour keeps its word by what stands beside it.
"""

from __future__ import annotations

import random
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.encoding import jpeg
from egm_edge.synthetic.render import Layout
from egm_edge.synthetic.sample import between
from egm_edge.synthetic.tabletops import COUNT, HELD_OUT, SIDE, texture

Image = NDArray[np.uint8]
_HUE = 14  # of 180, either way; a large turn, which is what is hard, comes oftener than a small one


def cloth(rng: random.Random, width_px: int, height_px: int) -> NDArray[np.float32]:
    """[H, W, 3] float32: a training texture as an even table might show it, near neutral."""
    laid = texture(int(rng.random() * (COUNT - HELD_OUT)))
    scale = between(rng, 0.25, 0.9)
    turn = between(rng, 0, 180)
    matrix = cv2.getRotationMatrix2D((0, 0), turn, scale)
    matrix[:, 2] = between(rng, 0, SIDE), between(rng, 0, SIDE)
    table = cv2.warpAffine(laid, matrix, (width_px, height_px), borderMode=cv2.BORDER_WRAP).astype(np.float32)
    grey = table.mean(-1, keepdims=True)
    return grey + (table - grey) * np.float32(between(rng, 0.2, 0.9))


def textured(image: Image, where: Layout, rng: random.Random) -> Image:
    """Lay a texture on the table, keeping its light and shadows."""
    table = cloth(rng, *where.wh)
    table *= np.float32(between(rng, 0.4, 1.0)) / max(1.0, float(table.mean()))
    mixed = np.clip(image * (table + np.float32(between(rng, 0.0, 0.5))), 0, 255)
    return np.where((where.owner == 0)[..., None], mixed, image).astype(np.uint8)


def shaded(image: Image, where: Layout, rng: random.Random) -> Image:
    """Light every object from one side, brighter there and darker opposite, as a solid body is."""
    lit = image.astype(np.float32)
    dx, dy = between(rng, -1, 1), between(rng, -1, 0.4)
    depth = between(rng, 0.2, 0.75)
    for index, box in enumerate(where.modal):
        if box is None:
            continue
        x1, y1, x2, y2 = (int(v) for v in box.xyxy)
        across, down = np.linspace(-1, 1, x2 - x1, dtype=np.float32), np.linspace(-1, 1, y2 - y1, dtype=np.float32)
        ramp = 1 + depth * 0.6 * (dx * across[None] + dy * down[:, None]) - 0.25 * depth * across[None] ** 2
        part = lit[y1:y2, x1:x2]
        mine = where.owner[y1:y2, x1:x2] == index + 1
        part[mine] *= ramp[mine][:, None]
    return np.clip(lit, 0, 255).astype(np.uint8)


def shrunk(image: Image, where: Layout, rng: random.Random) -> tuple[Image, Layout]:
    """The same table from farther away: the picture at 50-95 % of its size on a larger one."""
    (width, height), scale = where.wh, between(rng, 0.5, 0.95)
    w, h = round(width * scale), round(height * scale)
    left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
    if rng.random() < 0.5:
        canvas = np.clip(cloth(rng, width, height), 0, 255).astype(np.uint8)
    else:
        canvas = np.empty_like(image)
        canvas[:] = np.median(image[:, (0, -1)].reshape(-1, 3), 0)
    canvas[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    owner = np.zeros_like(where.owner)
    owner[top : top + h, left : left + w] = cv2.resize(where.owner, (w, h), interpolation=cv2.INTER_NEAREST)

    def moved(box: Box) -> Box:
        x1, y1, x2, y2 = box.xyxy
        sx, sy = w / width, h / height
        return Box(x1 * sx + left, y1 * sy + top, x2 * sx + left, y2 * sy + top)

    modal = tuple(moved(box) if box else None for box in where.modal)
    return canvas, replace(where, modal=modal, amodal=tuple(moved(box) for box in where.amodal), owner=owner)


def camera(image: Image, rng: random.Random) -> Image:
    """Hue, saturation, exposure, then JPEG, each now and then."""
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        turn = rng.choice((-1, 1)) * _HUE * rng.random() ** 0.5
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(turn)) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * between(rng, 0.7, 1.15), 0, 255)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)
    if rng.random() < 0.35:
        gain, gamma = between(rng, 0.75, 1.2), between(rng, 0.75, 1.3)
        ramp = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255).astype(np.uint8)
        image = cv2.LUT(image, ramp).astype(np.uint8, copy=False)
    if rng.random() < 0.5:
        image = through_jpeg(image, int(between(rng, 20, 70)))
    return image


def through_jpeg(image: Image, quality: int) -> Image:
    """[H, W, 3] uint8 RGB, coded at this quality, 0-100, and decoded."""
    coded = np.frombuffer(jpeg(image, quality), np.uint8)
    bgr = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(bgr[..., ::-1])


def augmented(image: Image, where: Layout, rng: random.Random, *, drawn: bool) -> tuple[Image, Layout]:
    """A picture as training sees it. `drawn`: objects and table are flat paint, so texture and shade are worth adding."""
    if drawn and rng.random() < 0.35:
        image = shaded(image, where, rng)
    if drawn and rng.random() < 0.35:
        image = textured(image, where, rng)
    if rng.random() < 0.35:
        image, where = shrunk(image, where, rng)
    return camera(image, rng), where
