"""trajectories: a seed and a kind of motion become a `MovingScene`, the same on every machine. Knows nothing of pixels.

Only `random.Random.random()` is drawn from, as in `sample`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from egm_edge.errors import InputError
from egm_edge.synthetic.motion import CameraPose, MovingScene, Waypoint
from egm_edge.synthetic.sample import between, pick, sample_scene
from egm_edge.synthetic.scene import Scene, SceneObject

Path = tuple[Waypoint, ...]
CameraPath = tuple[tuple[float, CameraPose], ...]

OBJECTS = (2, 4)  # fewest and most, the target included
_TRIES = 40
_EDGE = 0.02


def sample_motion(
    seed: int,
    motion: str = "mixed",
    *,
    aspect: float = 4 / 3,
    seconds: float = 4.0,
) -> MovingScene:
    """Draw a sequence.

    Args:
        seed: any int; equal arguments give equal sequences.
        motion: one of MOTIONS.
        aspect: width / height of the frames it is meant for.
        seconds: length, at least 1.

    Raises:
        InputError: an unknown motion, or too short.
    """
    if motion not in _MAKERS:
        raise InputError(f"a motion out of {', '.join(MOTIONS)}", repr(motion), "name one of them")
    if not 1.0 <= seconds <= 3600.0:
        raise InputError("1 to 3600 seconds", repr(seconds), "choose another length")
    rng = random.Random(f"{seed} {motion}")
    scene = _scene_with_target(rng, aspect)
    return _MAKERS[motion](_Draft(scene, rng, aspect, seconds, motion))


def _scene_with_target(rng: random.Random, aspect: float) -> Scene:
    """A scene whose object 0 shares its name with no other."""
    for _ in range(_TRIES):
        scene = sample_scene(int(rng.random() * 2**31), OBJECTS, aspect=aspect, occlusion=0.0)
        names = [(thing.colour, thing.shape) for thing in scene.objects]
        if len(scene.objects) >= OBJECTS[0] and names.count(names[0]) == 1:
            return scene
    raise InputError(f"room for {OBJECTS[0]} objects", "none", "ask for fewer objects")


class _Draft:
    """A scene whose motion is being drawn; object 0 is the target."""

    def __init__(self, scene: Scene, rng: random.Random, aspect: float, seconds: float, motion: str) -> None:
        self.scene, self.rng, self.aspect, self.seconds, self.motion = scene, rng, aspect, seconds, motion

    @property
    def target(self) -> SceneObject:
        return self.scene.objects[0]

    def finish(
        self, paths: dict[int, Path], camera: CameraPath = (), gains: tuple[tuple[float, float], ...] = ()
    ) -> MovingScene:
        every = tuple(paths.get(i, (_at(thing, 0.0),)) for i, thing in enumerate(self.scene.objects))
        return MovingScene(self.scene, every, camera, gains, 0, self.motion, self.seconds)

    def wander(self, speed: tuple[float, float], legs_s: tuple[float, float], *, clear: bool) -> Path:
        """Waypoints of the target inside the frame.

        Args:
            speed: least and most, frame heights per second.
            legs_s: least and most time between two turns, seconds.
            clear: keep away from the other objects where the scene offers room.
        """
        best: tuple[int, Path] | None = None
        for _ in range(_TRIES):
            path = self._one_walk(speed, legs_s)
            hits = sum(self._touches(point) for point in _samples(path)) if clear else 0
            if best is None or hits < best[0]:
                best = (hits, path)
            if hits == 0:
                break
        assert best is not None
        return best[1]

    def _one_walk(self, speed: tuple[float, float], legs_s: tuple[float, float]) -> Path:
        thing, rng = self.target, self.rng
        points = [_at(thing, 0.0)]
        while points[-1].at_s < self.seconds:
            here, leg_s = points[-1], between(rng, *legs_s)
            length = between(rng, *speed) * leg_s
            for _ in range(_TRIES):
                heading = between(rng, 0, 2 * math.pi)
                x, y = here.x + length * math.cos(heading) / self.aspect, here.y + length * math.sin(heading)
                if _inside(replace(thing, x=x, y=y), self.aspect):
                    break
                length *= 0.9
            else:
                x, y = here.x, here.y
            points.append(Waypoint(here.at_s + leg_s, x, y, thing.scale))
        return tuple(points)

    def _touches(self, point: Waypoint) -> bool:
        mine = replace(self.target, x=point.x, y=point.y).outline(self.aspect)
        return any(_overlap(mine, other.outline(self.aspect)) for other in self.scene.objects[1:])

    def pan(self, strength: float) -> CameraPath:
        """A camera that changes its mind about once a second."""
        rng, points = self.rng, [(0.0, CameraPose())]
        while points[-1][0] < self.seconds:
            reach = 0.12 * strength
            pose = CameraPose(
                (between(rng, -reach, reach), between(rng, -reach, reach)),
                between(rng, 1 - 0.12 * strength, 1 + 0.2 * strength),
                between(rng, -8 * strength, 8 * strength),
            )
            points.append((points[-1][0] + between(rng, 0.6, 1.4), pose))
        return tuple(points)


def _at(thing: SceneObject, at_s: float) -> Waypoint:
    return Waypoint(at_s, thing.x, thing.y, thing.scale, thing.turn_deg)


def _samples(path: Path) -> list[Waypoint]:
    """Ten places on every leg."""
    found = []
    for a, b in pairwise(path):
        for step in range(10):
            part = step / 10
            found.append(Waypoint(0.0, a.x + (b.x - a.x) * part, a.y + (b.y - a.y) * part, a.scale))
    return found


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] + _EDGE and b[0] < a[2] + _EDGE and a[1] < b[3] + _EDGE and b[1] < a[3] + _EDGE


def _inside(thing: SceneObject, aspect: float) -> bool:
    x1, y1, x2, y2 = thing.outline(aspect)
    return x1 >= _EDGE and y1 >= _EDGE and x2 <= 1 - _EDGE and y2 <= 1 - _EDGE


def _slide(draft: _Draft) -> MovingScene:
    return draft.finish({0: draft.wander((0.12, 0.35), (1.5, 3.0), clear=True)})


def _swerve(draft: _Draft) -> MovingScene:
    return draft.finish({0: draft.wander((0.45, 0.9), (0.3, 0.7), clear=True)})


def _turn(draft: _Draft) -> MovingScene:
    rate = between(draft.rng, 40, 150) * pick(draft.rng, (-1.0, 1.0))
    path = draft.wander((0.0, 0.12), (1.5, 3.0), clear=True)
    return draft.finish({0: tuple(replace(point, turn_deg=rate * point.at_s) for point in path)})


def _approach(draft: _Draft) -> MovingScene:
    path = draft.wander((0.03, 0.15), (1.0, 2.0), clear=True)
    grown = [1.0]
    for _ in path[1:]:
        grown.append(min(1.7, max(0.6, grown[-1] * pick(draft.rng, (0.7, 1.4)))))
    return draft.finish({0: tuple(replace(p, scale=p.scale * k) for p, k in zip(path, grown, strict=True))})


def _pass(draft: _Draft) -> MovingScene:
    """Another object crosses in front: its bottom is lower, so it is nearer."""
    rng, target = draft.rng, draft.target
    other = draft.scene.objects[1]
    lowest = target.outline(draft.aspect)[3]
    half_high = other.outline(draft.aspect)[3] - other.y
    y = lowest + between(rng, 0.01, 0.05) - half_high
    passer = replace(other, x=-0.2, y=y)
    scene = replace(draft.scene, objects=(target, passer, *draft.scene.objects[2:]))
    crossing = _Draft(scene, rng, draft.aspect, draft.seconds, draft.motion)
    begin, length = between(rng, 0.2, 0.8), between(rng, 1.2, 2.4)
    from_x, to_x = pick(rng, ((-0.25, 1.25), (1.25, -0.25)))
    path = (Waypoint(begin, from_x, y, passer.scale), Waypoint(begin + length, to_x, y, passer.scale))
    return crossing.finish({1: path})


def _hide(draft: _Draft) -> MovingScene:
    """The target slides behind another object and comes out on the other side."""
    rng, target = draft.rng, draft.target
    blocker = replace(draft.scene.objects[1], x=between(rng, 0.42, 0.58), y=between(rng, 0.6, 0.7))
    lowest = blocker.outline(draft.aspect)[3]
    half_high = target.outline(draft.aspect)[3] - target.y
    y = lowest - between(rng, 0.03, 0.12) - half_high
    scene = replace(draft.scene, objects=(replace(target, y=y), blocker))
    hidden = _Draft(scene, rng, draft.aspect, draft.seconds, draft.motion)
    x1, x2 = pick(rng, ((0.14, 0.86), (0.86, 0.14)))
    path = (Waypoint(0.3, x1, y, target.scale), Waypoint(0.3 + between(rng, 2.2, 3.4), x2, y, target.scale))
    return hidden.finish({0: path})


def _twins(draft: _Draft) -> MovingScene:
    """The target slides closely past an object that looks the same."""
    rng, target = draft.rng, draft.target
    x1, _, x2, _ = target.outline(draft.aspect)
    gap = (x2 - x1) * between(rng, 1.1, 1.5)
    twin = replace(target, x=between(rng, 0.35, 0.65), y=0.5)
    y = 0.5 + pick(rng, (-1.0, 1.0)) * (target.outline(draft.aspect)[3] - target.y) * between(rng, 2.05, 2.3)
    scene = replace(draft.scene, objects=(replace(target, y=y), twin))
    start, end = pick(rng, ((-1.0, 1.0), (1.0, -1.0)))
    reach = max(0.3, gap)
    path = (
        Waypoint(0.2, twin.x + start * reach, y, target.scale),
        Waypoint(0.2 + between(rng, 1.5, 3.0), twin.x + end * reach, y, target.scale),
    )
    return _Draft(scene, rng, draft.aspect, draft.seconds, draft.motion).finish({0: path})


def _camera(draft: _Draft) -> MovingScene:
    return draft.finish({}, camera=draft.pan(1.0))


def _mixed(draft: _Draft) -> MovingScene:
    rng = draft.rng
    path = draft.wander((0.1, 0.3), (0.8, 2.0), clear=False)
    rate = between(rng, -40, 40)
    paths: dict[int, Path] = {0: tuple(replace(p, turn_deg=rate * p.at_s) for p in path)}
    for index, thing in enumerate(draft.scene.objects[1:], 1):
        drift = (between(rng, -0.08, 0.08), between(rng, -0.05, 0.05))
        end = Waypoint(
            draft.seconds, thing.x + drift[0] * draft.seconds, thing.y + drift[1] * draft.seconds, thing.scale
        )
        paths[index] = (_at(thing, 0.0), end)
    return draft.finish(paths, camera=draft.pan(0.5))


def _light(draft: _Draft) -> MovingScene:
    gains, moment = [], 0.0
    while moment < draft.seconds:
        moment += between(draft.rng, 0.4, 1.0)
        gains.append((moment, between(draft.rng, 0.6, 1.3)))
    return draft.finish({0: draft.wander((0.12, 0.3), (1.5, 3.0), clear=True)}, gains=tuple(gains))


def _leave(draft: _Draft) -> MovingScene:
    """Out of the frame by the nearer side, and it stays away."""
    target = draft.target
    out_x = -0.3 if target.x < 0.5 else 1.3
    leaves_s = between(draft.rng, 0.5, 1.5)
    away_s = leaves_s + abs(out_x - target.x) / between(draft.rng, 0.25, 0.5)
    return draft.finish({0: (_at(target, leaves_s), Waypoint(away_s, out_x, target.y, target.scale))})


_MAKERS: dict[str, Callable[[_Draft], MovingScene]] = {
    "slide": _slide,
    "swerve": _swerve,
    "turn": _turn,
    "approach": _approach,
    "pass": _pass,
    "hide": _hide,
    "twins": _twins,
    "camera": _camera,
    "mixed": _mixed,
    "light": _light,
    "leave": _leave,
}
MOTIONS: tuple[str, ...] = tuple(_MAKERS)
"""What moves: the target straight on; with sudden turns at high speed; about itself; nearer or farther; another object in
front of it; it behind another object; past an object of the same looks; only the camera; everything; a slide while the
light steps up and down; out of the frame."""
