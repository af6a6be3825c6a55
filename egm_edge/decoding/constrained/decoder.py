"""ConstrainedDecoder: holds one answer to its grammar.

Follows a reply token by token. In the thought it only observes (boxes named there tend to come back in the answer); in the
answer it restricts the choice of every token. Knows nothing of engines or clocks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from egm_edge.decoding.constrained import drafter
from egm_edge.decoding.constrained.cursor import AnswerCursor
from egm_edge.decoding.constrained.drafter import MAX_LABEL_TOKENS
from egm_edge.decoding.constrained.fsm import State
from egm_edge.decoding.constrained.grammar import AnswerSyntax, Kind
from egm_edge.decoding.constrained.thought_boxes import ThoughtBoxes
from egm_edge.decoding.sampler import Sampler
from egm_edge.decoding.uncertainty import NumberChoice, number_choice

BRIEF_LABEL_TOKENS = 16


class ConstrainedDecoder:
    """The grammar of one reply.

    Args:
        syntax: of the bundle.
        expression: what was asked for; labels repeat it.
        strict: hold every answer to the grammar; else only one that the clock or a token limit forces.
        chosen_box: as in `PromptSpec`.

    Attributes:
        cursor: where the answer is, None before it begins. answer_tokens: as the syntax's.
        choices: how sure the model was of every token of a coordinate, in order.
        forced_answer: the thought was cut or left out. The model is asked for the coordinates, and whether there are any;
            constant tokens are taken as they stand, and the expression as the label: a model that lost its thread would
            write it there.
    """

    def __init__(self, syntax: AnswerSyntax, expression: str, *, strict: bool = True, chosen_box: str = "") -> None:
        self.syntax, self.expression, self.strict = syntax, expression, strict
        self.cursor: AnswerCursor | None = None
        self.choices: list[NumberChoice] = []
        self.forced_answer = False
        self.answer_tokens = syntax.answer_tokens
        self._begin = AnswerCursor(syntax, syntax.template, syntax.automaton.start)
        self._boxes = ThoughtBoxes(syntax.tokens, chosen_box)

    @property
    def overlong(self) -> bool:
        """The label goes on and on; the box is there."""
        return self.cursor is not None and self.cursor.behind_box > self._most_label_tokens

    @property
    def _most_label_tokens(self) -> int:
        return BRIEF_LABEL_TOKENS if self.forced_answer else MAX_LABEL_TOKENS

    def start(self, written: bytes | None = None, *, may_think: bool = False) -> bool:
        """The answer begins, `written` being what the model's end of its thought already wrote of it, None where the thought
        was closed for it; False where that breaks the grammar."""
        state: State | None = self.syntax.start_or_thought if may_think else self.syntax.automaton.start
        for byte in written or b"":
            state = None if state is None else self.syntax.automaton.advance(state, byte)
        blanks = tuple(self.syntax.blanks_after_thought) if written == b"" else ()
        self.cursor = None if state is None else replace(self._begin, state=state, blanks=blanks)
        return state is not None

    def pause(self) -> None:
        """A thought begins after all."""
        self.cursor = None

    def observe_thought(self, token: int) -> None:
        """Hear a token of the thought."""
        self._boxes.add(token)

    def choose(self, cursor: AnswerCursor, logits: NDArray[np.float32], sampler: Sampler, stop_ids: frozenset[int]) -> int:
        """The answer's next token: the model's choice among those that the grammar allows.

        Args:
            logits: [V]. stop_ids: end tokens, allowed where the answer may end.
        """
        syntax, state = self.syntax, cursor.state
        long = len(cursor.label) > self._most_label_tokens and not cursor.box_complete
        if long and (closing := drafter.label_end(cursor)) is not None:
            token = closing  # a label before the box must leave room for the box
        elif ways := self.forced_choices():
            token = sampler(logits, ways.__contains__, lambda: np.array(ways, np.int64))
        elif self.forced_answer and cursor.at_slot(Kind.NUMBER):
            token = sampler(logits, lambda t: _goes_on_number(cursor, t), lambda: _going_on_number(cursor))
        elif syntax.automaton.accepts(state):
            ends = np.array(sorted(stop_ids), np.int64)
            token = sampler(
                logits,
                lambda t: t in stop_ids or cursor.allows(t),
                lambda: np.concatenate([syntax.allowed(state), ends]),
            )
        else:
            token = sampler(logits, cursor.allows, lambda: syntax.allowed(state))
        if syntax.automaton.in_number(state) and (choice := number_choice(logits, state, token, syntax.tokens)):
            self.choices.append(choice)
        return token

    def take(self, token: int) -> None:
        """Follow a token of the answer."""
        assert self.cursor is not None
        self.cursor = self.cursor.after(token)

    def forced_choices(self) -> list[int]:
        """Of a forced answer the tokens that may come next, one or two; [] where the model has more to choose from."""
        if not self.forced_answer or self.cursor is None:
            return []
        return drafter.forced_choices(self.cursor, self._boxes, self.expression)

    def ending(self, room: int) -> list[int]:
        """Tokens that end the answer from here without asking the model; the box must stand.

        Args:
            room: tokens that still fit; where the label does not, the answer ends without one.
        """
        assert self.cursor is not None
        return drafter.forced_ending(self.cursor, self.expression if self.forced_answer else "", room)

    def propose(self) -> list[int]:
        """The answer's tokens that probably come next, [] when nothing is known."""
        return [] if self.cursor is None else drafter.propose(self.cursor, self._boxes, self.expression)

    def extend(self, draft: list[int]) -> list[int]:
        """A draft of the thought, running on into the answer."""
        if self.cursor is not None:
            return draft
        return drafter.extend_thought(draft, self._begin, self._boxes, self.expression)

    def learn(self) -> None:
        """Remember how this answer was laid out, for the drafts of the next one."""
        cursor = self.cursor
        template = self.syntax.template_of(cursor.tokens) if cursor is not None else None
        if cursor is not None and template is not None:
            label = self.syntax.decode(cursor.label).split()
            heard = self._boxes.words_before(cursor.numbers)
            repeated = len(label) if label and heard[-len(label) :] == label else 0
            whole = label == self.expression.split()
            self.syntax.learn(replace(template, label_is_expression=whole, label_words=repeated))


def _goes_on_number(cursor: AnswerCursor, token: int) -> bool:
    """A digit, or what the template has behind the number."""
    if not cursor.allows(token):
        return False
    return token in cursor.syntax.tokens.digit_ids or token in cursor.piece(cursor.slot + 1)[:1]


def _going_on_number(cursor: AnswerCursor) -> NDArray[np.int64]:
    allowed = cursor.syntax.allowed(cursor.state)
    kept = np.array([token for token in allowed.tolist() if _goes_on_number(cursor, token)], np.int64)
    return kept if len(kept) else allowed
