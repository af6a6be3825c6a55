"""A Grounding as OpenAI's chat.completion, whole or as a stream of chunks, with the Grounding itself in the field `egm`."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from egm_edge.grounding import Grounding, Truncation
from egm_edge.serve.request_parsing import ParsedRequest

CUT_BY_LENGTH = {Truncation.MAX_NEW_TOKENS, Truncation.CONTEXT_TOKENS}


def _completion_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


@dataclass(slots=True)
class Reply:
    """Builds the answer to one request.

    Attributes:
        model: the name that is reported. fingerprint: of what produced the text.
        hidden: matches special tokens, which clients of a general server never see in the text.
        request: what was asked for: stop texts, a JSON format, and what of it is ignored.
    """

    model: str
    fingerprint: str
    hidden: re.Pattern[str]
    request: ParsedRequest
    id: str = field(default_factory=_completion_id)
    created: int = field(default_factory=lambda: int(time.time()))
    streamed: str = ""

    @property
    def in_pieces(self) -> bool:
        """Whether the text may be sent as it is generated. Of several samples only the vote says which text is the answer,
        and a format is made of the whole answer."""
        return self.request.options.samples == 1 and self.request.answer_format is None

    def whole(self, grounding: Grounding) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": None, "refusal": None} | self._said(grounding)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(grounding)}
        return self._head("chat.completion") | {
            "choices": [choice],
            "usage": usage(grounding),
            "egm": self._egm(grounding),
        }

    def opening(self) -> bytes:
        """The first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """A chunk of text; empty bytes where nothing of it is shown."""
        shown = self.hidden.sub("", text) if self.in_pieces else ""
        self.streamed += shown
        return self._chunk({"content": shown}) if shown else b""

    def closing(self, grounding: Grounding, *, include_usage: bool) -> bytes:
        """What the pieces left out (a character cut in two), why it ended, the Grounding, the usage, and the end mark."""
        said = self._said(grounding)
        if said.get("content", "").startswith(self.streamed):
            said["content"] = said["content"].removeprefix(self.streamed)
        for at, call in enumerate(said.get("tool_calls", ())):
            call["index"] = at
        last = self._chunk(said) if said.get("content") or said.get("tool_calls") else b""
        last += self._chunk({}, finish_reason(grounding), egm=self._egm(grounding))
        if include_usage:
            last += event(self._head("chat.completion.chunk") | {"choices": [], "usage": usage(grounding)})
        return last + b"data: [DONE]\n\n"

    def _said(self, grounding: Grounding) -> dict[str, Any]:
        """The message's fields: the model's text, or the answer as the JSON that was asked for, its thought apart."""
        wanted = self.request.answer_format
        if wanted is None:
            return {"content": grounding.text}
        thought = {"reasoning_content": grounding.reasoning} if grounding.reasoning else {}
        if not wanted.function:
            return {"content": wanted.json(grounding)} | thought
        function = {"name": wanted.function, "arguments": wanted.json(grounding)}
        return {"tool_calls": [{"id": f"call_{self.id[-24:]}", "type": "function", "function": function}]} | thought

    def _egm(self, grounding: Grounding) -> dict[str, Any]:
        stopped = any(stop in grounding.text for stop in self.request.stop)  # half an answer is none: it stays whole
        return grounding.to_dict() | {"ignored": [*self.request.ignored, *(["stop"] if stopped else [])]}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(self._head("chat.completion.chunk") | {"choices": [choice]} | more)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def finish_reason(grounding: Grounding) -> str:
    """ "length" where a token limit ended the text, "stop" otherwise."""
    return "length" if grounding.truncated_by & CUT_BY_LENGTH else "stop"


def usage(grounding: Grounding) -> dict[str, Any]:
    """Tokens as OpenAI counts them; cached are the ones of a kept picture."""
    tokens = grounding.tokens
    cached = tokens.image if grounding.timings.frame_reused else 0
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.think},
    }
