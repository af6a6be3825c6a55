"""queries: referring expressions about a scene, each with exactly one referent (or provably none), and its reasoning.

Knows nothing of prompts or tokens. Every comparison keeps a margin, so no expression hangs on a pixel. Objects that are
hidden still count as rivals.

Reasoning, in one template: `LANDMARK: 1 size colour shape [box]. HEAD: 1 size colour shape [box]; 2 ... . target k`,
candidates listed along the axis that the expression uses, starting from the side it names. What is not there lists its
nearest rivals and ends in "none" (`absent`).
"""

from __future__ import annotations

import random
from dataclasses import replace

from egm_edge.grounding import Task
from egm_edge.synthetic import absent
from egm_edge.synthetic.query import (
    AXIS_MARGIN,
    BESIDE_MARGIN,
    MIN_VISIBLE,
    RELATIONS,
    Head,
    Query,
    View,
    World,
    apart,
    box_text,
    describe,
    grid,
    heads_of,
    label_of,
)  # fmt: skip
from egm_edge.synthetic.render import Layout, layout
from egm_edge.synthetic.sample import pick
from egm_edge.synthetic.vocabulary import ORDINALS, SIZE_RANK
from egm_edge.synthetic.wording import reworded

POSITIVE_KINDS: tuple[str, ...] = ("attribute", "superlative", "ordinal", "relation", "two-step")
KINDS: tuple[str, ...] = (*POSITIVE_KINDS, *absent.MAKERS)
WHOLLY_VISIBLE = 0.9
_AMODAL_SKIPPED = 0.5
_TRIES = 8  # targets
__all__ = ["KINDS", "POSITIVE_KINDS", "Head", "Query", "box_text", "describe", "grid", "queries", "sample_query"]


def _answer(
    view: View, expression: str, kind: str, head: Head, members: list[int], target: int, landmark: str = ""
) -> Query:
    thought = f"{landmark}{head.text}: {view.listed(members)}. target {members.index(target) + 1}"
    label = label_of(view.scene.objects[target])
    return Query(expression, view.task, kind, target, view.box(target), label, thought)


def _attribute(view: View, target: int, rng: random.Random) -> Query | None:
    thing = view.scene.objects[target]
    for head in heads_of(thing, rng):
        if head.size == "medium" or head.members(view.scene) != [target]:
            continue
        wider = Head(head.shape, head.colour)
        members = sorted(wider.members(view.scene), key=lambda i: view.scene.objects[i].x) if head.size else [target]
        if head.size and not all(view.askable(i) for i in members):
            continue
        return _answer(view, head.text, "attribute", wider if head.size else head, members, target)
    return None


def _superlative(view: View, target: int, rng: random.Random) -> Query | None:
    found = view.group(target, rng, 2)
    if found is None:
        return None
    head, members = found
    things = view.scene.objects
    if rng.random() < 0.5:
        xs = [things[i].x for i in members]
        if not apart(xs):
            return None
        if rng.random() < 0.5:
            return _answer(view, f"leftmost {head.text}", "superlative", head, members, members[0])
        return _answer(view, f"rightmost {head.text}", "superlative", head, members[::-1], members[-1])
    largest = rng.random() < 0.5
    ranks = [SIZE_RANK[things[i].size] * (1 if largest else -1) for i in members]
    if ranks.count(max(ranks)) != 1:
        return None
    winner = members[ranks.index(max(ranks))]
    return _answer(view, f"{'largest' if largest else 'smallest'} {head.text}", "superlative", head, members, winner)


def _ordinal(view: View, target: int, rng: random.Random) -> Query | None:
    found = view.group(target, rng, 3) or view.group(target, rng, 2)
    if found is None:
        return None
    head, members = found
    if not apart([view.scene.objects[i].x for i in members]):
        return None
    side = pick(rng, ("left", "right"))
    ordered = members if side == "left" else members[::-1]
    expression = f"{ORDINALS[ordered.index(target)]} {head.text} from the {side}"
    return _answer(view, expression, "ordinal", head, ordered, target)


def _relations(rng: random.Random) -> list[str]:
    start = int(rng.random() * len(RELATIONS))
    names = list(RELATIONS)
    return names[start:] + names[:start]


def _singled_out(view: View, members: list[int], target: int, mark: int, rng: random.Random) -> str | None:
    """A relation to `mark` in which the target, and clearly none of the other members, stands."""
    things = view.scene.objects
    for name in _relations(rng):
        lead = {i: RELATIONS[name](things[i], things[mark]) for i in members}
        if lead[target] >= AXIS_MARGIN and all(v <= -BESIDE_MARGIN for i, v in lead.items() if i != target):
            return name
    return None


def _relation(view: View, target: int, rng: random.Random) -> Query | None:
    found = view.group(target, rng, 2)
    if found is None:
        return None
    head, members = found
    landmark = view.landmark(rng, members)
    if landmark is None:
        return None
    mark_head, mark = landmark
    name = _singled_out(view, members, target, mark, rng)
    if name is None:
        return None
    thought = view.found(mark_head, mark)
    return _answer(view, f"{head.text} {name} the {mark_head.text}", "relation", head, members, target, thought)


def _two_step(view: View, target: int, rng: random.Random) -> Query | None:
    """ "the mug behind the bottle left of the book": the landmark is itself told by a relation."""
    found = view.group(target, rng, 1)
    if found is None:
        return None
    head, members = found
    middles = [i for i in view.shown if i not in members]
    if not middles:
        return None
    middle = pick(rng, middles)
    thing = view.scene.objects[middle]
    middle_head = Head(thing.shape)
    rivals = sorted(middle_head.members(view.scene), key=lambda i: view.scene.objects[i].x)
    if set(rivals) & set(members) or not all(view.askable(i) for i in rivals):
        return None
    last = view.landmark(rng, [*members, *rivals])
    if last is None:
        return None
    last_head, mark = last
    inner = _singled_out(view, rivals, middle, mark, rng)
    outer = _singled_out(view, members, target, middle, rng)
    if inner is None or outer is None:
        return None
    expression = f"{head.text} {outer} the {middle_head.text} {inner} the {last_head.text}"
    thought = f"{view.found(last_head, mark)}{middle_head.text}: {view.listed([middle])}. "
    return _answer(view, expression, "two-step", head, members, target, thought)


_MAKERS = {
    "attribute": _attribute, "superlative": _superlative, "ordinal": _ordinal, "relation": _relation, "two-step": _two_step,
}  # fmt: skip


def sample_query(
    scene: World,
    where: Layout,
    rng: random.Random,
    *,
    kind: str | None = None,
    task: Task = Task.MODAL,
    variety: float = 0.0,
) -> Query | None:
    """One query, or None when the scene does not offer one of this kind.

    Args:
        scene, where: the scene and its layout (any resolution of the picture's aspect ratio).
        rng: decides everything that is free.
        kind: one of KINDS, or None for attribute.
        task: modal or amodal; an amodal query prefers a target that is really occluded.
        variety: probability that the expression is worded in another way than the plain one.
    """
    view = View(scene, where, task)
    if not scene.objects:
        return None
    if kind in absent.MAKERS:
        return _dressed(absent.MAKERS[kind](view, rng), rng, variety)
    targets = view.shown
    hidden = [i for i in targets if where.visible[i] < WHOLLY_VISIBLE]
    if not targets:
        return None
    for _ in range(_TRIES):
        pool = hidden if task is Task.AMODAL and hidden and rng.random() < 0.8 else targets
        query = _MAKERS[kind or "attribute"](view, pick(rng, pool), rng)
        if query is not None:
            return _dressed(query, rng, variety)
    return None


def _dressed(query: Query | None, rng: random.Random, variety: float) -> Query | None:
    """Put an article in front, mostly."""
    if query is None:
        return None
    roll = rng.random()
    expression = ("the " if roll < 0.68 else "The " if roll < 0.74 else "") + query.expression
    if variety and rng.random() < variety:
        expression = reworded(expression, rng)
    if variety and rng.random() < 0.1 * variety:
        expression = expression[:1].upper() + expression[1:]
    return replace(query, expression=expression)


def queries(
    scene: World,
    rng: random.Random,
    *,
    where: Layout | None = None,
    count: int = 3,
    weights: dict[str, float] | None = None,
    amodal: float = 0.25,
    variety: float = 0.0,
) -> list[Query]:
    """Up to `count` queries of mixed kinds about a scene.

    Args:
        scene: the scene.
        rng: decides kinds, targets and wording; only `rng.random()` is drawn.
        where: its layout; made at 640x480 when not given (drawn scenes only).
        count: how many to try for; fewer come back when the scene does not offer them.
        weights: relative frequency per kind; default mostly attributes.
        amodal: probability that a query asks for the whole object; half of that where nothing hides anything, so that at
            least 40 % of the amodal queries are really about a hidden part.
        variety: as in `sample_query`.
    """
    where = where or layout(scene, 640, 480)  # type: ignore[arg-type]
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
        query = sample_query(scene, where, rng, kind=kind, task=task, variety=variety) or sample_query(
            scene, where, rng, task=task, variety=variety
        )
        if query is not None and all((query.expression, query.task) != (q.expression, q.task) for q in made):
            made.append(query)
    return made
