"""How an answer probably goes on: pure functions of a cursor, the thought's boxes and the expression.

What they give is only ever checked against the model's choice (`propose`, `extend_thought`), or taken as it stands where the
thought was cut and the model is asked for the coordinates alone (`forced_choices`, `forced_ending`).
"""

from __future__ import annotations

from collections.abc import Sequence

from egm_edge.decoding.constrained.cursor import AnswerCursor
from egm_edge.decoding.constrained.fsm import State
from egm_edge.decoding.constrained.grammar import Kind
from egm_edge.decoding.constrained.thought_boxes import BoxTokens, ThoughtBoxes

MAX_LABEL_TOKENS = 64
LABEL_ENDS = ('"', "</ref>")
MAX_BOX_DRAFT_TOKENS = 16


def propose(cursor: AnswerCursor, boxes: ThoughtBoxes, expression: str) -> list[int]:
    """The tokens that probably come next, [] when nothing is known: constants, a box of the thought, the label."""
    draft = [*cursor.blanks, *cursor.constants_ahead]
    if cursor.place < 0 or cursor.slot >= len(cursor.template.slots):
        return draft
    kind = cursor.template.slots[cursor.slot]
    if kind is Kind.LABEL:
        label = _label(cursor, cursor.slot, expression, boxes.words_before(cursor.numbers))
        return label if cursor.inside else draft + label
    if cursor.inside:
        return _box(cursor, boxes, expression) or draft
    return draft if cursor.numbers else draft + _box(cursor, boxes, expression)


def extend_thought(draft: list[int], begin: AnswerCursor, boxes: ThoughtBoxes, expression: str) -> list[int]:
    """A draft of the thought that runs on into the answer, the thought's own box being what the answer says.

    Args:
        begin: where the answer will begin. boxes: of the thought before the draft.
    """
    frame = begin.piece(0)
    ends = (i for i in range(len(frame), len(draft) + 1) if tuple(draft[i - len(frame) : i]) == frame)
    end = next(ends, 0) if frame else 0
    if not end or begin.template.slots[0] is not Kind.NUMBER:
        return draft
    return draft[:end] + _box(begin, boxes.after(draft[:end]), expression)


def forced_choices(cursor: AnswerCursor, boxes: ThoughtBoxes, expression: str) -> list[int]:
    """Of a forced answer the tokens that may come next, one or two; [] where the model has more to choose from."""
    at, empty = len(cursor.tokens), cursor.template.empty
    ways = list(cursor.constants_ahead[:1])
    if not ways and cursor.at_slot(Kind.LABEL):
        ways = _label(cursor, cursor.slot, expression, boxes.words_before(cursor.numbers))[:1]
    if empty[:at] == cursor.tokens:
        ways += [token for token in empty[at : at + 1] if token not in ways]
    return ways if all(map(cursor.allows, ways)) else []


def forced_ending(cursor: AnswerCursor, expression: str, room: int) -> list[int]:
    """The rest of an answer whose box stands, as the template has it with the expression as its label; the shortest way out of
    the grammar where that does not fit into `room` tokens, or where `expression` is "": then without a label."""
    syntax, tokens, label = cursor.syntax, list(cursor.constants_ahead), cursor.syntax.encode(expression)
    labels = cursor.template.slots[cursor.slot + cursor.inside :]
    for place in range(cursor.slot + cursor.inside, len(cursor.template.slots)):
        tokens += [*label, *cursor.piece(place + 1)]
    whole = all(kind is Kind.LABEL for kind in labels) and len(label) <= MAX_LABEL_TOKENS
    if expression and whole and 0 < len(tokens) <= room and cursor.accepts(tokens):
        return tokens
    return syntax.encode((syntax.automaton.shortest_ending(cursor.state) or b"").decode())


def label_end(cursor: AnswerCursor) -> int | None:
    """The next token of the shortest way out of a label, None where there is none."""
    automaton = cursor.syntax.automaton
    for words in sorted((end[start:] for end in LABEL_ENDS for start in range(len(end))), key=len):
        state: State | None = cursor.state
        for byte in words.encode():
            state = automaton.advance(state, byte) if state is not None else None
        if state is not None and not automaton.in_text(state):
            token = cursor.syntax.encode(words)[0]
            if cursor.allows(token):
                return token
    return None


def _box(cursor: AnswerCursor, boxes: ThoughtBoxes, expression: str) -> list[int]:
    """The rest of a box of the thought that begins with the tokens written so far, and what the template has behind it."""
    numbers, slot = cursor.numbers, cursor.slot
    box = next((box for box in boxes.likely() if _begins(box, numbers)), None)
    if box is None:
        return []
    done = max(len(numbers), 1)
    draft = [*box[done - 1][len(numbers[-1]) if numbers else 0 :]]
    for number in [*box[done:], ()]:
        slot += 1
        draft += [*cursor.piece(slot), *number]
    if cursor.template.slots[slot:] == (Kind.LABEL,):
        draft += _label(cursor, slot, expression, boxes.words_before(box))
    return draft[:MAX_BOX_DRAFT_TOKENS]


def _begins(box: BoxTokens, numbers: Sequence[tuple[int, ...]]) -> bool:
    if not numbers:
        return True
    done = len(numbers) - 1
    return box[:done] == tuple(numbers[:done]) and box[done][: len(numbers[-1])] == numbers[-1]


def _label(cursor: AnswerCursor, slot: int, expression: str, words_before: list[str]) -> list[int]:
    """More of the label that this model probably writes, as far as it agrees with what stands of it, and what follows.

    Args:
        words_before: the box in the thought.
    """
    template, said = cursor.template, cursor.syntax.decode(cursor.label)
    repeated = words_before[-template.label_words :] if template.label_words else []
    likely = expression if template.label_is_expression else " ".join(repeated)
    source = likely or expression
    at = source.find(said)
    if at < 0 or not (said or likely):
        return []
    rest = source[at + len(said) :]
    if not likely:
        rest = " " + rest.split()[0] if rest.startswith(" ") and rest.split() else ""
    words = cursor.syntax.encode(rest)
    return [*words, *cursor.piece(slot + 1)][:MAX_BOX_DRAFT_TOKENS] if words or likely else []
