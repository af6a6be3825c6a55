"""Greedy decoding over a Session: feed the request, then the most likely token until an end token.

Knows nothing of engines (a Session gives logits) or of answer syntax (parsing reads the text afterwards).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from egm_edge.backends.base import Session
from egm_edge.decoding.events import Generation, Stage, StopReason, TokenEvent

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
        should_stop: asked before every step; True ends the generation (cancel, deadline).
        on_token: told about every token.
    """
    started = time.perf_counter()
    logits = session.extend(request_ids)
    first = time.perf_counter()
    reply = _Reply(tokenizer, thinking)
    reason = StopReason.TOKEN_LIMIT
    while len(reply.ids) < max_new_tokens:
        if should_stop is not None and should_stop():
            reason = StopReason.STOPPED
            break
        token = int(logits.argmax())
        if token in stop_ids:
            reason = StopReason.END_TOKEN
            break
        event = reply.add(token)
        if on_token is not None:
            on_token(event)
        if len(reply.ids) < max_new_tokens:
            logits = session.extend([token])
    finished = time.perf_counter()
    thought_ended = reply.thought_ended_at or (finished if reply.stage is Stage.THINK else first)
    return Generation(
        token_ids=tuple(reply.ids),
        text=tokenizer.decode(reply.ids, skip_special_tokens=True),
        marked_text=tokenizer.decode(reply.ids, skip_special_tokens=False),
        think_tokens=reply.think_tokens,
        stop_reason=reason,
        prefill_ms=(first - started) * 1e3,
        think_ms=(thought_ended - first) * 1e3,
        answer_ms=(finished - thought_ended) * 1e3,
    )


class _Reply:
    """Tokens so far, their text, and which stage they are in."""

    def __init__(self, tokenizer: Tokenizer, thinking: bool) -> None:
        self.ids: list[int] = []
        self.think_tokens = 0
        self.stage = Stage.THINK if thinking else Stage.ANSWER
        self.thought_ended_at: float | None = None
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._tail = ""

    def add(self, token: int) -> TokenEvent:
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
