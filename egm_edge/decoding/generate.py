"""Generate one reply over a Session: feed the request, then token after token until the answer is whole.

Several tokens go through the engine in one step where it is known what will probably come: the answer's constant frame, boxes
of the thought, repeated words. Every one of them is checked against the model's own choice, so that drafts change the
number of steps and no token. Knows nothing of engines (a Session gives logits) and of grammars (a TokenPolicy does).

Tensor notation: V vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge.decoding.constrained.decoder import ConstrainedDecoder
from egm_edge.decoding.deadline.budget import Budget
from egm_edge.decoding.events import Generation, Stage, StopReason, TokenEvent
from egm_edge.decoding.generation_state import GenerationState
from egm_edge.decoding.sampler import Sampler
from egm_edge.decoding.session import InterruptedRunError, Session
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer
from egm_edge.decoding.speculative.verification import accept, feed, verify
from egm_edge.decoding.token_policy import TokenPolicy

OnStep = Callable[[int, float], None]


class Decoder:
    """One reply under way.

    Args:
        tokenizer: turns ids into text.
        stop_ids: end tokens; they are not part of the reply.
        budget: tokens and time that it may cost.
        thinking: the prompt already opened a thought, so the reply begins inside it.
        constrained: holds the answer to its grammar; None decodes freely.
        sampler: chooses tokens; None for the most likely.
        speculate: check drafts in one step, and end where only the end can follow; needs a session that can rewind.
            Without it every token is asked for by itself.
        proposer: drafts repeated text too, not only what the grammar knows.
        should_stop: asked before every token; True ends the reply.
        on_token: told about every token.
        on_step: told tokens and milliseconds of every decode step.

    Attributes:
        steps: decode steps so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        budget: Budget,
        *,
        thinking: bool,
        constrained: ConstrainedDecoder | None = None,
        sampler: Sampler | None = None,
        speculate: bool = True,
        proposer: NgramProposer | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        ends = frozenset(stop_ids)
        self.tokenizer, self.budget, self.steps, self._on_step = tokenizer, budget, 0, on_step
        self.state = GenerationState(tokenizer, thinking, ends, budget.max_new_tokens, should_stop, on_token)
        self.proposer = proposer if speculate else None
        self.policy = TokenPolicy(self.state, budget, sampler or Sampler(), ends, constrained, self.proposer, speculate)

    @property
    def full(self) -> bool:
        """No more tokens fit."""
        return self.state.room <= 0

    @property
    def stopped(self) -> bool:
        return self.state.reason is StopReason.STOPPED

    def generate(self, session: Session, request_ids: Sequence[int]) -> Generation:
        """The whole reply.

        Args:
            session: opened on the frame, at its prefix.
            request_ids: the prompt tokens after the frame's prefix.
        """
        started = first = time.perf_counter()
        try:
            opening = self.open(session, request_ids)
            first = time.perf_counter()
            self.finish_alone(session, self.next(opening))
        except InterruptedRunError:
            first = time.perf_counter() if first == started else first
            self.policy.interrupted()
        return self.result(started, first)

    def open(self, session: Session, request_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed the request, its thought closed at once where none is wanted; logits [V] after it."""
        return session.extend([*request_ids, *self.policy.begin(request_ids)])

    def next(self, logits: NDArray[np.float32]) -> list[int]:
        """As `TokenPolicy.next`, the log-probability of what the model chose noted."""
        tokens = self.policy.next(logits)
        self.state.score(logits[None])
        return tokens

    def finish_alone(self, session: Session, tokens: Sequence[int]) -> None:
        """Go on to the end, from tokens that are taken and not yet fed."""
        while tokens and not self.full:
            tokens = self._step(session, tokens)

    def result(self, started: float, first: float) -> Generation:
        """The finished reply; `started` and `first` are when the request and its generation began, perf_counter seconds."""
        state, constrained = self.state, self.policy.constrained
        if self.full:
            self.policy.limit_reached()
        state.tell_rest()
        finished = time.perf_counter()
        if state.reason is StopReason.END_TOKEN and constrained is not None and not state.truncated_by:
            constrained.learn()
        thought_ended = max(state.thought_ended_at or (finished if state.stage is Stage.THINK else first), first)
        return Generation(
            token_ids=tuple(state.ids),
            text=self.tokenizer.decode(state.ids, skip_special_tokens=True),
            marked_text=self.tokenizer.decode(state.ids, skip_special_tokens=False),
            uncounted_tokens=state.uncounted,
            think_tokens=state.think_tokens,
            steps=self.steps,
            stop_reason=state.reason or StopReason.TOKEN_LIMIT,
            prefill_ms=(first - started) * 1e3,
            think_ms=(thought_ended - first) * 1e3,
            answer_ms=(finished - thought_ended) * 1e3,
            truncated_by=frozenset(state.truncated_by),
            log_probabilities=tuple(state.log_probabilities),
            choices=tuple(constrained.choices) if constrained is not None else (),
        )

    def _step(self, session: Session, certain: Sequence[int]) -> tuple[int, ...]:
        """Propose, verify, accept: one step of the engine. Returns the certain tokens that come next, () at the end."""
        state = self.state
        draft = self.policy.draft(state.room - 1)
        began = time.perf_counter()
        rows = feed(session, certain, draft)
        self.steps += 1
        if self._on_step is not None:
            self._on_step(len(certain) + len(draft), (time.perf_counter() - began) * 1e3)
        chose: list[int] = []  # rows that chose a token

        def next_tokens(row: int) -> list[int]:
            tokens = self.policy.next(rows[row])
            if len(state.unscored) > len(chose):
                chose.append(row)
            return tokens

        verdict = verify(draft, next_tokens)
        state.score(rows[: len(chose)] if chose == list(range(len(chose))) else rows[chose])
        if self.proposer is not None and draft:
            self.proposer.record_accepted(verdict.accepted)
        accept(session, draft, verdict)
        return verdict.pending
