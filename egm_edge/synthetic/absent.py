"""Expressions that nothing in a scene answers to, of every kind, each with the thought that says what is missing.

The thought names the likeliest candidates as they really are, then "none": absence becomes a comparison of words ("none" at
once was not learned in an hour). A word outside the vocabulary ends in "unknown word: none", whatever else was asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from egm_edge.synthetic.query import AXIS_MARGIN, RELATIONS, Head, Query, View, heads_of
from egm_edge.synthetic.sample import pick
from egm_edge.synthetic.vocabulary import ALL_COLOURS, COLOURS, NOUNS, ORDINALS, SHAPES
from egm_edge.synthetic.wording import strange_word

_SUPERLATIVES: tuple[str, ...] = ("leftmost", "rightmost", "largest", "smallest")
UNKNOWN_THOUGHT = "unknown word: none"


def _missing(view: View, rng: random.Random) -> Head | None:
    """A noun phrase that fits nothing here; its colour and its noun are each likely to be on the table by themselves."""
    things = view.scene.objects
    drawn = all(thing.shape in SHAPES for thing in things)
    nouns, palette = (SHAPES, tuple(COLOURS)) if drawn else (tuple(NOUNS), ALL_COLOURS)
    near = rng.random() < 0.7
    for _ in range(12):
        shape = pick(rng, [t.shape for t in things]) if near and rng.random() < 0.6 else pick(rng, nouns)
        seen = [t.colour for t in things if t.colour]
        colour = pick(rng, seen) if seen and near and rng.random() < 0.6 else pick(rng, palette)
        head = Head(shape, colour) if rng.random() < 0.8 else Head(shape)
        # a thing without a colour word may well be called red by somebody
        vague = any(t.shape == shape and not t.colour for t in things)
        if not vague and not head.members(view.scene):
            return head
    return None


def _rejection(view: View, head: Head) -> str:
    """What is there instead, then "none"."""
    things = view.scene.objects
    seen = view.shown
    rivals = [i for i in seen if head.shape and things[i].shape == head.shape]
    rivals = rivals or [i for i in seen if head.colour and things[i].colour == head.colour]
    if not rivals:
        return f"{head.text}: none"
    rivals = sorted(rivals, key=lambda i: things[i].x)[:3]
    return f"{head.text}: {view.listed(rivals)}. target none"


def _query(view: View, expression: str, kind: str, label: str, thought: str) -> Query:
    return Query(expression, view.task, kind, None, None, label, thought)


def _attribute(view: View, rng: random.Random) -> Query | None:
    """A colour and shape that do not occur together, or a colour alone that nothing has."""
    things = view.scene.objects
    if rng.random() < 0.15 and all(t.colour for t in things):
        colours = [c for c in COLOURS if all(t.colour != c for t in things)]
        head = Head(None, pick(rng, colours)) if colours else None
    else:
        head = _missing(view, rng)
    return _query(view, head.text, "negative", head.text, _rejection(view, head)) if head else None


def _superlative(view: View, rng: random.Random) -> Query | None:
    head = _missing(view, rng)
    if head is None:
        return None
    expression = f"{pick(rng, _SUPERLATIVES)} {head.text}"
    return _query(view, expression, "absent-superlative", head.text, _rejection(view, head))


def _ordinal(view: View, rng: random.Random) -> Query | None:
    """The third of two, or the second of what is not there."""
    side = pick(rng, ("left", "right"))
    shown = view.shown
    if shown and rng.random() < 0.5:
        found = view.group(pick(rng, shown), rng, 1)
        if found and found[0].text != "object" and len(found[1]) <= 4:
            head, members = found
            ordered = members if side == "left" else members[::-1]
            rank = len(members) if rng.random() < 0.75 else min(4, len(members) + 1)
            thought = f"{head.text}: {view.listed(ordered)}. target none"
            expression = f"{ORDINALS[rank]} {head.text} from the {side}"
            return _query(view, expression, "absent-ordinal", head.text, thought)
    missing = _missing(view, rng)
    if missing is None:
        return None
    expression = f"{pick(rng, ORDINALS[:3])} {missing.text} from the {side}"
    return _query(view, expression, "absent-ordinal", missing.text, _rejection(view, missing))


def _relation(view: View, rng: random.Random) -> Query | None:
    """The thing itself is not there, or what it is told by is not, or it stands on the other side."""
    shown = view.shown
    if len(shown) < 2:
        return None
    name, roll = pick(rng, tuple(RELATIONS)), rng.random()
    target = pick(rng, shown)
    if roll < 0.35:  # the landmark is missing
        mark_head, head = _missing(view, rng), heads_of(view.scene.objects[target], rng)[0]
        thought = _rejection(view, mark_head) if mark_head else ""
    elif roll < 0.7:  # the thing is missing
        landmark = view.landmark(rng, ())
        missing = _missing(view, rng)
        if landmark is None or missing is None:
            return None
        mark_head, head = landmark[0], missing
        thought = view.found(*landmark) + _rejection(view, head)
    else:  # both are there, but not so
        found = view.group(target, rng, 1)
        landmark = view.landmark(rng, found[1]) if found else None
        if found is None or landmark is None:
            return None
        (head, members), (mark_head, mark) = found, landmark
        things = view.scene.objects
        if any(RELATIONS[name](things[i], things[mark]) > -AXIS_MARGIN for i in members):
            return None
        thought = f"{view.found(mark_head, mark)}{head.text}: {view.listed(members)}. target none"
    if mark_head is None or mark_head == head:
        return None
    return _query(view, f"{head.text} {name} the {mark_head.text}", "absent-relation", head.text, thought)


def _mismatched(view: View, rng: random.Random) -> Query | None:
    """A question of another scene, in the forms that the other makers leave out: a thing of a size, a relation, two of them. The
    thing is not here, and its landmarks only by chance."""
    count = 1 + int(rng.random() * 3)
    chain = [head for head in (_missing(view, rng) for _ in range(count)) if head is not None]
    if len(set(chain)) < count:
        return None
    thought = _rejection(view, chain[-1])
    landmark = view.landmark(rng, ()) if count > 1 and rng.random() < 0.3 else None
    if landmark is not None:
        chain[-1] = landmark[0]
        thought = view.found(*landmark) + _rejection(view, chain[-2])
    size = pick(rng, ("small", "large")) if count == 1 or rng.random() < 0.3 else None
    if size and not Head(chain[0].shape).members(view.scene):  # of another size it would be half there
        chain[0] = Head(chain[0].shape, chain[0].colour if rng.random() < 0.5 else None, size)
    expression = chain[0].text
    for mark in chain[1:]:
        expression += f" {pick(rng, tuple(RELATIONS))} the {mark.text}"
    return _query(view, expression, "mismatched", chain[0].text, thought)


def _unknown(view: View, rng: random.Random) -> Query | None:
    """A word that nobody taught, as the noun, as its attribute, or in a landmark."""
    word = strange_word(rng)
    known = heads_of(pick(rng, list(view.scene.objects)), rng)[0]
    attributed = (f"{word} {strange_word(rng)}", f"{pick(rng, tuple(COLOURS))} {word}", f"{word} {known.text}")
    phrase = pick(rng, (word, word, word, *attributed))
    roll = rng.random()
    if roll < 0.5:
        expression = phrase
    elif roll < 0.6:
        expression = f"{pick(rng, _SUPERLATIVES)} {phrase}"
    elif roll < 0.7:
        expression = f"{pick(rng, ORDINALS[:3])} {phrase} from the {pick(rng, ('left', 'right'))}"
    else:
        pair = (phrase, known.text) if rng.random() < 0.5 else (known.text, phrase)
        expression = f"{pair[0]} {pick(rng, tuple(RELATIONS))} the {pair[1]}"
    return _query(view, expression, "unknown-word", phrase, UNKNOWN_THOUGHT)


MAKERS: dict[str, Callable[[View, random.Random], Query | None]] = {
    "negative": _attribute,
    "absent-superlative": _superlative,
    "absent-ordinal": _ordinal,
    "absent-relation": _relation,
    "mismatched": _mismatched,
    "unknown-word": _unknown,
}
"""Kind -> maker."""
