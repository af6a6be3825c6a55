"""AnswerSyntax: the answers that a family writes, as a pattern over bytes and as tokens of one tokenizer.

Everything is derived from the tokenizer: a coordinate may be one token or one token a digit, a tag may be a special token or
plain text. `parsing.parse_answer` reads every text that these patterns accept, as FOUND or as NOT_FOUND.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge.decoding.constrained.fsm import (
    BOX_NUMBERS,
    MAX_SPACES,
    FiniteStateMachine,
    Part,
    State,
    either,
    literal,
    number,
    optional,
    sequence,
    spaces,
    text,
)
from egm_edge.decoding.constrained.token_bytes import SPECIAL, TokenBytes

END_OF_THOUGHT = "</think>"
START_OF_THOUGHT = "<think>"
CLOSE_THOUGHT = f"\n{END_OF_THOUGHT}\n\n"
MASKS_REMEMBERED = 512
STEPS_REMEMBERED = 8192
EXAMPLE_NUMBERS = (100, 200, 300, 400)  # each one token in vocabularies that have whole numbers


class Kind(Enum):
    """What a token of an answer is: part of its constant frame, of a coordinate, or of its label."""

    CONSTANT = "constant"
    NUMBER = "number"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class AnswerTemplate:
    """How an answer is laid out: its constant tokens, in pieces that numbers and label stand between.

    Attributes:
        pieces: constant tokens before the first slot, between slots, and after the last one.
        slots: what stands between them, one fewer.
        empty: the whole answer that says "nothing".
        label_is_expression: the label repeated the whole expression.
        label_words: the label repeated so many words that stood before its box in the thought.
    """

    pieces: tuple[tuple[int, ...], ...]
    slots: tuple[Kind, ...]
    empty: tuple[int, ...]
    label_is_expression: bool = True
    label_words: int = 0

    @property
    def frame(self) -> tuple[object, ...]:
        """What two layouts must share to be the same."""
        return self.pieces, self.slots


class AnswerSyntax:
    """The answer syntax of one bundle: of a family, in the tokens of a tokenizer.

    Args:
        name: `PromptSpec.answer_syntax`.
        tokenizer: of the bundle.

    Attributes:
        template: how this model lays its answers out: the family's usual layout until another one was seen twice running.
        close_thought: tokens that end a thought. blanks_after_thought: those behind the tag.
    """

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        pattern, example, empty = _SYNTAXES[name]
        self.tokens = TokenBytes(tokenizer)
        self.tokenizer = tokenizer
        self.automaton = FiniteStateMachine(pattern())
        self.start_or_thought = self.automaton.branch(self.automaton.start, literal(START_OF_THOUGHT.encode()))
        self.close_thought = self.encode(CLOSE_THOUGHT)
        self.blanks_after_thought = self.encode(CLOSE_THOUGHT.partition(END_OF_THOUGHT)[2])
        self._steps: dict[tuple[State, int], State | None] = {}
        self._masks: OrderedDict[State, NDArray[np.int64]] = OrderedDict()
        self.template = AnswerTemplate((), (), tuple(self.encode(empty)))
        self.template = self._seen = self.template_of(self.encode(example)) or self.template

    @property
    def box_tokens(self) -> int:
        """Tokens to the end of the last coordinate, at most."""
        numbers = [place for place, kind in enumerate(self.template.slots) if kind is Kind.NUMBER]
        return sum(map(len, self.template.pieces[: numbers[-1] + 1])) + BOX_NUMBERS * self.tokens.number_tokens

    @property
    def answer_tokens(self) -> int:
        """The most tokens that closing a thought and writing a box without a label take."""
        pieces = self.template.pieces
        constant = max(sum(map(len, pieces[:-1])), len(self.template.empty)) + len(pieces[-1])
        return len(self.close_thought) + constant + BOX_NUMBERS * self.tokens.number_tokens + MAX_SPACES

    def learn(self, seen: AnswerTemplate) -> None:
        """An answer was laid out so. One that differs may have been a whim; one that begins within a token of blanks and
        words fits behind no thought that was closed for the model."""
        if self.tokens.of[seen.pieces[0][0]][:1].isspace():
            return
        if seen.frame in (self.template.frame, self._seen.frame):
            self.template = seen
        self._seen = seen

    def encode(self, words: str) -> list[int]:
        return list(self.tokenizer.encode(words, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """What tokens of an answer write; an unfinished character is left out."""
        return b"".join(self.tokens.of[token] for token in tokens).decode(errors="ignore")

    def written(self, token: int) -> str:
        """What a token writes, as far as it is text."""
        found = self.tokens.of[token] if token < len(self.tokens.of) else b""
        return found.removeprefix(SPECIAL).decode(errors="replace")

    def step(self, state: State, token: int) -> State | None:
        """The state after a token; None where the syntax forbids it."""
        key = (state, token)
        if key in self._steps:
            return self._steps[key]
        written = self.tokens.of[token] if token < len(self.tokens.of) else b""
        found: State | None = state if written else None
        for byte in written:
            if found is None:
                break
            found = self.automaton.advance(found, byte)
        if len(self._steps) >= STEPS_REMEMBERED:
            self._steps.clear()
        self._steps[key] = found
        return found

    def allowed(self, state: State) -> NDArray[np.int64]:
        """Ids of the tokens that may come next, [n]."""
        if len(state.numbers) == BOX_NUMBERS:  # what follows a whole box does not depend on its numbers
            state = state._replace(numbers=(0,) * BOX_NUMBERS)
        if state not in self._masks:
            plain = not self.automaton.in_text(state)
            found = [*self._walk(self.tokens.index(plain=plain), state)]
            ids = np.array(found, np.int64)
            self._masks[state] = ids if plain else np.union1d(ids, self.tokens.plain)
            if len(self._masks) > MASKS_REMEMBERED:
                self._masks.popitem(last=False)
        self._masks.move_to_end(state)
        return self._masks[state]

    def kind(self, before: State, token: int, after: State) -> Kind:
        """What a token is that leads from one state to the next."""
        if self.tokens.of[token].isdigit() and (after.digits or len(after.numbers) > len(before.numbers)):
            return Kind.NUMBER
        both = self.automaton.in_text(before) and self.automaton.in_text(after)
        return Kind.LABEL if both else Kind.CONSTANT

    def template_of(self, tokens: Sequence[int]) -> AnswerTemplate | None:
        """The layout of a whole answer with a box, None of anything else."""
        state, last = self.automaton.start, Kind.CONSTANT
        pieces: list[list[int]] = [[]]
        slots: list[Kind] = []
        for token in tokens:
            after = self.step(state, token)
            if after is None:
                return None
            kind = self.kind(state, token, after)
            if kind is Kind.CONSTANT:
                pieces[-1].append(token)
            elif kind is not last:
                slots.append(kind)
                pieces.append([])
            state, last = after, kind
        if not self.automaton.accepts(state) or slots.count(Kind.NUMBER) != BOX_NUMBERS:
            return None
        return AnswerTemplate(tuple(map(tuple, pieces)), tuple(slots), self.template.empty)

    def _walk(self, index: Sequence[tuple[bytes, int]], state: State) -> list[int]:
        """Ids of the indexed tokens that the syntax allows, going down the sorted list byte by byte."""
        found: list[int] = []
        todo = [(state, 0, 0, len(index))]
        while todo:
            here, depth, low, high = todo.pop()
            while low < high and len(index[low][0]) == depth:
                if depth:
                    found.append(index[low][1])
                low += 1
            if low >= high:
                continue
            for byte in self._candidates(here, index, depth, low, high):
                prefix = index[low][0][:depth] + bytes([byte])
                first = bisect_left(index, (prefix, -1), low, high)
                if first == high or not index[first][0].startswith(prefix):
                    continue
                after = self.automaton.advance(here, byte)
                if after is not None:
                    last = bisect_left(index, (prefix + b"\xff\xff", -1), first, high) if byte < 0xFF else high
                    todo.append((after, depth + 1, first, last))
        return found

    def _candidates(
        self, state: State, index: Sequence[tuple[bytes, int]], depth: int, low: int, high: int
    ) -> Sequence[int]:
        """Bytes worth trying: those the state offers, or those the tokens offer where they are fewer."""
        if high - low < 16:
            return sorted({index[i][0][depth] for i in range(low, high)})
        return self.automaton.options(state)


def tag(words: str) -> Part:
    """A tag as plain text or as a special token."""
    return either(literal(words.encode()), literal(SPECIAL + words.encode()))


def _four_numbers() -> Part:
    comma = sequence(spaces(), literal(b","), spaces())
    return sequence(number(), comma, number(), comma, number(), comma, number())


def _json_pattern() -> Part:
    """`[{"bbox_2d": [x1, y1, x2, y2], "label": "…"}]`, fenced or not, label before, after or left out, or `[]`."""
    blank, colon = spaces(), sequence(spaces(), literal(b":"), spaces())
    comma = sequence(spaces(), literal(b","), spaces())
    box = sequence(literal(b'"bbox_2d"'), colon, literal(b"["), blank, _four_numbers(), blank, literal(b"]"))
    label = sequence(literal(b'"label"'), colon, literal(b'"'), text(b'"', b"\\"), literal(b'"'))
    entry = sequence(
        literal(b"{"),
        blank,
        either(sequence(box, optional(sequence(comma, label))), sequence(label, comma, box)),
        blank,
        literal(b"}"),
    )
    listed = either(sequence(literal(b"["), blank, entry, blank, literal(b"]")), literal(b"[]"))
    body = either(listed, entry)
    fenced = sequence(literal(b"```json"), blank, body, blank, literal(b"```"))
    return sequence(blank, either(fenced, body))


def _tag_pattern() -> Part:
    """`<ref>…</ref><box>[x1, y1, x2, y2]</box>`, wrapped in `<answer>` or not, reference left out or not, or an empty box."""
    blank = spaces()
    reference = optional(sequence(tag("<ref>"), text(b"<"), tag("</ref>"), blank))
    four = sequence(blank, _four_numbers(), blank)
    boxed = either(
        sequence(literal(b"[["), four, literal(b"]]")), sequence(literal(b"["), four, literal(b"]")), literal(b"[]"),
        literal(b""),
    )  # fmt: skip
    bare = sequence(reference, tag("<box>"), boxed, tag("</box>"))
    return sequence(blank, either(sequence(tag("<answer>"), blank, bare, blank, tag("</answer>")), bare))


_EXAMPLE = ", ".join(map(str, EXAMPLE_NUMBERS))
_SYNTAXES: dict[str, tuple[Callable[[], Part], str, str]] = {
    "bbox_2d_json": (
        _json_pattern,
        f'```json\n[{{"bbox_2d": [{_EXAMPLE}], "label": "object"}}]\n```',
        "```json\n[]\n```",
    ),
    "ref_box": (
        _tag_pattern,
        f"<answer><ref>object</ref><box>[{_EXAMPLE}]</box></answer>",
        "<answer><box></box></answer>",
    ),
}
