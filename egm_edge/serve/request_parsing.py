"""A request's JSON -> a ParsedRequest the engine can answer, or a RequestError that names the field at fault.

What the engine cannot honour is refused, never ignored: the one exception is a value that means "the default". Knows no
HTTP; runs in a worker thread, because pictures are large.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from egm_edge.decoding.options import DecodingOptions
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.families.client_sentences import read_sentence
from egm_edge.grounding import Task
from egm_edge.images import read_image_wh
from egm_edge.serve.errors import RequestError
from egm_edge.serve.schema import NEUTRAL, ChatRequest, ImagePart, TextPart
from egm_edge.serve.settings import ServeSettings

_DATA_URL = re.compile(r"data:(?P<type>[a-zA-Z0-9.+/-]{0,80})(?:;[a-zA-Z0-9=._-]{1,80}){0,4};base64,")
_SENTENCE_HINT = "send one user message with one picture and one text"


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One request, ready for the engine.

    Attributes:
        picture: encoded bytes, as sent. picture_sha256: of them; the same picture again finds its kept frame.
        expression: what to find; the whole text where it is no sentence that is known.
        task: modal or amodal.
        prompt: exact user text for the model; None asks in the bundle's own words.
        options: how to decode; the answer's syntax is forced only for questions that ask for a box.
        stream, include_usage: how to answer.
    """

    picture: bytes = field(repr=False)
    picture_sha256: str
    expression: str
    task: Task
    prompt: str | None
    options: DecodingOptions
    stream: bool = False
    include_usage: bool = False


def parse_request(body: bytes, settings: ServeSettings) -> ParsedRequest:
    """Check a request's body and take it apart.

    Raises:
        RequestError: 400 for everything a client can hint, 404 for a model that is not served, 413 for too many pixels.
    """
    request = _parse(body)
    if settings.model_names and request.model not in settings.model_names:
        names = ", ".join(settings.model_names)
        raise RequestError(404, f"expected model {names}; found {request.model!r}", "model_not_found", param="model")
    _refuse_what_is_not_offered(request)
    image, text = _content(request)
    picture = _picture(image.image_url.url, settings)
    expression, task, prompt = _ask(text, request.task, settings)
    return ParsedRequest(
        picture=picture,
        picture_sha256=hashlib.sha256(picture).hexdigest(),
        expression=expression,
        task=task,
        prompt=prompt,
        options=_options(request, asks_for_a_box=prompt is None or read_sentence(text) is not None),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )


def _parse(body: bytes) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = max(problems, key=lambda problem: len(problem["loc"]))  # of a union's branches, the one that got furthest
    where = ".".join(str(part) for part in first["loc"] if "[" not in str(part) and not str(part).startswith("constrained-"))[:200]
    if first["type"] == "json_invalid":
        raise RequestError(400, f"expected a JSON body; found {first['msg']}", "invalid_json")
    if first["type"] == "extra_forbidden":
        raise RequestError(
            400, f"expected fields that are known; found {where!r}; leave it out", "unknown_field", param=where
        )
    raise RequestError(400, f"{where or 'body'}: {first['msg']}", "invalid_value", param=where or None)


def _options(request: ChatRequest, *, asks_for_a_box: bool) -> DecodingOptions:
    return DecodingOptions(
        max_new_tokens=request.max_completion_tokens or request.max_tokens,
        deadline_ms=request.deadline_ms,
        max_think_tokens=request.max_think_tokens,
        samples=None if request.samples == "auto" else request.samples or 1,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        force_syntax=asks_for_a_box,
    )


def _refuse_what_is_not_offered(request: ChatRequest) -> None:
    for name, neutral in NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and not any(
            type(value) is type(v) or _both_numbers(value, v) for v in neutral if v == value
        ):
            raise RequestError(
                400, f"expected {name} to be {neutral[0]!r} or absent; it is not offered", "unsupported", param=name
            )
    top_k = request.top_k
    if top_k is not None and (type(top_k) is not int or (request.temperature and top_k > 0)):
        raise RequestError(
            400, "expected top_k -1, 0 or absent with a temperature above 0", "unsupported", param="top_k"
        )
    if request.stream_options is not None and not request.stream:
        raise RequestError(
            400, "expected stream_options only with stream: true", "invalid_value", param="stream_options"
        )


def _both_numbers(left: Any, right: Any) -> bool:
    return not isinstance(left, bool) and not isinstance(right, bool) and isinstance(left, (int, float))


def _content(request: ChatRequest) -> tuple[ImagePart, str]:
    """The picture and the text of the one user turn. The picture goes first whatever the order, as EGM was trained."""
    roles = [message.role for message in request.messages]
    if roles != ["user"]:
        found = ", ".join(roles[:8])
        raise RequestError(
            400, f"expected one user message; found {found}; put everything into it", "unsupported", param="messages"
        )
    content = request.messages[0].content
    parts = content if isinstance(content, list) else []
    images = [part for part in parts if isinstance(part, ImagePart)]
    if len(images) != 1:
        found = f"{len(images)} pictures"
        raise RequestError(
            400, f"expected one image_url part; found {found}; {_SENTENCE_HINT}", "invalid_value", param="messages"
        )
    return images[0], "".join(part.text for part in parts if isinstance(part, TextPart))


def _picture(url: str, settings: ServeSettings) -> bytes:
    where = "messages.0.content"
    if not (match := _DATA_URL.match(url)):
        scheme = url.partition(":")[0][:16] if ":" in url[:17] else "no scheme"
        raise RequestError(
            400,
            f"expected image_url.url as data:image/...;base64,...; found {scheme!r}; this server fetches nothing, "
            "send the picture inside the request",
            "invalid_image_url",
            param=where,
        )
    try:
        picture = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            400, f"expected base64 after 'base64,'; found {error}", "invalid_base64", param=where
        ) from None
    try:
        width, height = read_image_wh(picture)
    except InputError as error:
        raise RequestError(400, str(error), "invalid_image", param=where) from None
    if width * height > settings.max_pixels:
        limit, found = f"{settings.max_pixels / 1e6:g} megapixels", f"{width}x{height} pixels"
        raise RequestError(
            413, f"expected a picture of at most {limit}; found {found}; scale it down", "image_too_large", param=where
        )
    return picture


def _ask(text: str, task: str | None, settings: ServeSettings) -> tuple[str, Task, str | None]:
    """Expression, task, and the exact prompt or None for the bundle's own words."""
    try:
        if task is not None:
            return check_expression(text), Task(task), None
        if known := read_sentence(text):
            check_expression(known[0])
            return *known, text if settings.verbatim else None
        check_expression(text, tags="<ref></ref>")  # the bundle's family decides on these
    except InputError as error:
        raise RequestError(400, str(error), "invalid_value", param="messages.0.content") from None
    return text, Task.MODAL, text
