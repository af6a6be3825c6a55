"""render_household: a household scene becomes pixels, with the exact modal and amodal box of every object.

Sprites are warped onto the table far to near; boxes are the bounds of the warped alpha, so they are exact to the pixel.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.synthetic.household.sample import HouseholdObject, HouseholdScene, Room
from egm_edge.synthetic.household.sprites import PAINT_GREY, SHADOW_SIDE, Sprite, sprite_set
from egm_edge.synthetic.render import Rendered, noise_window, seen_layout
from egm_edge.synthetic.sample import between
from egm_edge.synthetic.tabletops import SIDE, texture

_SOLID = 110  # alpha from which a pixel belongs to the object
_PAINT: dict[str, tuple[int, int, int]] = {
    "red": (185, 38, 38), "orange": (226, 118, 35), "yellow": (228, 198, 55), "green": (50, 135, 66), "blue": (45, 82, 182),
    "purple": (120, 60, 152), "black": (38, 38, 42), "white": (236, 236, 233), "grey": (138, 138, 140), "brown": (112, 76, 48),
}  # fmt: skip
_GREY_LEVEL = 255 * (PAINT_GREY * 0.92 + 0.012) ** (1 / 2.2)


@dataclass(frozen=True, slots=True)
class _Warped:
    """A sprite on the picture: premultiplied RGBA, float32, at (x, y)."""

    x: int
    y: int
    rgba: NDArray[np.float32]


def render_household(scene: HouseholdScene, width_px: int, height_px: int) -> Rendered:
    """Draw a scene.

    Args:
        scene: what to draw. width_px, height_px: of the picture, in the scene's aspect ratio.
    """
    rng = random.Random(scene.seed ^ 0x5EED)
    to_px = np.diag([width_px, width_px, 1.0]) @ scene.camera.homography()
    image = _room(scene.room, to_px, width_px, height_px)
    image *= (1 - _shadows(scene, to_px, width_px, height_px))[..., None]
    owner = np.zeros((height_px, width_px), np.uint8)
    amodal: list[Box] = []
    pixels: list[int] = []
    exposure = between(rng, 0.88, 1.08) * scene.room.light_gain
    for number, thing in enumerate(scene.objects, 1):
        put = _warp(scene, thing, width_px, height_px, rng)
        h, w = put.rgba.shape[:2]
        at = np.s_[put.y : put.y + h, put.x : put.x + w]
        image[at] = image[at] * (1 - put.rgba[..., 3:] / 255) + put.rgba[..., :3] * exposure
        mask = put.rgba[..., 3] > _SOLID
        owner[at][mask] = number
        x, y, wide, tall = cv2.boundingRect(mask.astype(np.uint8))
        amodal.append(Box(*(float(v) for v in (put.x + x, put.y + y, put.x + x + wide, put.y + y + tall))))
        pixels.append(int(mask.sum()))
    picture = _sensor(image, rng, width_px, height_px)
    return Rendered(picture, seen_layout(owner, amodal, pixels))


def _warp(scene: HouseholdScene, thing: HouseholdObject, width_px: int, height_px: int, rng: random.Random) -> _Warped:
    """The object's sprite at its place, upright along the projected vertical."""
    kept = sprite_set(thing.key)
    sprite = kept.sprite(thing.elevation, thing.yaw, scene.room.light)
    camera = scene.camera
    foot_u, foot_v, _ = camera.project(thing.x_m, thing.y_m, 0)
    top_u, top_v, _ = camera.project(thing.x_m, thing.y_m, 0.1)
    _, _, depth = camera.project(thing.x_m, thing.y_m, kept.height_m * thing.grow / 2)
    angle = math.atan2(top_u - foot_u, foot_v - top_v) * 0.5  # half the lean: the sprite's own camera has some of it
    scale = camera.focal / depth / sprite.px_per_m * thing.grow * width_px
    c, s, flip = scale * math.cos(angle), scale * math.sin(angle), -1 if scene.room.mirrored else 1
    fx, fy = sprite.foot
    h, w = sprite.rgba.shape[:2]
    matrix = np.array(
        [
            [flip * c, -s, foot_u * width_px - flip * c * fx + s * fy],
            [flip * s, c, foot_v * width_px - flip * s * fx - c * fy],
        ]
    )
    corners = matrix @ np.array([[0, w, 0, w], [0, 0, h, h], [1, 1, 1, 1]])
    low = np.clip(np.floor(corners.min(1)).astype(int) - 1, 0, (width_px - 1, height_px - 1))
    high = np.clip(np.ceil(corners.max(1)).astype(int) + 2, low + 1, (width_px, height_px))
    matrix[:, 2] -= low
    source = _painted(sprite, thing.paint, rng)
    if scale < 0.7:  # linear sampling would skip pixels
        source = np.asarray(cv2.blur(source, (2, 2) if scale > 0.45 else (3, 3)), np.float32)
    warped = cv2.warpAffine(source, matrix, (int(high[0] - low[0]), int(high[1] - low[1])), flags=cv2.INTER_LINEAR)
    return _Warped(int(low[0]), int(low[1]), warped.astype(np.float32, copy=False))


def _painted(sprite: Sprite, paint: str, rng: random.Random) -> NDArray[np.float32]:
    """Premultiplied float32 RGBA, the paintable part in its colour."""
    rgba = sprite.rgba.astype(np.float32)
    if paint and sprite.paint is not None:
        spread = 6 if paint in ("black", "white", "grey") else 16
        rgb = np.array([v + between(rng, -spread, spread) for v in _PAINT[paint]], np.float32).clip(8, 250)
        share = (sprite.paint / np.float32(255))[..., None]
        rgba[..., :3] *= 1 - share + share * (rgb * np.float32(1.12 / _GREY_LEVEL))
        np.minimum(rgba[..., :3], 255, out=rgba[..., :3])
    rgba[..., :3] *= rgba[..., 3:] / 255
    return rgba


def _shadows(scene: HouseholdScene, to_px: NDArray[np.float64], width_px: int, height_px: int) -> NDArray[np.float32]:
    """[H, W] darkness of the table, 0-1."""
    dark = np.zeros((height_px, width_px), np.float32)
    flip = -1 if scene.room.mirrored else 1
    for thing in scene.objects:
        kept = sprite_set(thing.key)
        reach = kept.reach_m * thing.grow
        step = 2 * reach / SHADOW_SIDE
        lay = np.array([[flip * step, 0, thing.x_m - flip * reach], [0, -step, thing.y_m + reach], [0, 0, 1]])
        whole = to_px @ lay
        corners = whole @ np.array([[0, SHADOW_SIDE, 0, SHADOW_SIDE], [0, 0, SHADOW_SIDE, SHADOW_SIDE], [1, 1, 1, 1.0]])
        corners = corners[:2] / corners[2]
        x1, y1 = np.clip(np.floor(corners.min(1)).astype(int), 0, (width_px, height_px))
        x2, y2 = np.clip(np.ceil(corners.max(1)).astype(int) + 1, 0, (width_px, height_px))
        if x2 <= x1 or y2 <= y1:
            continue
        moved = np.array([[1, 0, -x1], [0, 1, -y1], [0, 0, 1.0]]) @ whole
        shadow = kept.shadow(thing.yaw, scene.room.light)
        fallen = cv2.warpPerspective(shadow, moved, (int(x2 - x1), int(y2 - y1)), flags=cv2.INTER_LINEAR)
        part = dark[y1:y2, x1:x2]
        part[:] = 1 - (1 - part) * (1 - fallen * np.float32(scene.room.shadow * 0.9 / 255))
    return dark


def _room(room: Room, to_px: NDArray[np.float64], width_px: int, height_px: int) -> NDArray[np.float32]:
    """[H, W, 3] float32: the table up to its far edge, a wall behind, uneven light."""
    c, s = math.cos(math.radians(room.turn_deg)), math.sin(math.radians(room.turn_deg))
    step = room.metres / SIDE
    lay = np.array([[c * step, -s * step, room.shift[0]], [s * step, c * step, room.shift[1]], [0, 0, 1]])
    table = cv2.warpPerspective(
        texture(room.texture), to_px @ lay, (width_px, height_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    ).astype(np.float32)
    if room.contrast != 1:
        mean = table.mean((0, 1))
        table = np.clip(mean + (table - mean) * np.float32(room.contrast), 0, 255)
    if room.plain:
        table = table * np.float32(1 - room.plain) + np.array(room.rgb, np.float32) * np.float32(room.plain)
    grey = table.mean(-1, keepdims=True)
    table = (grey + (table - grey) * np.float32(room.saturation)).clip(0, 255) * np.float32(room.gain)
    wall = _wall(room, width_px, height_px)
    corners = np.array(
        [[-room.wide_m, room.far_m], [room.wide_m, room.far_m], [room.wide_m, -0.62], [-room.wide_m, -0.62]]
    )
    flat = to_px @ np.concatenate([corners, np.ones((4, 1))], 1).T
    mask = np.zeros((height_px, width_px), np.uint8)
    cv2.fillConvexPoly(mask, np.rint((flat[:2] / flat[2]).T * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    share = (cv2.GaussianBlur(mask, (3, 3), 0.7) / np.float32(255))[..., None]
    image = wall + (table - wall) * share
    across, down = np.linspace(-1, 1, width_px, dtype=np.float32), np.linspace(-1, 1, height_px, dtype=np.float32)
    ramp = 1 + np.float32(room.ramp[0]) * across[None] + np.float32(room.ramp[1]) * down[:, None]
    image *= ramp[..., None]
    return image


def _wall(room: Room, width_px: int, height_px: int) -> NDArray[np.float32]:
    if room.wall_texture >= 0:
        around = cv2.resize(texture(room.wall_texture), (width_px, height_px), interpolation=cv2.INTER_AREA)
        return cv2.GaussianBlur(around, (0, 0), width_px / 120).astype(np.float32) * np.float32(0.65)
    wall = np.empty((height_px, width_px, 3), np.float32)
    wall[:] = np.array(room.wall_rgb, np.float32)
    if room.stripes:
        panel = np.sign(np.sin(np.linspace(0, 12, width_px, dtype=np.float32)))
        wall += (np.float32(room.stripes) * panel)[None, :, None]
    return wall


def _sensor(image: NDArray[np.float32], rng: random.Random, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """White balance and exposure, lens blur, noise."""
    picture = cv2.convertScaleAbs(image)
    gamma, gain = between(rng, 0.85, 1.2), between(rng, 0.88, 1.1)
    balance = [between(rng, 0.93, 1.07), between(rng, 0.96, 1.04), between(rng, 0.9, 1.08)]
    ramp = 255 * (np.arange(256) / 255) ** gamma * gain
    picture = cv2.LUT(picture, np.clip(ramp[:, None] * balance, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.7:
        picture = cv2.GaussianBlur(picture, (0, 0), between(rng, 0.3, 0.8) * width_px / 320)
    top, left = int(rng.random() * 512), int(rng.random() * 512)
    noise = noise_window(height_px, width_px, top, left) * np.float32(between(rng, 1, 5.5))
    return cv2.add(picture, noise, dtype=cv2.CV_8U).astype(np.uint8, copy=False)
