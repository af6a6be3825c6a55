"""ScriptedBackend: an engine that says what a test tells it to, counts the tokens it is fed, and can be slowed by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge.backends.base import Capabilities, RuntimeFacts
from egm_edge.bundle import Bundle
from egm_edge.grounder import Grounder
from egm_edge.loaded_model import read_tokenizer

REPLY = 'It is the one on the left.</think>[{"bbox_2d": [100, 200, 500, 600], "label": "mug"}]'


@dataclass
class ScriptedFrame:
    prefix_token_count: int
    image_token_count: int
    vision_ms: float
    prefill_ms: float


@dataclass
class ScriptedSession:
    backend: ScriptedBackend
    length: int
    reply: list[int] = field(default_factory=list)
    reply_at: int = 0

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        backend = self.backend
        if not self.reply:
            backend.sleep("prefill")
        backend.fed += len(token_ids)
        self.length += len(token_ids)
        if not self.reply:
            words = backend.tokenizer.decode(list(token_ids), skip_special_tokens=False)
            self.reply = [*backend.tokenizer.encode(backend.reply_to(words)).ids, backend.end_id]
            self.reply_at = self.length
        logits = np.zeros((len(token_ids), backend.vocabulary), np.float32)
        for row in range(len(token_ids)):
            place = self.length - len(token_ids) + 1 + row - self.reply_at
            if place in (1, len(self.reply) - 1):
                backend.sleep("think" if place == 1 else "answer")
            if place >= 0:
                logits[row, self.reply[place % len(self.reply)]] = 1.0
        return logits if every_position else logits[-1]

    def truncate(self, length: int) -> None:
        self.length = length


class ScriptedBackend:
    """Answers `reply_to(request text)`, then the end token; `pauses_s` slows vision, prefill, the first step of the thought
    ("think") or the last step of the answer ("answer")."""

    capabilities = Capabilities()
    facts = RuntimeFacts("scripted", threads=1)

    def __init__(self, tokenizer: Tokenizer, end_id: int, image_id: int, reply_to: Callable[[str], str]) -> None:
        self.tokenizer, self.end_id, self.image_id, self.reply_to = tokenizer, end_id, image_id, reply_to
        self.vocabulary = tokenizer.get_vocab_size() + 8
        self.pauses_s: dict[str, float] = {}
        self.clock, self.pause = time.perf_counter, time.sleep
        self.fed = 0

    def sleep(self, stage: str) -> None:
        if self.pauses_s.get(stage):
            self.pause(self.pauses_s[stage])

    def open_frame(self, pixels: Any, prefix_ids: Sequence[int]) -> ScriptedFrame:
        started = self.clock()
        self.sleep("vision")
        seen = self.clock()
        self.fed += len(prefix_ids)
        image_tokens = sum(token == self.image_id for token in prefix_ids)
        return ScriptedFrame(len(prefix_ids), image_tokens, (seen - started) * 1e3, (self.clock() - seen) * 1e3)

    def open_session(self, frame: Any) -> ScriptedSession:
        return ScriptedSession(self, frame.prefix_token_count)

    def close(self) -> None:
        pass


def scripted_grounder(bundle: Bundle, reply_to: Callable[[str], str] = lambda words: REPLY) -> Grounder:
    """A Grounder whose prompts, pixels and tokenizer are the bundle's own, and whose engine is scripted."""
    tokenizer = read_tokenizer(bundle)
    model = bundle.manifest.model
    backend = ScriptedBackend(tokenizer, model["stop_token_ids"][0], model["image_token_id"], reply_to)
    return Grounder(backend, bundle, tokenizer)
