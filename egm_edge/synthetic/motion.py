"""motion: a moving tabletop, frame by frame, with the exact boxes of every object.

Knows nothing of trackers, camera drivers or ROS. Objects follow waypoints; the camera pans, rolls and zooms over a world
that is larger than its frame. `trajectories` draws such sequences from seeds.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.synthetic.render import expose, layout, outline_points, paint
from egm_edge.synthetic.scene import Scene, SceneObject, Surroundings

WORLD = 1.5
"""Side of the drawn world over side of the frame, where the camera moves."""


@dataclass(frozen=True, slots=True)
class Waypoint:
    """Where an object is at one moment; between two of them everything changes linearly.

    Attributes:
        at_s: seconds from the start.
        x, y: centre, 0-1 of frame width and height (as seen by a camera at rest).
        scale, turn_deg: as in `SceneObject`.
    """

    at_s: float
    x: float
    y: float
    scale: float
    turn_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class CameraPose:
    """Where the camera looks: `shift` (frame widths, heights) of the picture, zoom and clockwise roll of what is seen."""

    shift: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    roll_deg: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class MovingFrame:
    """One frame with its truth, in the order of the sequence's objects.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        modal: bounds of the visible pixels inside the frame, exact; None when nothing is visible.
        amodal: bounds of the whole object, exact to half a pixel; may leave the frame.
        visible: visible pixels / all pixels of the object, those outside the frame included, 0-1.
    """

    image: NDArray[np.uint8]
    modal: tuple[Box | None, ...]
    amodal: tuple[Box, ...]
    visible: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MovingScene:
    """A sequence: `frame(at_s, width_px, height_px)` for any moment.

    Attributes:
        scene: objects (at their first waypoint) and surroundings.
        paths: waypoints of every object, in the order of `scene.objects`.
        camera_path: moments and poses of the camera; empty for a camera at rest.
        gains: moments and exposure factors from then on.
        target: index of the object that the motion is about.
        motion: what moves, one of `trajectories.MOTIONS`.
        seconds: length.
    """

    scene: Scene
    paths: tuple[tuple[Waypoint, ...], ...]
    camera_path: tuple[tuple[float, CameraPose], ...]
    gains: tuple[tuple[float, float], ...]
    target: int
    motion: str
    seconds: float

    @property
    def expression(self) -> str:
        """Names the target; it fits no other object, except for "twins"."""
        thing = self.scene.objects[self.target]
        return f"the {thing.colour} {thing.shape}"

    def scene_at(self, at_s: float) -> Scene:
        """The objects at a moment, as a camera at rest sees them."""
        return replace(
            self.scene,
            objects=tuple(
                _moved(thing, path, at_s) for thing, path in zip(self.scene.objects, self.paths, strict=True)
            ),
        )

    def camera_at(self, at_s: float) -> CameraPose:
        if not self.camera_path:
            return CameraPose()
        moments = [moment for moment, _ in self.camera_path]
        before, after, part = _between_moments(moments, at_s)
        a, b = self.camera_path[before][1], self.camera_path[after][1]
        return CameraPose(
            (_mix(a.shift[0], b.shift[0], part), _mix(a.shift[1], b.shift[1], part)),
            _mix(a.zoom, b.zoom, part),
            _mix(a.roll_deg, b.roll_deg, part),
        )

    def frame(self, at_s: float, width_px: int, height_px: int) -> MovingFrame:
        """Draw the sequence at a moment.

        Args:
            at_s: seconds from the start; before it and after `seconds` everything stands still.
            width_px, height_px: of the picture; the aspect ratio should be the one it was sampled for.
        """
        scene = self.scene_at(at_s)
        if not self.camera_path:
            picture, where = paint(scene, width_px, height_px), layout(scene, width_px, height_px)
            to_frame, owner = np.eye(2, 3), where.owner
            whole = [_whole(thing, width_px, height_px) for thing in scene.objects]
        else:
            wide, high = round(WORLD * width_px), round(WORLD * height_px)
            world = _in_world(scene)
            to_frame = _view(self.camera_at(at_s), wide, high, width_px, height_px)
            picture = cv2.warpAffine(paint(world, wide, high), to_frame, (width_px, height_px)).astype(np.uint8)
            owner = cv2.warpAffine(
                layout(world, wide, high).owner, to_frame, (width_px, height_px), flags=cv2.INTER_NEAREST
            ).astype(np.uint8)
            whole = [_whole(thing, wide, high) for thing in world.objects]
        image = expose(picture, self._sensor(at_s))
        amodal, modal, visible = [], [], []
        for index, (points, area_px2) in enumerate(whole):
            placed = points @ to_frame[:, :2].T + to_frame[:, 2]
            low, high_xy = placed.min(0) + 0.5, placed.max(0) + 0.5
            amodal.append(Box(float(low[0]), float(low[1]), float(high_xy[0]), float(high_xy[1])))
            x, y, w, h = cv2.boundingRect((owner == index + 1).astype(np.uint8))
            modal.append(Box(float(x), float(y), float(x + w), float(y + h)) if w else None)
            seen = float(np.count_nonzero(owner == index + 1))
            area_px2 *= abs(float(np.linalg.det(to_frame[:, :2])))
            visible.append(min(1.0, seen / area_px2) if area_px2 else 0.0)
        return MovingFrame(image, tuple(modal), tuple(amodal), tuple(visible))

    def _sensor(self, at_s: float) -> Surroundings:
        """The surroundings' lens and sensor at a moment: fresh noise every millisecond, exposure as it steps."""
        look = self.scene.surroundings
        gain = 1.0
        for moment, factor in self.gains:
            gain = factor if at_s >= moment else gain
        noise_seed = (look.seed + 2_654_435_761 * (round(at_s * 1000) + 1)) % 2**31
        red, green, blue = look.gain
        return replace(look, seed=noise_seed, gain=(gain * red, gain * green, gain * blue))


def _mix(a: float, b: float, part: float) -> float:
    return a + (b - a) * part


def _between_moments(moments: list[float], at_s: float) -> tuple[int, int, float]:
    """Indices of the moments round `at_s` and how far it lies between them, 0-1."""
    after = min(max(bisect.bisect_right(moments, at_s), 1), len(moments) - 1)
    before = max(0, after - 1)
    span = moments[after] - moments[before]
    return before, after, min(1.0, max(0.0, (at_s - moments[before]) / span)) if span > 0 else 0.0


def _moved(thing: SceneObject, path: tuple[Waypoint, ...], at_s: float) -> SceneObject:
    before, after, part = _between_moments([point.at_s for point in path], at_s)
    a, b = path[before], path[after]
    return replace(
        thing,
        x=_mix(a.x, b.x, part),
        y=_mix(a.y, b.y, part),
        scale=_mix(a.scale, b.scale, part),
        turn_deg=_mix(a.turn_deg, b.turn_deg, part),
    )


def _in_world(scene: Scene) -> Scene:
    """The same scene on a canvas `WORLD` times as wide and high, with the frame in its middle."""
    look = scene.surroundings
    horizon = 0.5 + (look.horizon - 0.5) / WORLD if look.horizon else 0.0
    things = (
        replace(thing, x=0.5 + (thing.x - 0.5) / WORLD, y=0.5 + (thing.y - 0.5) / WORLD, scale=thing.scale / WORLD)
        for thing in scene.objects
    )
    return replace(scene, objects=tuple(things), surroundings=replace(look, horizon=horizon))


def _view(camera: CameraPose, wide: int, high: int, width_px: int, height_px: int) -> NDArray[np.float64]:
    """[2, 3] world pixels to frame pixels."""
    angle = math.radians(camera.roll_deg)
    cos, sin = camera.zoom * math.cos(angle), camera.zoom * math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([(wide - 1) / 2, (high - 1) / 2])
    target = np.array([(width_px - 1) / 2, (height_px - 1) / 2]) - np.array(camera.shift) * (width_px, height_px)
    return np.column_stack([turn, target - turn @ middle])


def _whole(thing: SceneObject, width_px: int, height_px: int) -> tuple[NDArray[np.float64], float]:
    """Corners of the whole object ([P, 2], pixels) and its area, pixels."""
    side = thing.scale * math.sqrt(width_px * height_px)
    return np.concatenate(outline_points(thing, width_px, height_px)), _unit_area(thing.shape) * side * side


@functools.cache
def _unit_area(shape: str) -> float:
    """Area of a shape's silhouette at side 1."""
    scene = Scene((SceneObject(shape, "red", "large", 0.5, 0.5, 0.5),), Surroundings())
    return float(np.count_nonzero(layout(scene, 1000, 1000).owner)) / 500**2
