"""A request's JSON -> a ParsedRequest the engine can answer, or a RequestError that names the field at fault.

What clients ordinarily send is honoured or, with its name told, ignored; with `strict` nothing is ignored. Knows no HTTP; runs
in a worker thread, because pictures are large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from egm_edge.decoding.options import DecodingOptions
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.families.client_sentences import read_sentence
from egm_edge.grounding import Task
from egm_edge.serve.answer_format import AnswerFormat, requested_format
from egm_edge.serve.errors import RequestError
from egm_edge.serve.ignored import ignored_fields, shown
from egm_edge.serve.pictures import EncodedPicture, read_picture
from egm_edge.serve.schema import MAX_INT, ChatRequest, ImagePart, TextPart, UserMessage
from egm_edge.serve.settings import ServeSettings

MAX_STOPS = 16
MAX_TEXT_CHARS = 20_000
ROLES = ("user", "system", "developer", "assistant", "tool", "function")
_PLAIN: tuple[Any, ...] = (None, {"type": "text"})
_SENTENCE_HINT = "send one user message with one picture and one text"
_PartT = TypeVar("_PartT", ImagePart, TextPart)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One request, ready for the engine.

    Attributes:
        picture: as it was sent.
        expression: what to find; the whole text where it is no sentence that is known.
        task: modal or amodal.
        prompt: exact user text for the model; None asks in the bundle's own words.
        options: how to decode; the answer's syntax is forced only for requests that ask for a box.
        stream, include_usage: how to answer. answer_format: in which JSON, None for the model's own text.
        stop: texts that would end the answer. ignored: names of what is not honoured.
    """

    picture: EncodedPicture
    expression: str
    task: Task
    prompt: str | None
    options: DecodingOptions
    stream: bool = False
    include_usage: bool = False
    answer_format: AnswerFormat | None = None
    stop: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddressedRequest:
    """A request whose picture is still to be fetched.

    Attributes:
        url: where it lies. with_picture: the request that the engine answers.
    """

    url: str
    with_picture: Callable[[EncodedPicture], ParsedRequest]


def parse_request(body: bytes, settings: ServeSettings) -> ParsedRequest | AddressedRequest:
    """Check a request's body and take it apart.

    Raises:
        RequestError: 400 for everything a client can correct, 404 for a model that is not served, 413 for too many pixels.
    """
    request, strict = _parse(body), settings.strict
    if settings.model_names and request.model and request.model not in settings.model_names:
        names = ", ".join(settings.model_names)
        raise RequestError(404, f"expected model {names}; found {request.model!r}", "model_not_found", param="model")
    ignored = ignored_fields(request, strict=strict)
    url, text, unused = _turn(request, strict=strict)
    answer_format = requested_format(_format_asked(request), request.tools, request.tool_choice)
    expression, task, prompt = _ask(text, request.task, settings)
    options = _options(request, asks_for_a_box=prompt is None or read_sentence(text) is not None)
    with_picture = partial(
        ParsedRequest,
        expression=expression,
        task=task,
        prompt=prompt,
        options=options,
        stream=bool(request.stream),
        include_usage=bool(request.stream and request.stream_options and request.stream_options.include_usage),
        answer_format=answer_format,
        stop=_stops(request),
        ignored=shown([*ignored, *unused, *_unused(request, answer_format)]),
    )
    picture = read_picture(url, settings)
    return AddressedRequest(url, with_picture) if picture is None else with_picture(picture)


def _parse(body: bytes) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = max(problems, key=lambda problem: len(problem["loc"]))  # of a union's branches, the one that got furthest
    path = [
        str(part) for at, part in enumerate(first["loc"]) if at != 2 or part not in ROLES
    ]  # without the union's tag
    where = ".".join(part for part in path if "[" not in part and not part.startswith("constrained-"))[:200]
    if first["type"] == "json_invalid":
        raise RequestError(400, f"expected a JSON body; found {first['msg']}", "invalid_json")
    raise RequestError(400, f"{where or 'body'}: {first['msg']}", "invalid_value", param=where or None)


def _options(request: ChatRequest, *, asks_for_a_box: bool) -> DecodingOptions:
    think = 0 if request.max_think_tokens is None and _wants_no_thought(request) else request.max_think_tokens
    return DecodingOptions(
        max_new_tokens=request.max_completion_tokens or request.max_tokens,
        deadline_ms=request.deadline_ms,
        max_think_tokens=think,
        samples=None if request.samples == "auto" else request.samples or 1,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k if type(request.top_k) is int and 0 < request.top_k <= MAX_INT else None,
        seed=request.seed,
        force_syntax=asks_for_a_box,
    )


def _wants_no_thought(request: ChatRequest) -> bool:
    """Each in the words of another client: Qwen's, vLLM's and SGLang's, OpenAI's."""
    given = request.chat_template_kwargs if isinstance(request.chat_template_kwargs, dict) else {}
    off = request.enable_thinking is False or given.get("enable_thinking") is False
    return off or request.reasoning_effort == "none"


def _unused(request: ChatRequest, format_wanted: AnswerFormat | None) -> list[str]:
    """Fields that are honoured in some of their values, and hold another one."""
    found = []
    if request.enable_thinking is not None and not isinstance(request.enable_thinking, bool):
        found.append("enable_thinking")
    if isinstance(given := request.chat_template_kwargs, dict):
        found += [f"chat_template_kwargs.{name}" for name in given if name != "enable_thinking"]
    elif given is not None:
        found.append("chat_template_kwargs")
    if request.reasoning_effort not in (None, "none"):
        found.append("reasoning_effort")
    if request.top_k is not None and not (type(request.top_k) is int and request.top_k <= MAX_INT):
        found.append("top_k")
    if request.stop and not _stops(request):
        found.append("stop")
    called = format_wanted is not None and bool(format_wanted.function)
    if request.tools and not called:
        found += ["tools"] + (["tool_choice"] if request.tool_choice not in (None, "none", "auto") else [])
    is_kept = not called and format_wanted is not None and format_wanted.fits
    if not is_kept and request.response_format not in _PLAIN:
        found.append("response_format")
    return [*found, *_unkept_guides(request, is_kept=is_kept)]


def _unkept_guides(request: ChatRequest, *, is_kept: bool) -> Iterator[str]:
    """Of vLLM's constraints on an answer those that this one does not keep; only a schema, or any JSON, can be kept."""
    if request.guided_json not in (None, {}) and not is_kept:
        yield "guided_json"
    newer = request.structured_outputs
    if isinstance(newer, dict):
        for name, value in newer.items():
            if value not in (None, False, {}) and not (is_kept and name in ("json", "json_object")):
                yield f"structured_outputs.{name}"
    elif newer is not None:
        yield "structured_outputs"


def _format_asked(request: ChatRequest) -> Any:
    """OpenAI's response_format; where there is none, a schema in vLLM's words as one."""
    newer = request.structured_outputs if isinstance(request.structured_outputs, dict) else {}
    schema = request.guided_json or newer.get("json")
    if request.response_format in _PLAIN and isinstance(schema, dict):
        return {"type": "json_schema", "json_schema": {"schema": schema}}
    if request.response_format in _PLAIN and newer.get("json_object") is True:
        return {"type": "json_object"}
    return request.response_format


def _stops(request: ChatRequest) -> tuple[str, ...]:
    listed = [request.stop] if isinstance(request.stop, str) else request.stop
    if not isinstance(listed, list) or len(listed) > MAX_STOPS or not all(isinstance(s, str) and s for s in listed):
        return ()
    return tuple(listed)


def _turn(request: ChatRequest, *, strict: bool) -> tuple[str, str, list[str]]:
    """Picture address and text of the last user turn, and what else was said. A picture of an earlier turn counts where
    the last one has none. The picture goes first whatever the order, as EGM was trained."""
    users = [at for at, message in enumerate(request.messages) if isinstance(message, UserMessage)]
    if not users or (strict and len(request.messages) > 1):
        found = ", ".join(message.role for message in request.messages[:8])
        expected = f"expected one user message; found {found}; put everything into it"
        raise RequestError(400, expected, "unsupported", param="messages")
    shown = next((at for at in reversed(users) if _parts(request, at, ImagePart)), users[-1])
    images = _parts(request, shown, ImagePart)
    if len(images) != 1:
        expected = f"expected one image_url part; found {len(images)} pictures; {_SENTENCE_HINT}"
        raise RequestError(400, expected, "invalid_value", param="messages")
    said = request.messages[users[-1]].content or ""
    text = said if isinstance(said, str) else "".join(part.text for part in _parts(request, users[-1], TextPart))
    others = [at for at, message in enumerate(request.messages) if message.content and at not in (shown, users[-1])]
    unused = [f"messages.{at}" for at in others]
    if shown != users[-1] and _parts(request, shown, TextPart):
        unused.append(f"messages.{shown}.text")
    return images[0].image_url.url, text, unused


def _parts(request: ChatRequest, at: int, kind: type[_PartT]) -> list[_PartT]:
    content = request.messages[at].content
    return [part for part in content if isinstance(part, kind)] if isinstance(content, list) else []


def _ask(text: str, task: Task | None, settings: ServeSettings) -> tuple[str, Task, str | None]:
    """Expression, task, and the exact prompt or None for the bundle's own words."""
    if len(text) > MAX_TEXT_CHARS:
        expected = f"expected a text of at most {MAX_TEXT_CHARS:,} characters; found {len(text):,}"
        raise RequestError(400, expected, "invalid_value", param="messages")
    try:
        if task is not None:
            return check_expression(text), task, None
        if known := read_sentence(text):
            check_expression(known[0])
            return *known, text if settings.verbatim else None
        check_expression(text, tags="<ref></ref>")  # the bundle's family decides on these
    except InputError as error:
        raise RequestError(400, str(error), "invalid_value", param="messages.0.content") from None
    return text, Task.MODAL, text
