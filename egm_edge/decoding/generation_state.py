"""GenerationState: the tokens of a reply so far, their text, which stage they are in, and why it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from egm_edge.decoding.events import Stage, StopReason, TokenEvent
from egm_edge.decoding.sampler import log_probabilities
from egm_edge.grounding import Truncation

END_OF_THOUGHT = "</think>"
START_OF_THOUGHT = "<think>"


class GenerationState:
    """A reply under way.

    Args:
        tokenizer: turns ids into text.
        thinking: the prompt already opened a thought.
        stop_ids: end tokens; they are not part of the reply.
        max_new_tokens: upper bound on its tokens, given and written ones left out.
        should_stop: asked before every token; True ends it.
        on_token: told about every token.

    Attributes:
        ids: tokens, without the end token. log_probabilities: of each, NaN where the model was not asked.
        uncounted: of them closing a thought that was never begun (they are fed with the prompt), or written as the end of an
            answer at the limit (they are never fed): they cost no step.
        stage: what the next token belongs to.
        reason: why it ended, None while it goes on.
        truncated_by: what was cut short.
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
        self.uncounted = 0
        self.think_tokens = 0
        self.stage = Stage.THINK if thinking else Stage.ANSWER
        self.reason: StopReason | None = None
        self.thought_ended_at: float | None = None
        self.truncated_by: set[Truncation] = set()
        self.unscored: list[int] = []  # places of the model's own tokens whose rows of logits are not seen yet
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=False)
        self._stop_ids, self._max_new_tokens = stop_ids, max_new_tokens
        self._should_stop, self._on_token = should_stop, on_token
        self._tail = self._untold = ""

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self._max_new_tokens - len(self.ids) + self.uncounted

    def take(self, token: int, *, chosen: bool = False) -> bool:
        """Append the next token, unless the reply ends here; then `reason` says why.

        Args:
            chosen: by the model, so that its log-probability can be known.
        """
        if self.room <= 0:
            self.reason = StopReason.TOKEN_LIMIT
        elif self._should_stop is not None and self._should_stop():
            self.reason = StopReason.STOPPED
        elif token in self._stop_ids:
            self.reason = StopReason.END_TOKEN
        else:
            if chosen:
                self.unscored.append(len(self.ids))
            self._tell(*self._append(token))
        return self.reason is None

    def give(self, tokens: Sequence[int]) -> None:
        """Append tokens that are not counted; their text is told with the next one that is, or by `tell_rest`."""
        self._untold += "".join(self._append(token)[0] for token in tokens)
        self.uncounted += len(tokens)

    def tell_rest(self) -> None:
        """Tell the text of given tokens behind which none comes."""
        if self._untold and self._on_token is not None:
            self._tell("", self.stage)

    def score(self, rows: NDArray[np.float32]) -> None:
        """Note the log-probabilities of the tokens chosen since the last call, whose logits are `rows` [n, V].
        All at once: of a small model one row by itself costs as much as five together."""
        places, self.unscored = self.unscored, []
        if places:
            for place, value in zip(places, log_probabilities(rows, [self.ids[place] for place in places]), strict=True):
                self.log_probabilities[place] = value

    def behind_thought(self, written: str) -> str | None:
        """What follows the end of the thought in `written`, the next token's text; None while the thought goes on."""
        if self.stage is not Stage.THINK:
            return None
        _, mark, rest = (self._tail[-len(END_OF_THOUGHT) :] + written).partition(END_OF_THOUGHT)
        return rest if mark else None

    def _append(self, token: int) -> tuple[str, Stage]:
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
        return text, stage

    def _tell(self, text: str, stage: Stage) -> None:
        text, self._untold = self._untold + text, ""
        if self._on_token is not None:
            self._on_token(TokenEvent(len(self.ids) - self.uncounted, text, stage))
