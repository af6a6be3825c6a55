"""TokenPolicy: which token comes next: the model's choice, one that its grammar allows, or the end of a thought or an answer
that tokens or time no longer afford. Knows nothing of engines: logits in, tokens out, taken into the GenerationState.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egm_edge.decoding.constrained.cursor import AnswerCursor
from egm_edge.decoding.constrained.decoder import ConstrainedDecoder
from egm_edge.decoding.deadline.budget import FEW_TOKENS, Budget
from egm_edge.decoding.events import Stage, StopReason
from egm_edge.decoding.generation_state import GenerationState
from egm_edge.decoding.sampler import Sampler
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer
from egm_edge.grounding import Truncation


@dataclass(slots=True)
class TokenPolicy:
    """How one reply goes on.

    Attributes:
        state: the reply. budget: tokens and time that it may cost. sampler: chooses tokens.
        stop_ids: end tokens.
        constrained: holds the answer to its grammar; None decodes freely.
        proposer: drafts repeated text; None for no such drafts.
        speculate: draft, and end where only the end can follow.
    """

    state: GenerationState
    budget: Budget
    sampler: Sampler
    stop_ids: frozenset[int]
    constrained: ConstrainedDecoder | None
    proposer: NgramProposer | None
    speculate: bool

    def begin(self, request_ids: Sequence[int]) -> list[int]:
        """The tokens that close a thought where none is wanted, and the answer's certain ones, taken into the reply."""
        for token in request_ids if self.proposer is not None else ():
            self.proposer.add(token)  # type: ignore[union-attr]
        constrained, without_thought = self.constrained, self.budget.without_thought
        if constrained is None:
            return []
        if self.state.stage is Stage.THINK:
            constrained.forced_answer = without_thought
            return self._close_thought(constrained, counted=False) if without_thought else []
        if constrained.strict or without_thought:
            constrained.start(may_think=not (without_thought or self.budget.time_to_answer()))
        return []

    def next(self, logits: NDArray[np.float32]) -> list[int]:
        """The tokens that come next, taken into the reply; at most the first one is the model's own choice.

        Args:
            logits: [V], after everything that was taken so far.

        Returns:
            Tokens to feed, [] when the reply is over.
        """
        constrained = self.constrained
        if self.state.reason is not None:
            return []
        if constrained is not None and self.state.stage is Stage.THINK:
            return self._next_of_thought(constrained, logits)
        if constrained is not None and constrained.cursor is not None:
            return self._next_of_answer(constrained, constrained.cursor, logits)
        return self._next_freely(logits)

    def draft(self, room: int) -> list[int]:
        """At most `room` tokens that probably come behind what was taken."""
        if room <= 0 or not self.speculate:
            return []
        if self.budget.no_time_for_long_steps():
            room = min(room, FEW_TOKENS)
        draft = self.constrained.propose() if self.constrained is not None else []
        if not draft and self.proposer is not None:
            draft = self.proposer.propose(room)
            draft = self.constrained.extend(draft) if self.constrained is not None else draft
        return draft[:room]

    def interrupted(self) -> None:
        """The engine was stopped in the middle of a step: keep a box that stands already."""
        if self.state.reason is None and not self._end_standing_box(Truncation.ANSWER):
            self.state.reason = StopReason.DEADLINE if self.budget.expired() else StopReason.STOPPED

    def limit_reached(self) -> None:
        """No more tokens fit: end an answer whose box stands, so that it can be read."""
        if self.state.reason in (None, StopReason.TOKEN_LIMIT) and not self._end_standing_box(Truncation.MAX_NEW_TOKENS):
            self.state.reason = StopReason.TOKEN_LIMIT

    def _next_freely(self, logits: NDArray[np.float32]) -> list[int]:
        if self.budget.expired():
            self.state.reason = StopReason.DEADLINE
            return []
        token = self.sampler(logits)
        return [token] if self._take(token, chosen=True) else []

    def _next_of_thought(self, constrained: ConstrainedDecoder, logits: NDArray[np.float32]) -> list[int]:
        state = self.state
        if cut := self._thought_is_over(constrained):
            state.truncated_by.add(cut)
            return self._close_thought(constrained)
        token = self.sampler(logits)
        rest = state.behind_thought(constrained.syntax.written(token))
        if (
            constrained.strict
            and (token in self.stop_ids or (rest is not None and not constrained.start(rest.encode())))
            and state.room >= constrained.answer_tokens
        ):
            return self._close_thought(constrained)
        if not self._take(token, chosen=True):
            return []
        if state.stage is Stage.THINK:
            constrained.observe_thought(token)
        elif not constrained.strict:
            self.constrained = None
        return [token]

    def _next_of_answer(
        self, constrained: ConstrainedDecoder, cursor: AnswerCursor, logits: NDArray[np.float32]
    ) -> list[int]:
        if cursor.box_complete:
            if constrained.overlong or (constrained.forced_answer and cursor.box_certain):
                self._end_answer(constrained)
                return []
            if self.budget.last_step():
                self._end_standing_box(Truncation.ANSWER)
                return []
        if self.budget.expired():
            self.state.reason = StopReason.DEADLINE
            return []
        token = constrained.choose(cursor, logits, self.sampler, self.stop_ids)
        if not self._take(token, chosen=True):
            return []
        if self.state.stage is Stage.THINK:  # the token opened one
            constrained.pause()
            return [token]
        constrained.take(token)
        if constrained.forced_answer and constrained.cursor is not None and constrained.cursor.box_certain:
            self._end_answer(constrained)
            return []
        if self._is_whole(constrained) and self.speculate:
            self.state.reason = StopReason.END_TOKEN
            return []
        return [token, *self._take_certain(constrained)]

    def _take_certain(self, constrained: ConstrainedDecoder) -> list[int]:
        """Tokens that come next whatever the model says, taken into the reply."""
        taken: list[int] = []
        while len(ways := constrained.forced_choices()) == 1 and not self._is_whole(constrained) and self._take(ways[0]):
            constrained.take(ways[0])
            taken += ways
        return taken

    @staticmethod
    def _is_whole(constrained: ConstrainedDecoder) -> bool:
        return constrained.cursor is not None and constrained.cursor.finished

    def _thought_is_over(self, constrained: ConstrainedDecoder) -> Truncation | None:
        """What ends the thought here."""
        most, room = self.budget.max_think_tokens, self.state.room
        cut = None
        if self.budget.time_to_answer() or (most is not None and self.state.think_tokens >= most):
            cut = Truncation.THOUGHT
        elif room <= constrained.answer_tokens < self.budget.max_new_tokens:
            cut = Truncation.MAX_NEW_TOKENS
        constrained.forced_answer = cut is not None
        return cut

    def _close_thought(self, constrained: ConstrainedDecoder, *, counted: bool = True) -> list[int]:
        closing = constrained.syntax.close_thought
        if counted:
            for token in closing:
                self._take(token)
        else:
            self.state.give(closing)
            for token in closing if self.proposer is not None else ():
                self.proposer.add(token)  # type: ignore[union-attr]
        constrained.start()
        certain = self._take_certain(constrained)
        return [*closing, *certain] if self.state.reason is None else []

    def _end_standing_box(self, cut: Truncation) -> bool:
        """End an answer for want of time or tokens, if its box stands."""
        constrained = self.constrained
        if constrained is None or constrained.cursor is None or not constrained.cursor.box_complete:
            return False
        self.state.truncated_by.add(cut)
        self._end_answer(constrained)
        return True

    def _end_answer(self, constrained: ConstrainedDecoder) -> None:
        """Write the rest of an answer whose box stands, without the model; beyond the limit where it does not fit."""
        state = self.state
        room = max(state.room, 0)
        ending, state.reason = constrained.ending(room), None
        if all(self._take(token) for token in ending[:room]):
            state.give(ending[room:])
            state.truncated_by |= {Truncation.MAX_NEW_TOKENS} if ending[room:] else set()
            state.reason = StopReason.END_TOKEN

    def _take(self, token: int, *, chosen: bool = False) -> bool:
        taken = self.state.take(token, chosen=chosen)
        if taken and self.proposer is not None:
            self.proposer.add(token)
        return taken
