"""queries: referring expressions about a scene, each with exactly one referent (or provably none), and its reasoning.

Knows nothing of prompts or tokens. Positions are compared by the centres of amodal outlines; every comparison keeps a
margin, so no expression hangs on a pixel. Objects that are hidden still count as rivals.

Reasoning, in one template: `[LANDMARK [box]. ]HEAD: 1 size colour shape [box]; 2 ... . target k`, candidates listed along
the axis that the expression uses, starting from the side it names. A negative lists its nearest rivals and ends in "none".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from egm_edge.grounding import Task
from egm_edge.synthetic.render import Layout, layout
from egm_edge.synthetic.sample import pick
from egm_edge.synthetic.scene import Scene, SceneObject
from egm_edge.synthetic.vocabulary import COLOURS, ORDINALS, SHAPES, SIZE_RANK

KINDS: tuple[str, ...] = ("attribute", "superlative", "ordinal", "relation", "negative")
MIN_VISIBLE = 0.30
WHOLLY_VISIBLE = 0.9
_AMODAL_SKIPPED = 0.5
GRID = 5
_AXIS_MARGIN = 0.05

Norm1000 = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Query:
    """One question about a scene and its answer.

    Attributes:
        expression: the referring text.
        task: modal or amodal.
        kind: one of KINDS.
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

    def matches(self, thing: SceneObject) -> bool:
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )

    @property
    def text(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    def members(self, scene: Scene) -> list[int]:
        return [i for i, thing in enumerate(scene.objects) if self.matches(thing)]


def grid(box: Norm1000) -> tuple[int, int, int, int]:
    """Round to the multiples of 5 that the answer is written in, inside 0-1000."""
    return tuple(min(1000, max(0, GRID * round(v / GRID))) for v in box)  # type: ignore[return-value]


def box_text(box: Norm1000) -> str:
    return "[" + ", ".join(str(v) for v in grid(box)) + "]"


def describe(thing: SceneObject) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}"


class _View:
    """A scene with its layout, seen for one task: boxes and centres in norm1000."""

    def __init__(self, scene: Scene, where: Layout, task: Task) -> None:
        self.scene, self.where, self.task = scene, where, task
        boxes = where.amodal if task is Task.AMODAL else where.modal
        self.boxes: list[Norm1000 | None] = [box.to_norm1000(*where.wh) if box else None for box in boxes]

    def box(self, index: int) -> Norm1000:
        return self.boxes[index] or self.where.amodal[index].to_norm1000(*self.where.wh)

    def askable(self, index: int) -> bool:
        return self.boxes[index] is not None and self.where.visible[index] >= MIN_VISIBLE

    def listed(self, members: list[int]) -> str:
        return "; ".join(
            f"{rank} {describe(self.scene.objects[i])} {box_text(self.box(i))}" for rank, i in enumerate(members, 1)
        )

    def answer(
        self, expression: str, kind: str, head: Head, members: list[int], target: int, landmark: str = ""
    ) -> Query:
        thing = self.scene.objects[target]
        thought = f"{landmark}{head.text}: {self.listed(members)}. target {members.index(target) + 1}"
        return Query(expression, self.task, kind, target, self.box(target), f"{thing.colour} {thing.shape}", thought)


def _heads_of(thing: SceneObject, rng: random.Random) -> list[Head]:
    """Noun phrases that fit an object, likelier ones first."""
    options = [
        Head(thing.shape, thing.colour), Head(thing.shape, thing.colour), Head(thing.shape), Head(thing.shape, None, thing.size),
        Head(thing.shape, thing.colour, thing.size), Head(None, thing.colour),
    ]  # fmt: skip
    start = int(rng.random() * len(options))
    return options[start:] + options[:start]


def _attribute(view: _View, target: int, rng: random.Random) -> Query | None:
    thing = view.scene.objects[target]
    for head in _heads_of(thing, rng):
        if head.size == "medium" or head.members(view.scene) != [target]:
            continue
        wider = Head(head.shape, head.colour)
        members = sorted(wider.members(view.scene), key=lambda i: view.scene.objects[i].x) if head.size else [target]
        if head.size and not all(view.askable(i) for i in members):
            continue
        return view.answer(head.text, "attribute", wider if head.size else head, members, target)
    return None


def _group(view: _View, target: int, rng: random.Random, smallest: int) -> tuple[Head, list[int]] | None:
    """A noun phrase shared by at least `smallest` well visible objects, left to right, the target among them."""
    thing = view.scene.objects[target]
    options = [Head(thing.shape), Head(thing.shape, thing.colour), Head(None, thing.colour), Head()]
    start = int(rng.random() * 3)
    for head in (*options[start:3], *options[:start], options[3]):
        members = head.members(view.scene)
        if smallest <= len(members) <= 5 and all(view.askable(i) for i in members):
            members.sort(key=lambda i: view.scene.objects[i].x)
            return head, members
    return None


def _apart(values: list[float]) -> bool:
    return all(b - a >= _AXIS_MARGIN for a, b in pairwise(values))


def _superlative(view: _View, target: int, rng: random.Random) -> Query | None:
    found = _group(view, target, rng, 2)
    if found is None:
        return None
    head, members = found
    things = view.scene.objects
    if rng.random() < 0.5:
        xs = [things[i].x for i in members]
        if not _apart(xs):
            return None
        if rng.random() < 0.5:
            return view.answer(f"leftmost {head.text}", "superlative", head, members, members[0])
        return view.answer(f"rightmost {head.text}", "superlative", head, members[::-1], members[-1])
    largest = rng.random() < 0.5
    ranks = [SIZE_RANK[things[i].size] * (1 if largest else -1) for i in members]
    if ranks.count(max(ranks)) != 1:
        return None
    winner = members[ranks.index(max(ranks))]
    return view.answer(f"{'largest' if largest else 'smallest'} {head.text}", "superlative", head, members, winner)


def _ordinal(view: _View, target: int, rng: random.Random) -> Query | None:
    found = _group(view, target, rng, 3) or _group(view, target, rng, 2)
    if found is None:
        return None
    head, members = found
    if not _apart([view.scene.objects[i].x for i in members]):
        return None
    side = pick(rng, ("left", "right"))
    ordered = members if side == "left" else members[::-1]
    return view.answer(
        f"{ORDINALS[ordered.index(target)]} {head.text} from the {side}", "ordinal", head, ordered, target
    )


_RELATIONS: dict[str, Callable[[SceneObject, SceneObject], float]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "in front of": lambda a, b: a.y - b.y,
    "behind": lambda a, b: b.y - a.y,
}


def _relation(view: _View, target: int, rng: random.Random) -> Query | None:
    found = _group(view, target, rng, 2)
    if found is None:
        return None
    head, members = found
    things = view.scene.objects
    marks = [i for i in range(len(things)) if i not in members and view.askable(i)]
    if not marks:
        return None
    mark = pick(rng, marks)
    mark_head = next((h for h in _heads_of(things[mark], rng) if not h.size and h.members(view.scene) == [mark]), None)
    if mark_head is None:
        return None
    start = int(rng.random() * len(_RELATIONS))
    names = list(_RELATIONS)
    for name in names[start:] + names[:start]:
        lead = {i: _RELATIONS[name](things[i], things[mark]) for i in members}
        if lead[target] >= _AXIS_MARGIN and all(v <= -0.02 for i, v in lead.items() if i != target):
            landmark = f"{describe(things[mark])} {box_text(view.box(mark))}. "
            return view.answer(f"{head.text} {name} the {mark_head.text}", "relation", head, members, target, landmark)
    return None


def _negative(view: _View, rng: random.Random) -> Query | None:
    """A colour and shape that do not occur together, each likely to be on the table by itself."""
    things = view.scene.objects
    near = rng.random() < 0.7
    for _ in range(12):
        shape = pick(rng, [t.shape for t in things]) if near and rng.random() < 0.6 else pick(rng, SHAPES)
        colour = pick(rng, [t.colour for t in things]) if near and rng.random() < 0.6 else pick(rng, tuple(COLOURS))
        head = Head(shape, colour) if rng.random() < 0.8 else Head(shape)
        if not head.members(view.scene):
            return Query(head.text, view.task, "negative", None, None, head.text, _rejection(view, head))
    return None


def _rejection(view: _View, head: Head) -> str:
    """The thought of a negative: the likeliest candidates as they really are, then "none".

    Naming what is there instead makes absence a comparison of words; "none" at once was not learned in an hour.
    """
    things = view.scene.objects
    seen = [i for i in range(len(things)) if view.askable(i)]
    rivals = [i for i in seen if things[i].shape == head.shape] or [i for i in seen if things[i].colour == head.colour]
    if not rivals:
        return f"{head.text}: none"
    rivals = sorted(rivals, key=lambda i: things[i].x)[:3]
    return f"{head.text}: {view.listed(rivals)}. target none"


_MAKERS = {"attribute": _attribute, "superlative": _superlative, "ordinal": _ordinal, "relation": _relation}


def sample_query(
    scene: Scene, where: Layout, rng: random.Random, *, kind: str | None = None, task: Task = Task.MODAL, tries: int = 8
) -> Query | None:
    """One query, or None when the scene does not offer one of this kind.

    Args:
        scene, where: the scene and its layout (any resolution of the picture's aspect ratio).
        rng: decides everything that is free.
        kind: one of KINDS, or None for attribute.
        task: modal or amodal; an amodal query prefers a target that is really occluded.
        tries: how many targets are tried.
    """
    view = _View(scene, where, task)
    if not scene.objects:
        return None
    if kind == "negative":
        return _dressed(_negative(view, rng), rng)
    targets = [i for i in range(len(scene.objects)) if view.askable(i)]
    hidden = [i for i in targets if where.visible[i] < WHOLLY_VISIBLE]
    if not targets:
        return None
    for _ in range(tries):
        pool = hidden if task is Task.AMODAL and hidden and rng.random() < 0.8 else targets
        query = _MAKERS[kind or "attribute"](view, pick(rng, pool), rng)
        if query is not None:
            return _dressed(query, rng)
    return None


def _dressed(query: Query | None, rng: random.Random) -> Query | None:
    """Put an article in front, mostly."""
    if query is None:
        return None
    roll = rng.random()
    article = "the " if roll < 0.68 else "The " if roll < 0.74 else ""
    return Query(
        article + query.expression,
        query.task,
        query.kind,
        query.target,
        query.box_norm1000,
        query.label,
        query.reasoning,
    )


def queries(
    scene: Scene,
    rng: random.Random,
    *,
    where: Layout | None = None,
    count: int = 3,
    weights: dict[str, float] | None = None,
    amodal: float = 0.25,
) -> list[Query]:
    """Up to `count` queries of mixed kinds about a scene.

    Args:
        scene: the scene.
        rng: decides kinds, targets and wording; only `rng.random()` is drawn.
        where: its layout; made at 640x480 when not given.
        count: how many to try for; fewer come back when the scene does not offer them.
        weights: relative frequency per kind; default mostly attributes.
        amodal: probability that a query asks for the whole object; half of that where nothing hides anything, so that at
            least 40 % of the amodal queries are really about a hidden part.
    """
    where = where or layout(scene, 640, 480)
    weights = weights or {"attribute": 0.45, "superlative": 0.17, "ordinal": 0.16, "relation": 0.15, "negative": 0.07}
    hides = any(MIN_VISIBLE <= visible < WHOLLY_VISIBLE for visible in where.visible)
    made: list[Query] = []
    for _ in range(count):
        roll, kind = rng.random() * sum(weights.values()), "attribute"
        for name, weight in weights.items():
            if roll < weight:
                kind = name
                break
            roll -= weight
        task = Task.AMODAL if rng.random() < amodal else Task.MODAL
        if task is Task.AMODAL and not hides and rng.random() < _AMODAL_SKIPPED:
            task = Task.MODAL
        query = sample_query(scene, where, rng, kind=kind, task=task) or sample_query(scene, where, rng, task=task)
        if query is not None and all((query.expression, query.task) != (q.expression, q.task) for q in made):
            made.append(query)
    return made
