"""Greedy decoding over a Session: feed the request, then the most likely token until an end token.

Several drafted tokens are checked in one step where the text repeats itself; the tokens are those of one-by-one decoding.
Knows nothing of engines (a Session gives logits) or of answer syntax (parsing reads the text afterwards).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from egm_edge.backends.base import Session
from egm_edge.decoding.events import Generation, Stage, StopReason, TokenEvent
from egm_edge.decoding.lookup import PromptLookup

END_OF_THOUGHT = "</think>"
START_OF_THOUGHT = "<think>"


def greedy(
    session: Session,
    request_ids: Sequence[int],
    tokenizer: Tokenizer,
    stop_ids: Collection[int],
    *,
    max_new_tokens: int,
    thinking: bool,
    speculate: bool = True,
    should_stop: Callable[[], bool] | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
) -> Generation:
    """Generate one reply.

    Args:
        session: opened on the frame, at its prefix.
        request_ids: the prompt tokens after the frame's prefix.
        tokenizer: turns ids into text.
        stop_ids: end tokens; they are not part of the reply.
        max_new_tokens: upper bound on generated tokens.
        thinking: the prompt already opened a thought, so the reply begins inside it.
        speculate: check drafted tokens in one step; needs a session that can rewind.
        should_stop: asked before every token; True ends the generation (cancel, deadline).
        on_token: told about every token.
    """
    started = time.perf_counter()
    logits = session.extend(request_ids)
    first = time.perf_counter()
    reply = _Reply(tokenizer, thinking, stop_ids, max_new_tokens, should_stop, on_token)
    lookup = PromptLookup(request_ids)
    steps = 0
    token = int(logits.argmax())
    while reply.take(token):
        lookup.add(token)
        room = max_new_tokens - len(reply.ids)
        if room == 0:
            break
        draft = lookup.propose(room - 1) if speculate else []
        steps += 1
        predicted = session.extend([token, *draft], every_position=True).argmax(-1)
        accepted = 0
        while accepted < len(draft) and draft[accepted] == predicted[accepted] and reply.take(draft[accepted]):
            lookup.add(draft[accepted])
            accepted += 1
        if draft:
            lookup.judged(accepted)
        if reply.reason is not None:
            break
        if accepted < len(draft):
            session.truncate(session.length - len(draft) + accepted)
        token = int(predicted[accepted])
    finished = time.perf_counter()
    thought_ended = reply.thought_ended_at or (finished if reply.stage is Stage.THINK else first)
    return Generation(
        token_ids=tuple(reply.ids),
        text=tokenizer.decode(reply.ids, skip_special_tokens=True),
        marked_text=tokenizer.decode(reply.ids, skip_special_tokens=False),
        think_tokens=reply.think_tokens,
        steps=steps,
        stop_reason=reply.reason or StopReason.TOKEN_LIMIT,
        prefill_ms=(first - started) * 1e3,
        think_ms=(thought_ended - first) * 1e3,
        answer_ms=(finished - thought_ended) * 1e3,
    )


class _Reply:
    """Tokens so far, their text, which stage they are in, and why they ended."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        thinking: bool,
        stop_ids: Collection[int],
        max_new_tokens: int,
        should_stop: Callable[[], bool] | None,
        on_token: Callable[[TokenEvent], None] | None,
    ) -> None:
        self.ids: list[int] = []
        self.think_tokens = 0
        self.stage = Stage.THINK if thinking else Stage.ANSWER
        self.reason: StopReason | None = None
        self.thought_ended_at: float | None = None
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=False)
        self._stop_ids, self._max_new_tokens = stop_ids, max_new_tokens
        self._should_stop, self._on_token = should_stop, on_token
        self._tail = ""

    def take(self, token: int) -> bool:
        """Append the model's next token, unless the reply ends here; then `reason` says why."""
        if len(self.ids) >= self._max_new_tokens:
            self.reason = StopReason.TOKEN_LIMIT
        elif self._should_stop is not None and self._should_stop():
            self.reason = StopReason.STOPPED
        elif token in self._stop_ids:
            self.reason = StopReason.END_TOKEN
        else:
            event = self._append(token)
            if self._on_token is not None:
                self._on_token(event)
        return self.reason is None

    def _append(self, token: int) -> TokenEvent:
        self.ids.append(token)
        text = self._stream.step(self._tokenizer, token) or ""
        self._tail = (self._tail + text)[-2 * len(END_OF_THOUGHT) - len(text) :]
        if self.stage is Stage.ANSWER and not self.think_tokens and START_OF_THOUGHT in self._tail:
            self.stage = Stage.THINK
            self.think_tokens = len(self.ids) - 1
        stage = self.stage
        if stage is Stage.THINK:
            self.think_tokens += 1
            if END_OF_THOUGHT in self._tail:
                self.stage = Stage.ANSWER
                self.thought_ended_at = time.perf_counter()
        return TokenEvent(len(self.ids), text, stage)
