"""What of a request cannot be honoured: every such field by its name, to be told to the client or, with --strict, refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from egm_edge.serve.errors import RequestError
from egm_edge.serve.schema import NEUTRAL, ChatRequest, UserMessage

HEADER = "X-Egm-Ignored"
MAX_NAMES = 64
OTHERS = (
    "enable_thinking",
    "chat_template_kwargs",
    "reasoning_effort",
    "guided_json",
    "structured_outputs",
)  # not of OpenAI's protocol as EGM's servers speak it
HONOURED = ("stop", "response_format", "tools", "tool_choice")  # by `request_parsing`, where they can be
_ODD = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def ignored_fields(request: ChatRequest, *, strict: bool) -> list[str]:
    """Names of fields whose value is not the neutral one and changes nothing here.

    Raises:
        RequestError: 400, for `n` above 1, which no answer could be right for; with `strict` for the first of any of them.
    """
    found = []
    for name, neutral in NEUTRAL.items():
        value = getattr(request, name)
        if value is None or any(_same(value, each) for each in neutral):
            continue
        if strict or name == "n":
            expected = f"expected {name} to be {neutral[0]!r} or absent; it is not offered"
            raise RequestError(400, expected, "unsupported", param=name)
        found += [] if name in HONOURED else [name]
    top_k, drawn = request.top_k, bool(request.temperature)
    if strict and top_k is not None and (type(top_k) is not int or (drawn and top_k > 0)):
        expected = "expected top_k -1, 0 or absent with a temperature above 0"
        raise RequestError(400, expected, "unsupported", param="top_k")
    if request.stream_options is not None and not request.stream:
        if strict:
            expected = "expected stream_options only with stream: true"
            raise RequestError(400, expected, "invalid_value", param="stream_options")
        found.append("stream_options")
    unknown = [*_unknown(request)]
    unknown += [name for name in OTHERS if strict and getattr(request, name) is not None]
    if strict and unknown:
        expected = f"expected fields that are known; found {unknown[0][:200]!r}; leave it out"
        raise RequestError(400, expected, "unknown_field", param=unknown[0][:200])
    return found + unknown


def shown(names: list[str]) -> tuple[str, ...]:
    """The names as they may stand in a header: bounded, plain ASCII, each once."""
    plain = dict.fromkeys(_ODD.sub("?", name[:100]) for name in names)
    return tuple(plain)[:MAX_NAMES]


def _unknown(model: BaseModel, path: str = "") -> Iterator[str]:
    for name, value in (model.model_extra or {}).items():
        if value is not None:
            yield path + name
    for name in type(model).model_fields:
        value = getattr(model, name)
        for at, each in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(each, BaseModel) and (name != "messages" or isinstance(each, UserMessage)):
                yield from _unknown(each, f"{path}{name}." if at is None else f"{path}{name}.{at}.")


def _same(value: Any, neutral: Any) -> bool:
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (value, neutral))
    return bool(value == neutral and (numbers or type(value) is type(neutral)))
