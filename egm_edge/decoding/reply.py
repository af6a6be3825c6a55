"""Reply: the tokens generated so far, their text, which stage they are in, and why they ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from egm_edge.decoding.events import Stage, StopReason, TokenEvent

END_OF_THOUGHT = "</think>"
START_OF_THOUGHT = "<think>"


class Reply:
    """A reply under way.

    Args:
        tokenizer: turns ids into text.
        thinking: the prompt already opened a thought.
        stop_ids: end tokens; they are not part of the reply.
        max_new_tokens: upper bound on its tokens.
        should_stop: asked before every token; True ends it.
        on_token: told about every token.

    Attributes:
        ids: tokens, without the end token. log_probabilities: of each, NaN where the model was not asked.
        stage: what the next token belongs to.
        reason: why it ended, None while it goes on.
        after_thought: what the token that ended the thought wrote behind it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        thinking: bool,
        stop_ids: Collection[int],
        max_new_tokens: int,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
    ) -> None:
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.think_tokens = 0
        self.stage = Stage.THINK if thinking else Stage.ANSWER
        self.reason: StopReason | None = None
        self.thought_ended_at: float | None = None
        self.after_thought = ""
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=False)
        self._stop_ids, self._max_new_tokens = stop_ids, max_new_tokens
        self._should_stop, self._on_token = should_stop, on_token
        self._tail = ""

    def take(self, token: int) -> bool:
        """Append the next token, unless the reply ends here; then `reason` says why. Its log-probability is unknown yet."""
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

    def would_end_thought(self, written: str) -> str | None:
        """What follows the end of the thought in `written`, the next token's text; None while the thought goes on."""
        if self.stage is not Stage.THINK:
            return None
        tail = self._tail[-len(END_OF_THOUGHT) :] + written
        at = tail.find(END_OF_THOUGHT)
        return None if at < 0 else tail[at + len(END_OF_THOUGHT) :]

    def _append(self, token: int) -> TokenEvent:
        self.ids.append(token)
        self.log_probabilities.append(math.nan)
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
                self.after_thought = self._tail.partition(END_OF_THOUGHT)[2]
        return TokenEvent(len(self.ids), text, stage)
