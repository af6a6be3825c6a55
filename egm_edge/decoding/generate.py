"""Generate one reply over a Session: feed the request, then token after token until the answer is whole.

Several tokens go through the engine in one step where it is known what will probably come: the answer's constant frame, boxes
of the thought, repeated words. Every one of them is checked against the model's own choice, so that drafts change the
number of steps and no token. Knows nothing of engines (a Session gives logits).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge.backends.base import InterruptedRunError, Session
from egm_edge.decoding.constrained.decoder import ConstrainedDecoder
from egm_edge.decoding.deadline.budget import FEW_TOKENS, Budget
from egm_edge.decoding.events import Generation, Stage, StopReason, TokenEvent
from egm_edge.decoding.reply import Reply
from egm_edge.decoding.sampler import Sampler, log_probabilities
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer
from egm_edge.decoding.speculative.reply_cache import ReplyCache

NEAR_THE_LIMIT = 64  # no ending is longer

OnStep = Callable[[int, float], None]


def generate(
    session: Session,
    request_ids: Sequence[int],
    tokenizer: Tokenizer,
    stop_ids: Collection[int],
    budget: Budget,
    *,
    thinking: bool,
    guide: ConstrainedDecoder | None = None,
    pick: Sampler | None = None,
    speculate: bool = True,
    lookup: bool = True,
    earlier: ReplyCache | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
    on_step: OnStep | None = None,
) -> Generation:
    """Generate one reply; arguments as in `Run` and `Run.generate`."""
    run = Run(
        tokenizer, stop_ids, budget, thinking=thinking, guide=guide, pick=pick, speculate=speculate, lookup=lookup,
        earlier=earlier, should_stop=should_stop, on_token=on_token, on_step=on_step,
    )  # fmt: skip
    return run.generate(session, request_ids)


class Run:
    """One reply under way.

    Args:
        tokenizer: turns ids into text.
        stop_ids: end tokens; they are not part of the reply.
        budget: tokens and time that it may cost.
        thinking: the prompt already opened a thought, so the reply begins inside it.
        guide: holds the answer to its syntax; None decodes freely.
        pick: chooses tokens; None for the most likely.
        speculate: check drafts in one step, and end where only the end can follow; needs a session that can rewind.
            Without it every token is asked for by itself.
        lookup: draft repeated text too, not only what the guide knows.
        earlier: replies about the same frame, for such drafts.
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
        guide: ConstrainedDecoder | None = None,
        pick: Sampler | None = None,
        speculate: bool = True,
        lookup: bool = True,
        earlier: ReplyCache | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.tokenizer, self.budget = tokenizer, budget
        self.stop_ids = frozenset(stop_ids)
        self.guide, self.pick, self.on_step = guide, pick or Sampler(), on_step
        self.reply = Reply(tokenizer, thinking, self.stop_ids, budget.max_new_tokens, should_stop, on_token)
        self.speculate = speculate
        self.lookup = _lookup_for(guide, earlier) if speculate and lookup else None
        self.cut: list[str] = []
        self.steps = 0
        self._unscored: list[int] = []  # places in the reply of the model's own tokens, one per row seen since

    @property
    def full(self) -> bool:
        """No more tokens fit."""
        return len(self.reply.ids) >= self.budget.max_new_tokens

    @property
    def stopped(self) -> bool:
        return self.reply.reason is StopReason.STOPPED

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
            self.interrupted()
        return self.result(started, first)

    def open(self, session: Session, request_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed the request, its thought closed at once where none is wanted; logits [V] after it."""
        return session.extend([*request_ids, *self._begin(request_ids)])

    def open_as(self, request_ids: Sequence[int]) -> None:
        """Begin where another run of the same kind has opened the session."""
        self._begin(request_ids)

    def finish_alone(self, session: Session, tokens: list[int]) -> None:
        """Go on to the end, from tokens that are taken and not yet fed."""
        while tokens and not self.full:
            tokens = self._step(session, tokens)

    def _begin(self, request_ids: Sequence[int]) -> list[int]:
        """The tokens that close the thought where none is wanted, and the answer's certain ones, taken into the reply."""
        for token in request_ids if self.lookup is not None else ():
            self.lookup.add(token)  # type: ignore[union-attr]
        guide = self.guide
        if guide is None:
            return []
        if self.reply.stage is Stage.THINK:
            guide.forced_answer = self.budget.without_thought
            return self._close_thought(guide) if guide.forced_answer else []
        if guide.strict or self.budget.without_thought:
            guide.start(may_think=not (self.budget.without_thought or self.budget.time_to_answer()))
        return []

    def _step(self, session: Session, certain: list[int]) -> list[int]:
        """Feed certain tokens and a draft behind them; returns the certain tokens that come next, [] at the end."""
        draft = self._draft(self.budget.max_new_tokens - len(self.reply.ids) - 1)
        began = time.perf_counter()
        fed = [*certain, *draft]
        rows = session.extend(fed, every_position=True)[len(certain) - 1 :] if draft else None
        rows = session.extend(fed)[None] if rows is None else rows
        self.steps += 1
        if self.on_step is not None:
            self.on_step(len(fed), (time.perf_counter() - began) * 1e3)
        right = 0  # tokens of the draft that proved right
        scored: list[int] = []  # rows that chose a token
        while True:
            row = right
            tokens = self._next(rows[row])
            scored += [row] if len(self._unscored) > len(scored) else []
            agreed = 0
            while agreed < len(tokens) and right < len(draft) and draft[right] == tokens[agreed]:
                agreed, right = agreed + 1, right + 1
            if not tokens or agreed < len(tokens):
                self._score(rows[: len(scored)] if scored == list(range(len(scored))) else rows[scored])
                if self.lookup is not None and draft:
                    self.lookup.record_accepted(right)
                if tokens and right < len(draft):
                    session.truncate(session.length - len(draft) + right)
                return tokens[agreed:]

    def _draft(self, room: int) -> list[int]:
        if room <= 0 or not self.speculate:
            return []
        if self.budget.no_time_for_long_steps():
            room = min(room, FEW_TOKENS)
        draft = self.guide.propose() if self.guide is not None else []
        if not draft and self.lookup is not None:
            draft = self.lookup.propose(room)
            draft = self.guide.with_box(draft) if self.guide is not None else draft
        return draft[:room]

    def next(self, logits: NDArray[np.float32]) -> list[int]:
        """The tokens that come next, taken into the reply: the model's choice, or the end of a thought that must end.

        Args:
            logits: [V], after everything that was taken so far.

        Returns:
            Tokens to feed, [] when the reply is over.
        """
        tokens = self._next(logits)
        self._score(logits[None])
        return tokens

    def _score(self, rows: NDArray[np.float32]) -> None:
        """Note the log-probabilities of the tokens taken since the last call, whose logits are `rows` [n, V].
        All at once: of a small model one row by itself costs as much as five together."""
        places, self._unscored = self._unscored, []
        if places:
            tokens = [self.reply.ids[place] for place in places]
            for place, value in zip(places, log_probabilities(rows, tokens), strict=True):
                self.reply.log_probabilities[place] = value

    def _next(self, logits: NDArray[np.float32]) -> list[int]:
        guide, reply = self.guide, self.reply
        if reply.reason is not None:
            return []
        if guide is None:
            return self._freely(logits)
        if reply.stage is Stage.ANSWER:
            return self._answer(guide, logits) if guide.state is not None else self._freely(logits)
        if cut := self._thought_is_over(guide):
            self.cut.append(cut)
            return self._close_thought(guide)
        token = self.pick(logits)
        rest = reply.would_end_thought(guide.syntax.written(token))
        if guide.strict and (token in self.stop_ids or (rest is not None and not guide.start(rest.encode()))):
            if not self._affords_answer(guide):
                return [token] if self._take(token) else []
            return self._close_thought(guide)
        if not self._take(token):
            return []
        if reply.stage is Stage.THINK:
            guide.observe_thought(token)
        elif not guide.strict:
            self.guide = None
        return [token]

    def _freely(self, logits: NDArray[np.float32]) -> list[int]:
        if self.budget.expired():
            self.reply.reason = StopReason.DEADLINE
            return []
        token = self.pick(logits)
        return [token] if self._take(token) else []

    def _answer(self, guide: ConstrainedDecoder, logits: NDArray[np.float32]) -> list[int]:
        """The answer's next token, held to its syntax; [] when it is whole or must end here."""
        if guide.box_complete and (cut := self._answer_is_over(guide)) is not None:
            self.cut += [cut] if cut else []
            self._end_answer(guide)
            return []
        if self.budget.expired():
            self.reply.reason = StopReason.DEADLINE
            return []
        token = guide.choose(logits, self.pick, self.stop_ids)
        if not self._take(token):
            return []
        if self.reply.stage is Stage.THINK:  # the token opened one
            guide.pause()
            return [token]
        guide.take(token)
        if guide.finished and self.speculate:
            self.reply.reason = StopReason.END_TOKEN
            return []
        return [token, *self._certain(guide)]

    def _certain(self, guide: ConstrainedDecoder) -> list[int]:
        """Tokens that come next whatever the model says, taken into the reply."""
        taken: list[int] = []
        while len(ways := guide.planned()) == 1 and not guide.finished and self._force(ways):
            guide.take(ways[0])
            taken += ways
        return taken

    def _thought_is_over(self, guide: ConstrainedDecoder) -> str:
        """What ends the thought here, "" for nothing."""
        most, left = self.budget.max_think_tokens, self.budget.max_new_tokens - len(self.reply.ids)
        cut = ""
        if self.budget.time_to_answer() or (most is not None and self.reply.think_tokens >= most):
            cut = "thought"
        elif left <= guide.answer_tokens < self.budget.max_new_tokens:
            cut = "max_new_tokens"
        guide.forced_answer = bool(cut)
        return cut

    def _answer_is_over(self, guide: ConstrainedDecoder) -> str | None:
        """What ends an answer whose box stands, "" where nothing is lost by it, None where it goes on."""
        if guide.overlong or (guide.forced_answer and guide.box_certain):
            return ""
        if self.budget.last_step():
            return "answer"
        left = self.budget.max_new_tokens - len(self.reply.ids)
        return "max_new_tokens" if left < NEAR_THE_LIMIT and left <= len(guide.ending(left)) else None

    def _affords_answer(self, guide: ConstrainedDecoder) -> bool:
        return self.budget.max_new_tokens - len(self.reply.ids) >= guide.answer_tokens

    def _close_thought(self, guide: ConstrainedDecoder) -> list[int]:
        closing = guide.syntax.close_thought
        self._force(closing)
        guide.start()
        certain = self._certain(guide)
        return [*closing, *certain] if self.reply.reason is None else []

    def _end_answer(self, guide: ConstrainedDecoder) -> None:
        """Write the rest of an answer whose box stands, without the model."""
        self._force(guide.ending(self.budget.max_new_tokens - len(self.reply.ids)))
        self.reply.reason = self.reply.reason or StopReason.END_TOKEN

    def _force(self, tokens: Sequence[int]) -> bool:
        """Take tokens that the model was not asked for; False where the reply ends among them."""
        for token in tokens:
            if not self.reply.take(token):
                return False
            if self.lookup is not None:
                self.lookup.add(token)
        return True

    def _take(self, token: int) -> bool:
        """Take a token that the model chose."""
        taken = self.reply.take(token)
        if taken:
            self._unscored.append(len(self.reply.ids) - 1)
            if self.lookup is not None:
                self.lookup.add(token)
        return taken

    def interrupted(self) -> None:
        """The engine was stopped in the middle of a step: keep a box that stands already."""
        if self.reply.reason is not None:
            return
        if self.guide is not None and self.guide.box_complete:
            self.cut.append("answer")
            self._end_answer(self.guide)
        else:
            self.reply.reason = StopReason.DEADLINE if self.budget.expired() else StopReason.STOPPED

    def result(self, started: float, first: float) -> Generation:
        """The finished reply; `started` and `first` are when the request and its generation began, perf_counter seconds."""
        finished, reply = time.perf_counter(), self.reply
        if reply.reason is StopReason.END_TOKEN and self.guide is not None and not self.cut:
            self.guide.learn()
        thought_ended = reply.thought_ended_at or (finished if reply.stage is Stage.THINK else first)
        thought_ended = max(thought_ended, first)
        return Generation(
            token_ids=tuple(reply.ids),
            text=self.tokenizer.decode(reply.ids, skip_special_tokens=True),
            marked_text=self.tokenizer.decode(reply.ids, skip_special_tokens=False),
            think_tokens=reply.think_tokens,
            steps=self.steps,
            stop_reason=reply.reason or StopReason.TOKEN_LIMIT,
            prefill_ms=(first - started) * 1e3,
            think_ms=(thought_ended - first) * 1e3,
            answer_ms=(finished - thought_ended) * 1e3,
            cut=tuple(self.cut),
            log_probabilities=tuple(reply.log_probabilities),
            choices=tuple(self.guide.choices) if self.guide is not None else (),
        )


def _lookup_for(guide: ConstrainedDecoder | None, earlier: ReplyCache | None) -> NgramProposer:
    """A lookup that knows numbers and the bundle's replies where there is a guide to tell them."""
    if guide is None:
        return NgramProposer(earlier=earlier)
    return NgramProposer(digits=guide.syntax.tokens.digit_ids, memory=guide.syntax.memory, earlier=earlier)
