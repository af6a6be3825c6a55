"""sample_household: a seed becomes a table with objects on it, seen by a camera. Knows nothing of pixels.

Metres on the table: x right, y away from the camera, z up; the camera looks at the origin. Pictures are measured in
widths: u 0-1 from the left, v from the top, so a scene is the same at every resolution of its aspect ratio.
"""

from __future__ import annotations

import colorsys
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from egm_edge.synthetic.household.assets import Asset, assets
from egm_edge.synthetic.household.solids import solids
from egm_edge.synthetic.household.sprites import (
    ELEVATIONS_DEG,
    TRAIN_LIGHTS,
    TRAIN_YAWS,
    YAWS_DEG,
    SpriteSet,
    sprite_set,
)
from egm_edge.synthetic.sample import between, pick
from egm_edge.synthetic.tabletops import COUNT, HELD_OUT
from egm_edge.synthetic.vocabulary import ALL_COLOURS

SPLITS: tuple[str, ...] = ("train", "test", "instances")
_SIZE_EDGES: tuple[tuple[str, float], ...] = (("small", 0.125), ("medium", 0.20), ("large", 9.0))
_EDGE_GAP = 0.06
_TABLE_PAINTS: tuple[tuple[int, int, int], ...] = (
    (205, 200, 190), (120, 85, 60), (70, 72, 78), (225, 225, 222), (150, 120, 90), (95, 115, 105), (150, 60, 55), (60, 80, 130),
)  # fmt: skip
_WALL_PAINTS: tuple[tuple[int, int, int], ...] = (
    (188, 186, 180), (120, 118, 112), (90, 96, 104), (60, 58, 55), (165, 150, 130),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableCamera:
    """A pinhole over the table.

    Attributes:
        focal: of the picture's width. tilt: below the horizon, radians. distance_m: to the origin.
        centre_v: v of the principal point. aspect: width / height.
    """

    focal: float
    tilt: float
    distance_m: float
    centre_v: float
    aspect: float

    @property
    def eye(self) -> NDArray[np.float64]:
        return np.array([0.0, -self.distance_m * math.cos(self.tilt), self.distance_m * math.sin(self.tilt)])

    @property
    def axes(self) -> NDArray[np.float64]:
        """[3, 3] rows: right, down, ahead."""
        c, s = math.cos(self.tilt), math.sin(self.tilt)
        return np.array([[1, 0, 0], [0, -s, -c], [0, c, -s]])

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """u, v of a point, and its depth in metres."""
        right, down, ahead = self.axes @ (np.array([x, y, z]) - self.eye)
        return right / ahead * self.focal + 0.5, down / ahead * self.focal + self.centre_v, float(ahead)

    def homography(self) -> NDArray[np.float64]:
        """[3, 3]: table metres (x, y, 1) to (u, v, 1)."""
        inner = np.array([[self.focal, 0, 0.5], [0, self.focal, self.centre_v], [0, 0, 1]])
        axes = self.axes
        found: NDArray[np.float64] = inner @ np.stack([axes[:, 0], axes[:, 1], -axes @ self.eye], 1)
        return found


@dataclass(frozen=True, slots=True)
class HouseholdObject:
    """One thing on the table: what questions ask for (as `SceneObject`), and how it stands there.

    Attributes:
        shape, colour, size: noun, colour word ("" where none fits), size word.
        x, y: where its foot is, 0-1 of width and height.
        key: of its asset. x_m, y_m: of its foot on the table. grow: factor on its true size.
        elevation, yaw: indices of its sprite. paint: colour word it is painted in, "" as it is.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    key: str
    x_m: float
    y_m: float
    grow: float
    elevation: int
    yaw: int
    paint: str


@dataclass(frozen=True, slots=True)
class Room:
    """Table, wall and light.

    Attributes:
        texture: of `tabletops`; metres: its side on the table; turn_deg, shift: how it lies there.
        plain: share of plain paint over it; rgb: that paint. saturation, gain: of the table's colours.
        far_m, wide_m: the table's far edge and half its width.
        wall_rgb; wall_texture: -1 for a plain wall; stripes: brightness step of the wall's panels, grey levels.
        light: index of the sprites' light; shadow: its darkness; ramp: brightness change across and down the frame.
        mirrored: sprites and shadows are flipped.
        contrast: factor on the texture's differences from its mean. light_gain: brightness of the objects.
    """

    texture: int
    metres: float
    turn_deg: float
    shift: tuple[float, float]
    plain: float
    rgb: tuple[float, float, float]
    saturation: float
    gain: float
    far_m: float
    wide_m: float
    wall_rgb: tuple[float, float, float]
    wall_texture: int
    stripes: float
    light: int
    shadow: float
    ramp: tuple[float, float]
    mirrored: bool
    contrast: float = 1.0
    light_gain: float = 1.0


@dataclass(frozen=True, slots=True)
class HouseholdScene:
    """Objects on a table.

    Attributes:
        objects: far to near. camera, room: how they are seen. seed: the seed it was sampled from.
    """

    objects: tuple[HouseholdObject, ...]
    camera: TableCamera
    room: Room
    seed: int


@dataclass(frozen=True, slots=True)
class _Place:
    x_m: float
    y_m: float
    radius_m: float


def sample_household(
    seed: int,
    n_objects: tuple[int, int] = (3, 6),
    *,
    aspect: float = 4 / 3,
    occlusion: float = 0.35,
    split: str = "train",
    solid: float = 0.0,
) -> HouseholdScene:
    """Draw a scene.

    Args:
        seed: any int; equal seeds (and arguments) give equal scenes.
        n_objects: fewest and most objects, inclusive; fewer when they do not fit.
        aspect: width / height of the pictures it is meant for.
        occlusion: probability that one object is put in front of another.
        split: "train"; "test" for views, tables and a light that training never shows; "instances" for these and objects
            that it never shows (about half of the objects).
        solid: share of objects that are solids of the drawn world's shapes; above 0 the tables are of any colour, too.
    """
    for attempt in itertools.count():
        scene = _sample(random.Random(seed + (attempt << 40)), seed, n_objects, aspect, occlusion, split, solid)
        if scene.objects:
            return scene
    raise AssertionError


def _sample(
    rng: random.Random,
    seed: int,
    n_objects: tuple[int, int],
    aspect: float,
    occlusion: float,
    split: str,
    solid: float,
) -> HouseholdScene:
    low, high = n_objects
    count = low + int(rng.random() * (high - low + 1))
    tilt = math.radians(between(rng, 25, 54))
    camera = TableCamera(
        focal=0.5 / math.tan(math.radians(between(rng, 40, 60)) / 2),
        tilt=tilt,
        distance_m=between(rng, 0.75, 1.35),
        centre_v=(0.5 + between(rng, -0.04, 0.10)) / aspect,
        aspect=aspect,
    )
    room = _sample_room(rng, split)
    if solid:
        room = _any_table(rng, room)
    known, held = _pools(split)
    nouns = sorted({asset.noun for asset in known})
    if rng.random() < 0.6:
        nouns = [pick(rng, nouns) for _ in range(1 + int(3 * rng.random()))]
    shapes = solids()
    if solid and rng.random() < 0.6:
        shown = list(dict.fromkeys(asset.noun for asset in shapes))
        few = {pick(rng, shown) for _ in range(1 + int(3 * rng.random()))}
        shapes = tuple(asset for asset in shapes if asset.noun in few)
    hides = count >= 2 and rng.random() < occlusion
    objects: list[HouseholdObject] = []
    places: list[_Place] = []
    for index in range(count):
        pool = held if held and rng.random() < 0.5 else known
        noun = pick(rng, nouns) if pool is known else ""
        asset = pick(rng, [a for a in pool if a.noun == noun] or pool)
        if solid and rng.random() < solid:
            asset = pick(rng, shapes)
        behind = places[-1] if hides and index == count - 1 and places else None
        placed = _place(rng, camera, room, sprite_set(asset.key), places, behind, split)
        if placed:
            objects.append(placed[0])
            places.append(placed[1])
    objects.sort(key=lambda thing: -thing.y_m)
    return HouseholdScene(tuple(objects), camera, room, seed)


def _pools(split: str) -> tuple[list[Asset], list[Asset]]:
    known = [asset for asset in assets() if not asset.held_out]
    return known, [asset for asset in assets() if asset.held_out] if split == "instances" else []


def _place(
    rng: random.Random,
    camera: TableCamera,
    room: Room,
    kept: SpriteSet,
    others: Sequence[_Place],
    behind: _Place | None,
    split: str,
) -> tuple[HouseholdObject, _Place] | None:
    """Find room for one more object, if need be in front of `behind`."""
    asset = kept.asset
    yaws = (0, TRAIN_YAWS) if split == "train" else (TRAIN_YAWS, len(YAWS_DEG))
    yaw = yaws[0] + int(rng.random() * (yaws[1] - yaws[0]))
    grow = between(rng, 0.6, 1.8) if asset.solid else between(rng, 0.88, 1.15)
    paint = pick(rng, ALL_COLOURS) if asset.repaint else ""
    radius = min(0.16, max(0.03, (kept.reach_m - 0.95 * kept.height_m) * grow * 0.85))
    eye = camera.eye
    for attempt in range(50):
        x, y = between(rng, -0.6, 0.6), between(rng, -0.5, min(room.far_m, 0.9) - 0.05)
        if behind is not None and attempt < 35:
            gap = behind.radius_m + radius + between(rng, 0.0, 0.05)
            x, y = behind.x_m + between(rng, -0.06, 0.06), behind.y_m - gap
        if y > room.far_m - 0.04 or abs(x) > room.wide_m - 0.04:
            continue
        if any(math.hypot(x - o.x_m, y - o.y_m) < o.radius_m + radius for o in others):
            continue
        u, v, _ = camera.project(x, y, 0)
        height = kept.height_m * grow
        _, _, depth = camera.project(x, y, height / 2)
        angle = math.degrees(math.atan2(eye[2] - height / 2, math.hypot(x - eye[0], y - eye[1])))
        elevation = min(range(len(ELEVATIONS_DEG)), key=lambda k: abs(ELEVATIONS_DEG[k] - angle))
        sprite = kept.sprite(elevation, yaw, room.light)
        scale = camera.focal / depth / sprite.px_per_m * grow
        h, w = (scale * side for side in sprite.rgba.shape[:2])
        left, top = u - scale * sprite.foot[0], v - scale * sprite.foot[1]
        if room.mirrored:
            left = u - (w - scale * sprite.foot[0])
        tall = 1 / camera.aspect
        if left < 0.01 or top < 0.01 or left + w > 0.99 or top + h > tall - 0.01:
            continue
        size = _size_word(math.sqrt(w * h * camera.aspect))
        if size is None:
            continue
        colour = paint or asset.colour
        thing = HouseholdObject(
            asset.noun, colour, size, u, v * camera.aspect, asset.key, x, y, grow, elevation, yaw, paint
        )
        return thing, _Place(x, y, radius)
    return None


def _size_word(side: float) -> str | None:
    """The word for a box of this side, of sqrt(width * height); None too near an edge between two words."""
    for word, edge in _SIZE_EDGES:
        if side < edge * (1 - _EDGE_GAP):
            return word if side > 0.04 else None
        if side < edge * (1 + _EDGE_GAP):
            return None
    return None


def _any_table(rng: random.Random, room: Room) -> Room:
    """A table of any colour, often plain, often without an edge in sight, under any light."""
    edgeless = rng.random() < 0.6
    hue, strength, value = rng.random(), rng.random() ** 2, between(rng, 0.3, 0.95)
    rgb = colorsys.hsv_to_rgb(hue, strength, value)
    return replace(
        room,
        plain=between(rng, 0.9, 1.0) if rng.random() < 0.45 else between(rng, 0.0, 0.6),
        rgb=(255 * rgb[0], 255 * rgb[1], 255 * rgb[2]),
        saturation=between(rng, 0.4, 1.8),
        contrast=between(rng, 1.0, 3.5),
        metres=between(rng, 0.25, 1.3),
        far_m=1.6 if edgeless else room.far_m,
        wide_m=3.0 if edgeless else room.wide_m,
        gain=between(rng, 0.6, 1.1),
        shadow=between(rng, 0.3, 1.1),
        light_gain=between(rng, 0.6, 1.1),
    )


def _sample_room(rng: random.Random, split: str) -> Room:
    textures = (0, COUNT - HELD_OUT) if split == "train" else (COUNT - HELD_OUT, COUNT)
    texture = textures[0] + int(rng.random() * (textures[1] - textures[0]))
    wall_texture = textures[0] + int(rng.random() * (textures[1] - textures[0])) if rng.random() < 0.4 else -1
    lights = (0, TRAIN_LIGHTS) if split == "train" else (TRAIN_LIGHTS, TRAIN_LIGHTS + 1)
    return Room(
        texture=texture,
        metres=between(rng, 0.5, 1.3),
        turn_deg=pick(rng, (0.0, 90.0, between(rng, 0, 180))),
        shift=(between(rng, 0, 1), between(rng, 0, 1)),
        plain=between(rng, 0.6, 0.9) if rng.random() < 0.35 else 0.0,
        rgb=pick(rng, _TABLE_PAINTS),
        saturation=between(rng, 0.25, 0.95),
        gain=between(rng, 0.72, 1.02),
        far_m=between(rng, 0.4, 0.9),
        wide_m=between(rng, 0.5, 1.1),
        wall_rgb=pick(rng, _WALL_PAINTS),
        wall_texture=wall_texture,
        stripes=pick(rng, (0.0, between(rng, -12, 12))),
        light=lights[0] + int(rng.random() * (lights[1] - lights[0])),
        shadow=between(rng, 0.7, 1.05),
        ramp=(between(rng, -0.14, 0.14), between(rng, -0.14, 0.14)),
        mirrored=rng.random() < 0.5,
    )
