"""ChatReply: what a reply under way has come to, and the loop that gathers it, minding clock, caller and silence.

Its source is any TextStream: a server, or an engine in this process that takes a picture and gives text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from egm_edge.decoding import Stage, TokenEvent
from egm_edge.errors import BackendError

POLL_S = 0.02  # how late a cancel may be noticed while the server is silent
MAX_REPLY_CHARS = 1 << 20
END_OF_THOUGHT = "</think>"
ANSWER_BEGINNINGS = ("[", "{", "`", "<|", "<ref>", "<box>", "<answer>")


@dataclass(frozen=True, slots=True)
class EngineMeasurements:
    """What an engine in this process measured itself.

    Attributes:
        preprocess_ms: picture and prompt made ready for the engine, after this side's own resize.
        prefill_ms: the engine's first step on the request to its first token, vision tower included, waiting for a place in
            the batch left out; None where it did not say.
        cached_tokens: prompt tokens that were in the KV cache already.
        decode_steps: how often the engine ran to generate, 0 where it did not say.
    """

    preprocess_ms: float = 0.0
    prefill_ms: float | None = None
    cached_tokens: int = 0
    decode_steps: int = 0


@dataclass(frozen=True, slots=True)
class TextChunk:
    """One piece of a reply; what it does not tell is "" or None.

    Attributes:
        text: of the answer, and of a thought that is not kept apart. thought: one that is.
        finish_reason: "stop", "length", … on the last piece. model: as the server names it.
        prompt_tokens, completion_tokens: of the whole reply so far. measured: see there.
    """

    text: str = ""
    thought: str = ""
    finish_reason: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    measured: EngineMeasurements | None = None


class TextStream(Protocol):
    """A reply under way: `ChatStream` over HTTP, an engine in this process elsewhere."""

    def next(self, timeout_s: float) -> TextChunk | None:
        """The next piece, None at the end; TimeoutError when none came in time."""

    def close(self) -> None:
        """End the reply, wherever it is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request.

    Attributes:
        ends_at: `time.monotonic()` of the deadline, infinite for none.
        stall_s: silence after which a request is given up.
    """

    ends_at: float = math.inf
    stall_s: float = math.inf

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.ends_at - time.monotonic()


@dataclass(slots=True)
class ChatReply:
    """What came back so far.

    Attributes:
        in_thought: the prompt opens a thought, so the reply begins inside it.
        text: the reply; a thought that the server keeps apart stands in it between its tags.
        thought_apart: the server's reasoning parser sent one.
        model: as the server names it, "" where it does not.
        think_tokens: pieces of thought. completion_tokens: pieces, where the server gives no usage. prompt_tokens: 0 where it
            gives none. usage_given: it gives usage.
        finish_reason: the server's, "" when the reply was cut off here. stopped, out_of_time: why it was.
        measured: an engine's own measurements, where it gives any.
        piece_times: `time.perf_counter()` of each piece of text. sent_at, finished_at, answer_from: likewise, of the request,
            of the end, and of the first piece after the thought (None without one).
    """

    in_thought: bool = False
    text: str = ""
    thought_apart: bool = False
    model: str = ""
    think_tokens: int = 0
    completion_tokens: int = 0
    usage_given: bool = False
    prompt_tokens: int = 0
    finish_reason: str = ""
    stopped: bool = False
    out_of_time: bool = False
    measured: EngineMeasurements = EngineMeasurements()
    piece_times: list[float] = field(default_factory=list, repr=False)
    sent_at: float = field(default_factory=time.perf_counter)
    finished_at: float = 0.0
    answer_from: float | None = None
    _thinking_apart: bool = False

    @property
    def is_cut(self) -> bool:
        """It ended before the model did."""
        return self.finish_reason == "length" or self.stopped or self.out_of_time

    @property
    def opened_in_thought(self) -> bool:
        """Whether the text is to be read as beginning inside a thought. A template may open one in the prompt without our
        knowing: of a cut reply, anything that is no answer's beginning is then taken for a thought."""
        if self.thought_apart or self.in_thought:
            return not self.thought_apart
        no_answer = not self.text.lstrip().startswith(ANSWER_BEGINNINGS)
        return self.is_cut and END_OF_THOUGHT not in self.text and no_answer

    @property
    def answer(self) -> str:
        """The text without a thought that the server keeps apart."""
        return self.text.partition(END_OF_THOUGHT)[2] if self.thought_apart else self.text

    def add(self, chunk: TextChunk, on_token: Callable[[TokenEvent], None] | None = None) -> None:
        """Take one piece in, and tell of its text."""
        self.prompt_tokens = self.prompt_tokens if chunk.prompt_tokens is None else chunk.prompt_tokens
        for text, apart in ((chunk.thought, True), (chunk.text, False)):
            if text:
                self._add_text(text, apart, on_token)
        if chunk.completion_tokens is not None:
            self.completion_tokens, self.usage_given = chunk.completion_tokens, True
        self.measured = chunk.measured or self.measured
        self.model, self.finish_reason = chunk.model or self.model, chunk.finish_reason or self.finish_reason

    def finish(self) -> None:
        """Nothing comes any more."""
        self.finished_at = time.perf_counter()
        if self._thinking_apart:
            self._close_thought()

    def _add_text(self, text: str, apart: bool, on_token: Callable[[TokenEvent], None] | None) -> None:
        if len(self.text) + len(text) > MAX_REPLY_CHARS:
            raise BackendError(f"a reply under {MAX_REPLY_CHARS:,} characters", "a longer one", "check the server")
        self.piece_times.append(time.perf_counter())
        if apart and not self._thinking_apart:
            self._thinking_apart = self.thought_apart = True
            self.text += "<think>"
        elif not apart and self._thinking_apart:
            self._close_thought()
        self.text += text
        self.completion_tokens += 1
        thinking = apart or (END_OF_THOUGHT not in self.text and (self.in_thought or "<think>" in self.text))
        if thinking:
            self.think_tokens += 1
        elif self.answer_from is None and END_OF_THOUGHT in self.text:
            self.think_tokens = max(self.think_tokens, self.completion_tokens)
            self.answer_from = time.perf_counter()
        if on_token is not None:
            on_token(TokenEvent(self.completion_tokens, text, Stage.THINK if thinking else Stage.ANSWER))

    def _close_thought(self) -> None:
        self._thinking_apart = False
        self.text += END_OF_THOUGHT
        self.answer_from = time.perf_counter()


def gather(
    reply: ChatReply,
    open_stream: Callable[[], TextStream],
    limits: Limits,
    should_stop: Callable[[], bool] | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
    *,
    where: str,
) -> ChatReply:
    """Read a reply to its end, to the deadline, or to `should_stop`.

    Args:
        open_stream: sends the request and gives its reply; not called where there is no time left for it.

    Raises:
        BackendError: silence for `limits.stall_s`. And what the stream raises.
    """
    if has_ended(reply, limits, should_stop):
        reply.finish()
        return reply
    stream = open_stream()
    heard = time.perf_counter()
    try:
        while not has_ended(reply, limits, should_stop):
            silent_s = time.perf_counter() - heard
            if silent_s > limits.stall_s:
                hint = "check the server, or set a deadline"
                raise BackendError(f"{where} to go on", f"silence for {silent_s:.0f} s", hint)
            try:
                chunk = stream.next(min(POLL_S if should_stop else 1.0, limits.left_s(), limits.stall_s))
            except TimeoutError:
                continue
            heard = time.perf_counter()
            if chunk is None:
                break
            reply.add(chunk, on_token)
        reply.finish()
        return reply
    finally:
        stream.close()


def has_ended(reply: ChatReply, limits: Limits, should_stop: Callable[[], bool] | None) -> bool:
    """Note whether the caller or the clock ends the reply."""
    reply.stopped = should_stop is not None and should_stop()
    reply.out_of_time = not reply.stopped and limits.left_s() <= 0
    return reply.stopped or reply.out_of_time
