"""Query, Head, View: a question about a scene, a noun phrase as a filter, and a scene seen for one task.

Knows nothing of prompts, tokens or pixels. Positions are compared by the centres of amodal outlines. A scene of either
world will do: anything whose objects have a shape (their noun), a colour, a size and a place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from egm_edge.grounding import Task
from egm_edge.synthetic.render import Layout

MIN_VISIBLE = 0.30
GRID = 5
AXIS_MARGIN = 0.05
BESIDE_MARGIN = 0.02

Norm1000 = tuple[float, float, float, float]


class Thing(Protocol):
    """What a question may speak of: `shape` is its noun, `colour` "" where no single word fits; x, y as in `SceneObject`."""

    @property
    def shape(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...


class World(Protocol):
    """A scene: its objects."""

    @property
    def objects(self) -> Sequence[Thing]: ...


@dataclass(frozen=True, slots=True)
class Query:
    """One question about a scene and its answer.

    Attributes:
        expression: the referring text.
        task: modal or amodal.
        kind: one of `queries.KINDS`.
        target: index into `scene.objects`, None for a negative.
        box_norm1000: xyxy, 0-1000 of width and height, unrounded; None for a negative.
        label: short noun phrase for the answer.
        reasoning: the thought that leads there.
    """

    expression: str
    task: Task
    kind: str
    target: int | None
    box_norm1000: Norm1000 | None
    label: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Head:
    """A noun phrase as a filter: None matches anything."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def matches(self, thing: Thing) -> bool:
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )

    @property
    def text(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    def members(self, scene: World) -> list[int]:
        return [i for i, thing in enumerate(scene.objects) if self.matches(thing)]


def grid(box: Norm1000) -> tuple[int, int, int, int]:
    """Round to the multiples of 5 that the answer is written in, inside 0-1000."""
    return tuple(min(1000, max(0, GRID * round(v / GRID))) for v in box)  # type: ignore[return-value]


def box_text(box: Norm1000) -> str:
    return "[" + ", ".join(str(v) for v in grid(box)) + "]"


def describe(thing: Thing) -> str:
    return " ".join(word for word in (thing.size, thing.colour, thing.shape) if word)


def label_of(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}".strip()


class View:
    """A scene with its layout, seen for one task: boxes in norm1000."""

    def __init__(self, scene: World, where: Layout, task: Task) -> None:
        self.scene, self.where, self.task = scene, where, task
        boxes = where.amodal if task is Task.AMODAL else where.modal
        self.boxes: list[Norm1000 | None] = [box.to_norm1000(*where.wh) if box else None for box in boxes]

    def box(self, index: int) -> Norm1000:
        return self.boxes[index] or self.where.amodal[index].to_norm1000(*self.where.wh)

    def askable(self, index: int) -> bool:
        return self.boxes[index] is not None and self.where.visible[index] >= MIN_VISIBLE

    @property
    def shown(self) -> list[int]:
        """Objects that are visible enough to be asked for."""
        return [i for i in range(len(self.scene.objects)) if self.askable(i)]

    def listed(self, members: list[int]) -> str:
        return "; ".join(
            f"{rank} {describe(self.scene.objects[i])} {box_text(self.box(i))}" for rank, i in enumerate(members, 1)
        )

    def found(self, head: Head, index: int) -> str:
        """The thought about a landmark that is there."""
        return f"{head.text}: {self.listed([index])}. "

    def group(self, target: int, rng: random.Random, smallest: int) -> tuple[Head, list[int]] | None:
        """A noun phrase shared by at least `smallest` well visible objects, left to right, the target among them."""
        thing = self.scene.objects[target]
        options = [Head(thing.shape), Head(thing.shape, thing.colour or None), Head(None, thing.colour or None), Head()]
        start = int(rng.random() * 3)
        for head in (*options[start:3], *options[:start], options[3]):
            members = head.members(self.scene)
            if smallest <= len(members) <= 5 and all(self.askable(i) for i in members):
                members.sort(key=lambda i: self.scene.objects[i].x)
                return head, members
        return None

    def landmark(self, rng: random.Random, spared: Sequence[int]) -> tuple[Head, int] | None:
        """A visible object outside `spared` with a noun phrase, without a size, that fits it alone."""
        marks = [i for i in self.shown if i not in spared]
        if not marks:
            return None
        mark = marks[int(rng.random() * len(marks))]
        for head in heads_of(self.scene.objects[mark], rng):
            if not head.size and head.members(self.scene) == [mark]:
                return head, mark
        return None


def heads_of(thing: Thing, rng: random.Random) -> list[Head]:
    """Noun phrases that fit an object, likelier ones first."""
    options = [
        Head(thing.shape, thing.colour or None), Head(thing.shape, thing.colour or None), Head(thing.shape),
        Head(thing.shape, None, thing.size), Head(thing.shape, thing.colour or None, thing.size),
        Head(None, thing.colour) if thing.colour else Head(thing.shape),
    ]  # fmt: skip
    start = int(rng.random() * len(options))
    return options[start:] + options[:start]


def apart(values: list[float]) -> bool:
    """Whether neighbours of a sorted list keep the margin."""
    return all(b - a >= AXIS_MARGIN for a, b in pairwise(values))


RELATIONS: dict[str, Callable[[Thing, Thing], float]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "in front of": lambda a, b: a.y - b.y,
    "behind": lambda a, b: b.y - a.y,
}
"""Relation -> how far a stands on that side of b."""
