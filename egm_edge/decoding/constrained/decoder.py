"""ConstrainedDecoder: holds one answer to its syntax and says how it will probably go on.

Follows a reply token by token. In the thought it only listens (boxes named there tend to come back in the answer); in the
answer it restricts the choice of every token and drafts what comes next: the constant frame, a box of the thought, the label.
Knows nothing of engines or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from egm_edge.decoding.constrained.fsm import BOX_NUMBERS, MAX_SPACES, NUMBER_MAX, State, fits
from egm_edge.decoding.constrained.grammar import AnswerSyntax, AnswerTemplate, Kind
from egm_edge.decoding.constrained.thought_boxes import BoxTokens, ThoughtBoxes
from egm_edge.decoding.sampler import Sampler
from egm_edge.decoding.uncertainty import NumberChoice, number_choice

MAX_LABEL_TOKENS, BRIEF_LABEL_TOKENS = 64, 16
LABEL_ENDS = ('"', "</ref>")
MAX_BOX_DRAFT_TOKENS = 16


class ConstrainedDecoder:
    """The syntax of one reply.

    Args:
        syntax: of the bundle.
        expression: what was asked for; labels repeat it.
        strict: hold every answer to the syntax; else only one that the clock or a token limit forces.

    Attributes:
        state: where the answer is, None before it begins.
        choices: how sure the model was of every token of a coordinate, in order.
        forced_answer: the thought was cut or left out. The model is asked for the coordinates, and whether there are any;
            constant tokens are taken as they stand, and the expression as the label: a model that lost its thread would
            write it there.
    """

    def __init__(self, syntax: AnswerSyntax, expression: str, *, strict: bool = True) -> None:
        self.syntax, self.expression, self.strict = syntax, expression, strict
        self.state: State | None = None
        self.choices: list[NumberChoice] = []
        self.forced_answer = False
        self._layout: AnswerTemplate = syntax.layout
        self._answer: list[int] = []
        self._slot, self._in_slot, self._at = 0, False, 0  # place in the layout; _at < 0 once the answer left it
        self._blanks: list[int] = []  # expected before the answer
        self._label: list[int] = []
        self._number: list[tuple[int, ...]] = []
        self._after_box = 0
        self._heard = ThoughtBoxes(syntax.tokens)

    @property
    def finished(self) -> bool:
        """The answer is whole: nothing but the end may follow."""
        return self.state is not None and self.syntax.automaton.ends(self.state)

    @property
    def box_complete(self) -> bool:
        """Four numbers stand, so the answer can be ended without the model."""
        return self.state is not None and (len(self.state.numbers) == BOX_NUMBERS or self._after_last_digit(self.state))

    @property
    def box_certain(self) -> bool:
        """Four numbers stand, and the fourth one has no more digits."""
        state = self.state
        return state is not None and (
            len(state.numbers) == BOX_NUMBERS or (self._after_last_digit(state) and self._number_is_over(state))
        )

    @property
    def overlong(self) -> bool:
        """The label goes on and on; the box is there."""
        return self._after_box > self._most_label_tokens

    @property
    def _most_label_tokens(self) -> int:
        return BRIEF_LABEL_TOKENS if self.forced_answer else MAX_LABEL_TOKENS

    @cached_property
    def answer_tokens(self) -> int:
        """The most tokens that closing the thought and writing a box without a label take."""
        constant = max(sum(map(len, self._layout.pieces[:-1])), len(self._layout.empty))
        digits = 1 if self.syntax.tokens.whole_numbers else len(str(NUMBER_MAX))
        return (
            len(self.syntax.close_thought) + constant + BOX_NUMBERS * digits + len(self._layout.pieces[-1]) + MAX_SPACES
        )

    def start(self, written: bytes | None = None, *, may_think: bool = False) -> bool:
        """The answer begins, `written` being what the model's end of its thought already wrote of it, None where the thought
        was closed for it; False where that breaks the syntax."""
        self._blanks = [] if written is None or written else self.syntax.blanks_after_thought
        state: State | None = self.syntax.start_or_thought if may_think else self.syntax.automaton.start
        for byte in written or b"":
            if state is None:
                return False
            state = self.syntax.automaton.advance(state, byte)
        self.state = state
        return state is not None

    def pause(self) -> None:
        """A thought begins after all."""
        self.state = None

    def observe_thought(self, token: int) -> None:
        """Hear a token of the thought."""
        self._heard.add(token)

    def allows(self, token: int) -> bool:
        return self.state is not None and self.syntax.step(self.state, token) is not None

    def choose(self, logits: NDArray[np.float32], pick: Sampler, stop_ids: frozenset[int]) -> int:
        """The answer's next token: the model's choice among those that the syntax allows.

        Args:
            logits: [V]. stop_ids: end tokens, allowed where the answer may end.
        """
        assert self.state is not None
        state = self.state
        if len(self._label) > self._most_label_tokens and not self.box_complete and (closing := self._label_end()) is not None:
            token = closing  # a label before the box must leave room for the box
        elif ways := self.planned():
            token = pick(logits, ways.__contains__, lambda: np.array(ways, np.int64))
        elif self.forced_answer and self._at_slot(Kind.NUMBER):
            token = pick(logits, self._goes_on_number, lambda: self._filtered(self.syntax.allowed(state)))
        elif self.syntax.automaton.accepts(state):
            ends = np.array(sorted(stop_ids), np.int64)
            token = pick(
                logits,
                lambda t: t in stop_ids or self.allows(t),
                lambda: np.concatenate([self.syntax.allowed(state), ends]),
            )
        else:
            token = pick(logits, self.allows, lambda: self.syntax.allowed(state))
        if self.syntax.automaton.in_number(state):
            choice = number_choice(logits, state, token, self.syntax.tokens)
            self.choices += [choice] if choice else []
        return token

    def take(self, token: int) -> None:
        """Follow a token of the answer."""
        assert self.state is not None
        after = self.syntax.step(self.state, token)
        if after is None:
            return
        if not self._answer and not self.syntax.tokens.of[token].strip():
            self.state, self._blanks = after, []  # no part of a layout: a closed thought brings them
            return
        kind = self.syntax.kind(self.state, token, after)
        self._follow_layout(kind, token, new_number=kind is Kind.NUMBER and not self.state.digits)
        if kind is Kind.LABEL:
            self._label.append(token)
        self._answer.append(token)
        self._after_box += len(self.state.numbers) == BOX_NUMBERS
        self.state = after

    def planned(self) -> list[int]:
        """Of a forced_answer answer the tokens that may come next, one or two; [] where the model has more to choose from."""
        if not self.forced_answer or self.state is None:
            return []
        at, empty = len(self._answer), self._layout.empty
        ways = self._constant_ahead()[:1]
        if not ways and self._at_slot(Kind.LABEL):
            ways = self._label_draft(self._slot)[:1]
        if empty[:at] == tuple(self._answer):
            ways += [token for token in empty[at : at + 1] if token not in ways]
        return ways if all(self.allows(token) for token in ways) else []

    def ending(self, room: int) -> list[int]:
        """Tokens that end the answer from here without asking the model; the box must stand.

        Args:
            room: tokens that still fit; where the label does not, the answer ends without one.
        """
        assert self.state is not None
        if self.forced_answer and len(rest := self._rest_of_layout()) <= room and rest:
            return rest
        words = self.syntax.automaton.shortest_ending(self.state)
        return self.syntax.encode((words or b"").decode())

    def learn(self) -> None:
        """Remember how this answer was laid out, for the drafts of the next one."""
        layout = self.syntax.layout_of(self._answer)
        if layout is not None:
            label = self._decoded(self._label).split()
            heard = self._heard.words_before(tuple(self._number))
            repeated = len(label) if label and heard[-len(label) :] == label else 0
            whole = label == self.expression.split()
            self.syntax.learn(replace(layout, label_is_expression=whole, label_words=repeated))

    def propose(self) -> list[int]:
        """The tokens that probably come next, [] when nothing is known."""
        if self.state is None:
            return []
        draft = [*self._blanks, *self._constant_ahead()]
        if self._at < 0 or self._slot >= len(self._layout.slots):
            return draft
        kind = self._layout.slots[self._slot]
        if self._in_slot:
            return self._label_draft(self._slot) if kind is Kind.LABEL else self._box_draft() or draft
        return draft + self._slot_draft(kind)

    def with_box(self, draft: list[int]) -> list[int]:
        """A draft of the thought that runs on into the answer, the thought's own box being what the answer says."""
        frame = self._piece(0)
        ends = (i for i in range(len(frame), len(draft) + 1) if tuple(draft[i - len(frame) : i]) == frame)
        end = next(ends, 0) if self.state is None and frame else 0
        if not end or self._layout.slots[0] is not Kind.NUMBER:
            return draft
        return draft[:end] + self._box_draft(self._heard.after(draft[:end]))

    def _follow_layout(self, kind: Kind, token: int, *, new_number: bool) -> None:
        if kind is Kind.CONSTANT:
            if self._in_slot:
                self._slot, self._in_slot, self._at = self._slot + 1, False, 0
            piece = self._piece(self._slot)
            on_track = 0 <= self._at < len(piece) and piece[self._at] == token
            self._at = self._at + 1 if on_track else -1
            return
        if kind is Kind.NUMBER:
            if new_number:
                self._number.append(())
            self._number[-1] += (token,)
        expected = self._layout.slots[self._slot] if self._slot < len(self._layout.slots) else Kind.CONSTANT
        self._in_slot = True
        self._at = 0 if kind is expected else -1

    def _constant_ahead(self) -> list[int]:
        """The constant tokens that the layout has next, where they are certain to come next if it is kept."""
        if self._at < 0 or self.state is None:
            return []
        if not self._in_slot:
            return list(self._piece(self._slot)[self._at :])
        if self.state.digits and self._number_is_over(self.state):
            return list(self._piece(self._slot + 1))
        return []

    def _number_is_over(self, state: State) -> bool:
        more = any(fits(state.digits + digit, state.numbers) for digit in "0123456789")
        return self.syntax.tokens.whole_numbers or not more

    def _after_last_digit(self, state: State) -> bool:
        left = self.syntax.automaton.leave_number(state) if state.digits else None
        return left is not None and len(left.numbers) == BOX_NUMBERS

    def _slot_draft(self, kind: Kind) -> list[int]:
        """What may stand in the slot that begins after the constant tokens."""
        if kind is Kind.NUMBER:
            return self._box_draft() if not self._number else []
        return self._label_draft(self._slot)

    def _box_draft(self, heard: ThoughtBoxes | None = None) -> list[int]:
        """The rest of a box of the thought that begins with the tokens written so far, and the frame after it.

        Args:
            heard: of a thought that is not over yet.
        """
        heard = heard or self._heard
        box = next((b for b in heard.likely() if self._begins(b)), None)
        if box is None:
            return []
        done, slot, draft = len(self._number), self._slot, []
        if self._number:
            draft = [*box[done - 1][len(self._number[-1]) :]]
        else:
            draft, done = [*box[0]], 1
        for number in [*box[done:], ()]:
            slot += 1
            draft += [*self._piece(slot), *number]
        if self._layout.slots[slot:] == (Kind.LABEL,):
            draft += self._label_draft(slot, heard.words_before(box))
        return draft[:MAX_BOX_DRAFT_TOKENS]

    def _begins(self, box: BoxTokens) -> bool:
        if not self._number:
            return True
        done = len(self._number) - 1
        return box[:done] == tuple(self._number[:done]) and box[done][: len(self._number[-1])] == self._number[-1]

    def _label_draft(self, slot: int, words_before: list[str] | None = None) -> list[int]:
        """More of the label that this model probably writes, as far as it agrees with what stands of it, and what follows.

        Args:
            words_before: the box in the thought; None for those before the box that stands.
        """
        if words_before is None:
            words_before = self._heard.words_before(tuple(self._number))
        said, likely = self._decoded(self._label), self._likely_label(words_before)
        source = likely or self.expression
        at = source.find(said)
        if at < 0 or not (said or likely):
            return []
        rest = source[at + len(said) :]
        if not likely:
            rest = " " + rest.split()[0] if rest.startswith(" ") and rest.split() else ""
        words = self.syntax.encode(rest)
        return [*words, *self._piece(slot + 1)][:MAX_BOX_DRAFT_TOKENS] if words or likely else []

    def _likely_label(self, words_before: list[str]) -> str:
        """The expression, or words that stood before the box in the thought, as in the last answer; "" where it was neither."""
        if self._layout.label_is_expression:
            return self.expression
        count = self._layout.label_words
        return " ".join(words_before[-count:]) if count else ""

    def _at_slot(self, kind: Kind) -> bool:
        """A slot of this kind has begun, or begins with the next token."""
        return self._at >= 0 and self._layout.slots[self._slot : self._slot + 1] == (kind,)

    def _goes_on_number(self, token: int) -> bool:
        """A digit, or what the layout has behind the number."""
        return self.allows(token) and (token in self.syntax.tokens.digit_ids or token in self._piece(self._slot + 1)[:1])

    def _filtered(self, allowed: NDArray[np.int64]) -> NDArray[np.int64]:
        kept = np.array([token for token in allowed.tolist() if self._goes_on_number(token)], np.int64)
        return kept if len(kept) else allowed

    def _rest_of_layout(self) -> list[int]:
        """The rest of the answer as this model lays it out, the expression being its label; [] where that cannot be."""
        tokens, label = self._constant_ahead(), self.syntax.encode(self.expression)
        for slot in range(self._slot + self._in_slot, len(self._layout.slots)):
            if self._layout.slots[slot] is not Kind.LABEL or len(label) > MAX_LABEL_TOKENS:
                return []
            tokens += [*label, *self._piece(slot + 1)]
        state = self.state
        for token in tokens:
            state = self.syntax.step(state, token) if state is not None else None
        return tokens if state is not None and self.syntax.automaton.accepts(state) else []

    def _label_end(self) -> int | None:
        """The next token of the shortest way out of a label, None where there is none."""
        ways = [words[start:] for words in LABEL_ENDS for start in range(len(words))]
        for words in sorted(ways, key=len):
            state: State | None = self.state
            for byte in words.encode():
                state = self.syntax.automaton.advance(state, byte) if state is not None else None
            if state is not None and not self.syntax.automaton.in_text(state):
                token = self.syntax.encode(words)[0]
                if self.allows(token):
                    return token
        return None

    def _piece(self, place: int) -> tuple[int, ...]:
        """The layout's constant tokens of a place, none where the answer has left the layout behind."""
        return self._layout.pieces[place] if place < len(self._layout.pieces) else ()

    def _decoded(self, tokens: Sequence[int]) -> str:
        return b"".join(self.syntax.tokens.of[token] for token in tokens).decode(errors="ignore")
