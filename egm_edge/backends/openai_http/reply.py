"""Ask once and gather the streamed reply, minding the clock, the caller's wish to stop, and a server that is too busy.

Knows nothing of boxes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from egm_edge.backends.openai_http.chat_stream import MAX_REPLY_CHARS, Refused, Server, refusal_error
from egm_edge.decoding import Stage, TokenEvent
from egm_edge.errors import BackendError, InputError

POLL_S = 0.02  # how late a cancel may be noticed while the server is silent
BUSY_STATUS = frozenset({429, 502, 503, 504})
BUSY_TRIES = 4
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0
END_OF_THOUGHT = "</think>"


class EventStream(Protocol):
    """A reply under way, as OpenAI's chat events; `ChatStream` over HTTP, an engine in this process elsewhere."""

    def next(self, timeout_s: float) -> Mapping[str, Any] | None:
        """The next event, None at the end; TimeoutError when none came in time."""

    def close(self) -> None:
        """End the reply, wherever it is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request.

    Attributes:
        max_new_tokens: cap on generated tokens, enforced by the server.
        ends_at: `time.perf_counter()` of the deadline, None without one.
        stall_s: silence after which a request is given up.
    """

    max_new_tokens: int
    ends_at: float | None
    stall_s: float

    @classmethod
    def of(cls, max_new_tokens: int, deadline_ms: float | None, started: float, stall_s: float) -> Limits:
        """Checked arguments.

        Raises:
            InputError: a limit below one token, or a deadline that is no positive number.
        """
        if max_new_tokens < 1:
            raise InputError("max_new_tokens of at least 1", str(max_new_tokens), "raise it")
        if deadline_ms is not None and not (math.isfinite(deadline_ms) and deadline_ms > 0):
            raise InputError("a deadline of more than 0 ms", str(deadline_ms), "raise it, or leave it out")
        return cls(max_new_tokens, None if deadline_ms is None else started + deadline_ms / 1e3, stall_s)

    def left_s(self) -> float:
        return math.inf if self.ends_at is None else self.ends_at - time.perf_counter()


@dataclass(frozen=True, slots=True)
class Measured:
    """What an engine in this process measured itself; an event carries it under "measured", which no JSON can forge.

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


@dataclass(slots=True)
class RemoteReply:
    """What came back so far.

    Attributes:
        text: the reply; a thought that the server sends apart stands in it between its tags.
        thought_apart: the server's reasoning parser sent one.
        think_tokens, completion_tokens: events where the server gives no usage. prompt_tokens: 0 where it gives none.
        finish_reason: the server's, "" when the reply was cut off here. stopped, out_of_time: why it was.
        measured: the engine's own measurements, where it gives any.
        sent_at, first_token_at, answer_from: `time.perf_counter()`, None where there was none.
    """

    sent_at: float
    text: str = ""
    thought_apart: bool = False
    think_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str = ""
    stopped: bool = False
    out_of_time: bool = False
    measured: Measured = Measured()
    first_token_at: float | None = None
    answer_from: float | None = None


def ask(
    server: Server,
    open_stream: Callable[[], EventStream],
    limits: Limits,
    should_stop: Callable[[], bool] | None,
    on_token: Callable[[TokenEvent], None] | None,
    *,
    in_thought: bool = False,
) -> RemoteReply:
    """One request; a server that says it is busy is asked again as long as the deadline allows.

    Args:
        open_stream: sends the request and gives its reply.
        in_thought: the prompt opens a thought, so the reply begins inside it.

    Raises:
        BackendError: see `RemoteGrounder.ground`.
    """
    wait_s = FIRST_WAIT_S
    for attempt in range(1, BUSY_TRIES + 1):
        reply = RemoteReply(sent_at=time.perf_counter())
        try:
            gather = _Gatherer(server, reply, on_token, in_thought)
            return _stream(server, open_stream, limits, should_stop, gather)
        except Refused as refusal:
            if refusal.status not in BUSY_STATUS or attempt == BUSY_TRIES:
                raise refusal_error(server, refusal) from None
            pause_s = min(wait_s if refusal.retry_after_s is None else refusal.retry_after_s, LONGEST_WAIT_S)
            wait_s *= 2
            if not _pause(pause_s, limits, should_stop, reply):
                return reply
    raise AssertionError("the last try returns or raises")


def _pause(pause_s: float, limits: Limits, should_stop: Callable[[], bool] | None, reply: RemoteReply) -> bool:
    """Wait before another try; False when the request ended meanwhile."""
    until = time.perf_counter() + pause_s
    while (left_s := until - time.perf_counter()) > 0:
        if _ended(limits, should_stop, reply):
            return False
        time.sleep(min(POLL_S, left_s, max(0.0, limits.left_s())))
    return not _ended(limits, should_stop, reply)


def _ended(limits: Limits, should_stop: Callable[[], bool] | None, reply: RemoteReply) -> bool:
    reply.stopped = should_stop is not None and should_stop()
    reply.out_of_time = not reply.stopped and limits.left_s() <= 0
    return reply.stopped or reply.out_of_time


def _stream(
    server: Server,
    open_stream: Callable[[], EventStream],
    limits: Limits,
    should_stop: Callable[[], bool] | None,
    gather: _Gatherer,
) -> RemoteReply:
    reply = gather.reply
    if _ended(limits, should_stop, reply):
        return reply
    stream = open_stream()
    heard = time.perf_counter()
    try:
        while True:
            if _ended(limits, should_stop, reply):
                return reply
            silent_s = time.perf_counter() - heard
            if silent_s > limits.stall_s:
                raise BackendError(
                    f"{server.where} to go on", f"silence for {silent_s:.0f} s", "check the server, or set a deadline"
                )
            try:
                event = stream.next(min(POLL_S if should_stop else 1.0, limits.left_s(), limits.stall_s))
            except TimeoutError:
                continue
            heard = time.perf_counter()
            if event is None:
                gather.finish()
                return reply
            gather.take(event)
    finally:
        stream.close()


class _Gatherer:
    """Adds events to a reply."""

    def __init__(
        self, server: Server, reply: RemoteReply, on_token: Callable[[TokenEvent], None] | None, in_thought: bool
    ) -> None:
        self.server, self.reply, self.on_token = server, reply, on_token
        self._opened = in_thought
        self._thinking_apart = False

    def take(self, event: Mapping[str, Any]) -> None:
        reply = self.reply
        usage = event.get("usage")
        if isinstance(usage, dict):
            reply.prompt_tokens = _count(usage.get("prompt_tokens"), reply.prompt_tokens)
            reply.completion_tokens = _count(usage.get("completion_tokens"), reply.completion_tokens)
        if isinstance(measured := event.get("measured"), Measured):
            reply.measured = measured
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        choice = choices[0]
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict):
            raise BackendError(f"chat events from {self.server.where}", f"{choice!r:.80}", "check the server's version")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:
            self._add(thought, apart=True)
        if isinstance(delta.get("content"), str) and delta["content"]:
            self._add(delta["content"], apart=False)
        if isinstance(choice.get("finish_reason"), str):
            reply.finish_reason = choice["finish_reason"]

    def finish(self) -> None:
        if self._thinking_apart:
            self._close_thought()

    def _add(self, text: str, *, apart: bool) -> None:
        reply = self.reply
        if len(reply.text) + len(text) > MAX_REPLY_CHARS:
            raise BackendError(f"a reply under {MAX_REPLY_CHARS:,} characters", "a longer one", "check the server")
        reply.first_token_at = reply.first_token_at or time.perf_counter()
        if apart and not self._thinking_apart:
            self._thinking_apart = reply.thought_apart = True
            reply.text += "<think>"
        elif not apart and self._thinking_apart:
            self._close_thought()
        reply.text += text
        reply.completion_tokens += 1
        thinking = apart or (END_OF_THOUGHT not in reply.text and (self._opened or "<think>" in reply.text))
        if thinking:
            reply.think_tokens += 1
        elif reply.answer_from is None and END_OF_THOUGHT in reply.text:
            reply.think_tokens = max(reply.think_tokens, reply.completion_tokens)
            reply.answer_from = time.perf_counter()
        if self.on_token is not None:
            stage = Stage.THINK if thinking else Stage.ANSWER
            self.on_token(TokenEvent(reply.completion_tokens, text, stage))

    def _close_thought(self) -> None:
        self._thinking_apart = False
        self.reply.text += END_OF_THOUGHT
        self.reply.answer_from = time.perf_counter()


def _count(stated: Any, otherwise: int) -> int:
    return stated if type(stated) is int and 0 <= stated < 2**31 else otherwise
