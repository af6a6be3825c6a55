"""Sprites: every object seen from yaws x elevations under lights, with its shadows; built once into a cache.

The camera of a sprite looks at the object's middle from `DISTANCE_M`; the object is turned by yaw about its vertical. A sprite
keeps its pixels per metre there and the pixel of the object's foot. Shadows are seen from above: a soft sun and a contact
term, laid on the table by the scene's own homography. Knows nothing of scenes.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.files import user_cache, whole_file
from egm_edge.reporting.progress import ProgressBar
from egm_edge.synthetic.household.assets import FOLDER, Asset, Part, assets, parts_of
from egm_edge.synthetic.household.rasterizer import rasterize
from egm_edge.synthetic.household.solids import solid_parts, solids

TRAIN_YAWS, TEST_YAWS = 12, 4
YAWS_DEG: tuple[float, ...] = (*(30.0 * i for i in range(TRAIN_YAWS)), *(15.0 + 90 * i for i in range(TEST_YAWS)))
ELEVATIONS_DEG: tuple[float, ...] = (20.0, 33.0, 46.0, 60.0)
LIGHTS: tuple[tuple[float, float, float], ...] = ((-0.55, -0.45, 1.0), (0.7, 0.35, 1.0), (0.1, -0.8, 1.0))
"""Towards the light: x right, y away from the camera, z up. The last one is for testing."""
TRAIN_LIGHTS = 2
VIEWS: tuple[tuple[int, int, int], ...] = tuple(
    (elevation, yaw, light)
    for elevation in range(len(ELEVATIONS_DEG))
    for yaw in range(len(YAWS_DEG))
    for light in (range(TRAIN_LIGHTS) if yaw < TRAIN_YAWS else range(TRAIN_LIGHTS, len(LIGHTS)))
)
"""Elevation, yaw and light of every sprite: the views for testing are lit by the light for testing."""
SIDE = 112
SHADOW_SIDE = 48
PAINT_GREY = 0.5  # linear albedo of a repaintable part in its sprite; `compose` multiplies it up or down
DISTANCE_M = 0.9
_VIEW_INDEX = {view: index for index, view in enumerate(VIEWS)}
_SHADOW_VIEWS = [(yaw, light) for elevation, yaw, light in VIEWS if not elevation]
_SUPER = 2
_VERSION = 3  # of everything that changes a sprite


@dataclass(frozen=True, slots=True)
class Sprite:
    """One view.

    Attributes:
        rgba: [h, w, 4] uint8, straight alpha; paint: [h, w] uint8, where paint goes, 255 all; None when not repaintable.
        px_per_m: at the object's middle. foot: pixel (x, y) of the object's foot.
    """

    rgba: NDArray[np.uint8]
    paint: NDArray[np.uint8] | None
    px_per_m: float
    foot: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Mesh:
    """All parts in one: vertices [V, 3], smooth normals [V, 3], faces [F, 3], part of each face [F]."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int64]
    part: NDArray[np.int64]
    uv: NDArray[np.float32]


def _mesh(parts: list[Part]) -> _Mesh:
    vertices, normals, faces, part, uv, base = [], [], [], [], [], 0
    for index, piece in enumerate(parts):
        v, f = piece.vertices, piece.faces
        flat = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
        _, same = np.unique(np.round(v, 5), axis=0, return_inverse=True)
        same = same.ravel()
        total = np.zeros((same.max() + 1, 3))
        for corner in range(3):
            np.add.at(total, same[f[:, corner]], flat)
        normal = total[same]
        vertices.append(v)
        normals.append((normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12)).astype(np.float32))
        faces.append(f + base)
        part.append(np.full(len(f), index))
        uv.append(piece.uv if piece.uv is not None else np.zeros((len(v), 2), np.float32))
        base += len(v)
    return _Mesh(*(np.concatenate(x) for x in (vertices, normals, faces, part, uv)))


def _main_part(mesh: _Mesh, parts: list[Part]) -> int:
    """The untextured part with the largest surface."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    area = np.bincount(mesh.part, np.linalg.norm(np.cross(b - a, c - a), axis=1), len(parts))
    return int(np.argmax([0.0 if part.texture is not None else area[i] for i, part in enumerate(parts)]))


class _Renderer:
    """Draws the views of one object."""

    def __init__(self, asset: Asset) -> None:
        self.asset = asset
        self.parts = solid_parts(asset.key) if asset.solid else parts_of(asset.key)
        self.mesh = _mesh(self.parts)
        self.painted = _main_part(self.mesh, self.parts) if asset.repaint else -1
        self.low, self.high = self.mesh.vertices.min(0), self.mesh.vertices.max(0)
        turns = [(i * 2.39996, 0.12 + 0.9 * (i + 0.5) / 12) for i in range(12)]
        self._contact = self._fallen(self.mesh.vertices, [(math.cos(a) * k, math.sin(a) * k, 1.0) for a, k in turns])
        self.gloss = 0.02 if any(part.texture is not None for part in self.parts) else 0.10

    @property
    def reach_m(self) -> float:
        """How far its shadow may fall from its foot."""
        return float(np.hypot(*self.mesh.vertices[:, :2].T).max() + 0.95 * self.high[2]) + 0.005

    def views(self, yaw_deg: float, elevation_deg: float, lights: Iterable[int]) -> list[Sprite]:
        """One sprite a light."""
        turn = _turned(yaw_deg)
        vertices, normals = self.mesh.vertices @ turn.T, self.mesh.normals @ turn.T
        middle = np.array([0, 0, (self.low[2] + self.high[2]) / 2], np.float32)
        e = math.radians(elevation_deg)
        eye = middle + np.float32(DISTANCE_M) * np.array([0, -math.cos(e), math.sin(e)], np.float32)
        right, up = np.array([1, 0, 0], np.float32), np.array([0, math.sin(e), math.cos(e)], np.float32)
        ahead = np.array([0, math.cos(e), -math.sin(e)], np.float32)
        seen = (vertices - eye) @ np.stack([right, up, ahead], 1)
        reach = float(np.abs(seen[:, :2] / seen[:, 2:]).max()) * 1.04
        side = SIDE * _SUPER
        focal = side / 2 / reach
        points = np.stack(
            [side / 2 + focal * seen[:, 0] / seen[:, 2], side / 2 - focal * seen[:, 1] / seen[:, 2], 1 / seen[:, 2]], 1
        ).astype(np.float32)
        hits = rasterize(points, self.mesh.faces, side)
        corners = self.mesh.faces[hits.face]
        weights = hits.weights[..., None]
        at, smooth = _mixed(vertices, corners, weights), _mixed(normals, corners, weights)
        albedo = self._albedo(hits.face, corners, weights)
        to_eye = eye - at
        to_eye /= np.sqrt(_dot(to_eye, to_eye))[:, None]
        flat = np.cross(
            vertices[corners[:, 1]] - vertices[corners[:, 0]], vertices[corners[:, 2]] - vertices[corners[:, 0]]
        )
        normal = _facing(flat, smooth, to_eye)
        painted = np.zeros(side * side, np.float32)
        painted[hits.pixel] = self.mesh.part[hits.face] == self.painted
        foot = -eye @ np.stack([right, up, ahead], 1)
        foot_xy = (side / 2 + focal * foot[0] / foot[2], side / 2 - focal * foot[1] / foot[2])
        return [
            self._sprite(hits.pixel, self._lit(albedo, normal, at[:, 2], to_eye, light), painted, focal, foot_xy)
            for light in (LIGHTS[index] for index in lights)
        ]

    def _albedo(
        self, face: NDArray[np.int64], corners: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[P, 3] linear."""
        found = np.empty((len(face), 3), np.float32)
        part = self.mesh.part[face]
        for index, piece in enumerate(self.parts):
            mine = part == index
            if index == self.painted:
                found[mine] = PAINT_GREY
                continue
            if piece.texture is None:
                found[mine] = piece.rgb**2.2
                continue
            h, w = piece.texture.shape[:2]
            u, v = np.mod(_mixed(self.mesh.uv, corners[mine], weights[mine]), 1.0).T
            rgb = piece.texture[((1 - v) * h).astype(np.int64) % h, (u * w).astype(np.int64) % w]
            found[mine] = (rgb / np.float32(255)) ** 2.2
        return found * 0.92 + 0.012

    def _lit(
        self,
        albedo: NDArray[np.float32],
        normal: NDArray[np.float32],
        height: NDArray[np.float32],
        to_eye: NDArray[np.float32],
        light: tuple[float, float, float],
    ) -> NDArray[np.float32]:
        """[P, 3] 0-255: sun, sky, darker near the table, a little headlight, gloss."""
        sun = np.array(light, np.float32) / np.linalg.norm(light)
        sky = 0.5 + 0.5 * normal[:, 2]
        near_table = 0.7 + 0.3 * np.clip(height / 0.035, 0, 1)
        facing = np.clip(_dot(normal, to_eye), 0, None)
        strength = 0.62 * np.clip(normal @ sun, 0, None) + (0.20 + 0.30 * sky) * near_table + 0.10 * facing
        half = to_eye + sun
        shine = np.clip(_dot(normal, half), 0, None) / np.sqrt(_dot(half, half))
        for _ in range(5):
            shine = shine * shine
        shine *= self.gloss
        linear = albedo * strength[:, None] + shine[:, None]
        return cv2.pow(np.clip(linear, 0, 1).astype(np.float32), 1 / 2.2) * np.float32(255)

    def _sprite(
        self,
        pixel: NDArray[np.int64],
        rgb: NDArray[np.float32],
        painted: NDArray[np.float32],
        focal: float,
        foot: tuple[float, float],
    ) -> Sprite:
        side = SIDE * _SUPER
        image = np.zeros((side * side, 4), np.float32)
        image[pixel, :3], image[pixel, 3] = rgb, 255
        small = cv2.resize(image.reshape(side, side, 4), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        alpha = small[..., 3:] / 255
        # colour spread into the clear pixels, or a lossy codec draws dark fringes
        wide = cv2.blur(small, (7, 7))
        spread = wide[..., :3] / np.maximum(wide[..., 3:] / 255, 1e-3)
        small[..., :3] = np.where(alpha > 0.5, small[..., :3] / np.maximum(alpha, 1e-3), np.clip(spread, 0, 255))
        x, y, w, h = cv2.boundingRect((small[..., 3] > 8).astype(np.uint8))
        cut = np.s_[y : y + h, x : x + w]
        paint = None
        if self.painted >= 0:
            share = cv2.resize(255 * painted.reshape(side, side), (SIDE, SIDE), interpolation=cv2.INTER_AREA)[cut]
            paint = (share / np.maximum(alpha[cut][..., 0], 1e-2)).clip(0, 255).astype(np.uint8)
        rgba = np.clip(small[cut], 0, 255).astype(np.uint8)
        return Sprite(rgba, paint, focal / _SUPER / DISTANCE_M, (foot[0] / _SUPER - x, foot[1] / _SUPER - y))

    def shadows(self, yaw_deg: float, lights: Iterable[int]) -> list[NDArray[np.uint8]]:
        """[S, S] darkness of the table a light, 255 darkest, over +- `reach_m` about the foot, up the picture = away."""
        vertices = self.mesh.vertices @ _turned(yaw_deg).T
        turn = cv2.getRotationMatrix2D((SHADOW_SIDE / 2 - 0.5, SHADOW_SIDE / 2 - 0.5), yaw_deg, 1)
        contact = cv2.warpAffine(self._contact, turn, (SHADOW_SIDE, SHADOW_SIDE))
        found = []
        for x, y, z in (LIGHTS[index] for index in lights):
            direct = self._fallen(vertices, [(x + 0.1, y + 0.03, z), (x - 0.03, y + 0.1, z), (x - 0.1, y - 0.03, z)])
            lit = (1 - 0.55 * cv2.GaussianBlur(direct, (3, 3), 0.8)) * (1 - 0.55 * cv2.GaussianBlur(contact, (3, 3), 0))
            found.append((255 * (1 - lit)).astype(np.uint8))
        return found

    def _fallen(
        self, vertices: NDArray[np.float32], directions: list[tuple[float, float, float]]
    ) -> NDArray[np.float32]:
        """Mean cover of the table when the mesh falls on it along every direction."""
        total = np.zeros((SHADOW_SIDE, SHADOW_SIDE), np.float32)
        for direction in directions:
            flat = vertices[:, :2] - vertices[:, 2:] * np.array([direction[:2]], np.float32) / direction[2]
            points = (flat * [1, -1] / self.reach_m + 1) * SHADOW_SIDE / 2
            depthless = np.concatenate([points, np.ones((len(points), 1))], 1).astype(np.float32)
            hits = rasterize(depthless, self.mesh.faces, SHADOW_SIDE)
            total.reshape(-1)[hits.pixel] += 1
        return total / np.float32(len(directions))


def _turned(yaw_deg: float) -> NDArray[np.float32]:
    c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def _facing(flat: NDArray[np.float32], smooth: NDArray[np.float32], to_eye: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth normals towards the eye; the face's own where they disagree (meshes come in either winding)."""
    own = flat / (np.sqrt(_dot(flat, flat)) + np.float32(1e-12))[:, None]
    own *= np.where(_dot(own, to_eye)[:, None] < 0, -1, 1)
    mean = smooth / (np.sqrt(_dot(smooth, smooth)) + np.float32(1e-9))[:, None]
    agree = _dot(mean, own)[:, None]
    return np.where(np.abs(agree) < 0.75, own, np.where(agree < 0, -mean, mean)).astype(np.float32)


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row."""
    product: NDArray[np.float32] = np.einsum("ij,ij->i", a, b)
    return product


def _mixed(
    values: NDArray[np.float32], corners: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Corner values weighted over each face: [P, k]."""
    return (
        values[corners[:, 0]] * weights[:, 0]
        + values[corners[:, 1]] * weights[:, 1]
        + values[corners[:, 2]] * weights[:, 2]
    )


class SpriteSet:
    """The sprites and shadows of one object, decoded when asked for."""

    def __init__(self, asset: Asset, path: Path) -> None:
        self.asset = asset
        with np.load(path) as saved:
            self._data, self._ends = saved["data"], saved["ends"]
            self._geometry = saved["geometry"]
            self.reach_m, self.height_m = (float(v) for v in saved["size"])

    @functools.cache  # noqa: B019 - the set lives as long as the process
    def sprite(self, elevation: int, yaw: int, light: int) -> Sprite:
        at = _VIEW_INDEX[elevation, yaw, light]
        stacked = self._picture(at, cv2.IMREAD_UNCHANGED)
        paint = None
        if self.asset.repaint:
            height = stacked.shape[0] // 2
            stacked, paint = stacked[:height], np.ascontiguousarray(stacked[height:, :, 0])
        px_per_m, foot_x, foot_y = (float(v) for v in self._geometry[at])
        return Sprite(np.ascontiguousarray(stacked[..., [2, 1, 0, 3]]), paint, px_per_m, (foot_x, foot_y))

    @functools.cache  # noqa: B019
    def shadow(self, yaw: int, light: int) -> NDArray[np.uint8]:
        return self._picture(len(VIEWS) + _SHADOW_VIEWS.index((yaw, light)), cv2.IMREAD_GRAYSCALE)

    def _picture(self, at: int, mode: int) -> NDArray[np.uint8]:
        start = self._ends[at - 1] if at else 0
        return np.asarray(cv2.imdecode(self._data[start : self._ends[at]], mode), np.uint8)


def _build(asset: Asset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    renderer = _Renderer(asset)
    blobs, geometry = [], []
    for (elevation, yaw), group in groupby(VIEWS, key=lambda view: view[:2]):
        for sprite in renderer.views(YAWS_DEG[yaw], ELEVATIONS_DEG[elevation], [light for _, _, light in group]):
            bgra = sprite.rgba[..., [2, 1, 0, 3]]
            if sprite.paint is not None:
                paint = np.repeat(sprite.paint[..., None], 4, 2)
                paint[..., 3] = 255
                bgra = np.concatenate([bgra, paint])
            blobs.append(cv2.imencode(".webp", bgra, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].ravel())
            geometry.append((sprite.px_per_m, *sprite.foot))
    for yaw, pairs in groupby(_SHADOW_VIEWS, key=lambda view: view[0]):
        shadows = renderer.shadows(YAWS_DEG[yaw], [light for _, light in pairs])
        blobs += [cv2.imencode(".png", shadow)[1].ravel() for shadow in shadows]
    size = (renderer.reach_m, float(renderer.high[2]))
    with whole_file(path, "wb") as stream:
        np.savez(
            stream, data=np.concatenate(blobs), ends=np.cumsum([len(b) for b in blobs]),
            geometry=np.array(geometry, np.float32), size=np.array(size),
        )  # fmt: skip


@functools.cache
def cache_folder() -> Path:
    """Where the sprites are kept: the user's cache, one folder per pack and way of drawing."""
    digest = hashlib.sha256((FOLDER / "pack.npz").read_bytes() + bytes([_VERSION]))
    return user_cache() / f"household-{digest.hexdigest()[:12]}"


def _path(asset: Asset) -> Path:
    return cache_folder() / f"{asset.key}.npz"


def build_sprites(*, solid: bool = False) -> None:
    """Draw what the cache lacks of every object's sprites: about three seconds an object, four minutes in all.

    Args:
        solid: those of the solids, too.
    """
    lacking = [asset for asset in (*assets(), *(solids() if solid else ())) if not _path(asset).is_file()]
    bar = ProgressBar("household sprites, once", sys.stderr if lacking else None, len(lacking))
    for number, asset in enumerate(lacking, 1):
        _build(asset, _path(asset))
        bar(number, len(lacking))


@functools.cache
def sprite_set(key: str) -> SpriteSet:
    """The sprites of an object, drawn at first use."""
    asset = next(asset for asset in (*assets(), *solids()) if asset.key == key)
    if not _path(asset).is_file():
        _build(asset, _path(asset))
    return SpriteSet(asset, _path(asset))
