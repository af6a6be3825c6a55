"""AnswerCursor: where an answer stands, in its grammar and in the template that this model's answers usually follow.

Immutable: `after` gives the place behind one more token. Knows nothing of logits or thoughts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from egm_edge.decoding.constrained.fsm import BOX_NUMBERS, State, fits
from egm_edge.decoding.constrained.grammar import AnswerSyntax, AnswerTemplate, Kind

OFF_TEMPLATE = -1
_DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class AnswerCursor:
    """A place in an answer.

    Attributes:
        syntax: of the bundle.
        template: the layout that the answer follows as long as it does.
        state: in the syntax's pattern.
        blanks: tokens expected before the answer.
        tokens: of the answer so far, blanks before it left out.
        slot, inside, place: in the template: the slot that is next or being written, whether it is being written, and how
            many tokens of the constant piece before it stand; OFF_TEMPLATE once the answer left it.
        label: tokens of the label so far. numbers: tokens of each coordinate so far. behind_box: tokens since the box stood.
    """

    syntax: AnswerSyntax
    template: AnswerTemplate
    state: State
    blanks: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    slot: int = 0
    inside: bool = False
    place: int = 0
    label: tuple[int, ...] = ()
    numbers: tuple[tuple[int, ...], ...] = ()
    behind_box: int = 0

    def after(self, token: int) -> AnswerCursor:
        """The place behind one more token; the same place where the grammar forbids it."""
        syntax, before = self.syntax, self.state
        state = syntax.step(before, token)
        if state is None:
            return self
        if not self.tokens and not syntax.tokens.of[token].strip():
            return replace(self, state=state, blanks=())  # no part of a template: a closed thought brings them
        kind = syntax.kind(before, token, state)
        slot, inside, place, label, numbers = self.slot, self.inside, self.place, self.label, self.numbers
        if kind is Kind.CONSTANT:
            if inside:
                slot, inside, place = slot + 1, False, 0
            piece = self.piece(slot)
            place = place + 1 if 0 <= place < len(piece) and piece[place] == token else OFF_TEMPLATE
        else:
            slots = self.template.slots
            inside, place = True, 0 if slot < len(slots) and slots[slot] is kind else OFF_TEMPLATE
            if kind is Kind.LABEL:
                label = (*label, token)
            elif before.digits:
                numbers = (*numbers[:-1], (*numbers[-1], token))
            else:
                numbers = (*numbers, (token,))
        behind = self.behind_box + (len(before.numbers) == BOX_NUMBERS)
        tokens = (*self.tokens, token)
        return AnswerCursor(syntax, self.template, state, (), tokens, slot, inside, place, label, numbers, behind)

    @property
    def finished(self) -> bool:
        """The answer is whole: nothing but the end may follow."""
        return self.syntax.automaton.ends(self.state)

    @property
    def box_complete(self) -> bool:
        """Four numbers stand, so the answer can be ended without the model."""
        return len(self.state.numbers) == BOX_NUMBERS or self._last_number_may_end

    @property
    def box_certain(self) -> bool:
        """Four numbers stand, and the fourth one has no more digits."""
        return len(self.state.numbers) == BOX_NUMBERS or (self._last_number_may_end and self._number_is_over)

    @property
    def constants_ahead(self) -> tuple[int, ...]:
        """The constant tokens that the template has next, where they are certain to come next if it is kept."""
        if self.place < 0:
            return ()
        if not self.inside:
            return self.piece(self.slot)[self.place :]
        return self.piece(self.slot + 1) if self.state.digits and self._number_is_over else ()

    def piece(self, slot: int) -> tuple[int, ...]:
        """The template's constant tokens before a slot, none behind its end."""
        return self.template.pieces[slot] if slot < len(self.template.pieces) else ()

    def at_slot(self, kind: Kind) -> bool:
        """A slot of this kind has begun, or begins with the next token."""
        return self.place >= 0 and self.template.slots[self.slot : self.slot + 1] == (kind,)

    def allows(self, token: int) -> bool:
        return self.syntax.step(self.state, token) is not None

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether the answer may end behind these tokens."""
        state: State | None = self.state
        for token in tokens:
            state = None if state is None else self.syntax.step(state, token)
        return state is not None and self.syntax.automaton.accepts(state)

    @property
    def _number_is_over(self) -> bool:
        digits, numbers = self.state.digits, self.state.numbers
        return self.syntax.tokens.whole_numbers or not any(fits(digits + digit, numbers) for digit in _DIGITS)

    @property
    def _last_number_may_end(self) -> bool:
        left = self.syntax.automaton.leave_number(self.state) if self.state.digits else None
        return left is not None and len(left.numbers) == BOX_NUMBERS
