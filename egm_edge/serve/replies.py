"""A Grounding as OpenAI's chat.completion, whole or as a stream of chunks, with the Grounding itself in the field `egm`."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from egm_edge.grounding import Grounding, Truncation

CUT_BY_LENGTH = {Truncation.MAX_NEW_TOKENS, Truncation.CONTEXT_TOKENS}


def _completion_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


@dataclass(slots=True)
class Reply:
    """Builds the answer to one request.

    Attributes:
        model: the name that is reported. fingerprint: of what produced the text.
        hidden: matches special tokens, which clients of a general server never see in the text.
    """

    model: str
    fingerprint: str
    hidden: re.Pattern[str]
    id: str = field(default_factory=_completion_id)
    created: int = field(default_factory=lambda: int(time.time()))
    streamed: str = ""

    def whole(self, grounding: Grounding) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": grounding.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(grounding)}
        return self._head("chat.completion") | {
            "choices": [choice],
            "usage": usage(grounding),
            "egm": grounding.to_dict(),
        }

    def opening(self) -> bytes:
        """The first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """A chunk of text; empty bytes where nothing of it is shown."""
        shown = self.hidden.sub("", text)
        self.streamed += shown
        return self._chunk({"content": shown}) if shown else b""

    def closing(self, grounding: Grounding, *, include_usage: bool) -> bytes:
        """What the pieces left out (a character cut in two), why it ended, the Grounding, the usage, and the end mark."""
        rest = grounding.text.removeprefix(self.streamed) if grounding.text.startswith(self.streamed) else ""
        last = self._chunk({"content": rest}) if rest else b""
        last += self._chunk({}, finish_reason(grounding), egm=grounding.to_dict())
        if include_usage:
            last += event(self._head("chat.completion.chunk") | {"choices": [], "usage": usage(grounding)})
        return last + b"data: [DONE]\n\n"

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
