"""The chat-completions request as pydantic models: OpenAI's fields, what other servers' clients add, and this server's own.

Types only: which values can be honoured is decided in `request_parsing`. The same models make the OpenAPI document. Fields
that are not here are kept too, so that `ignored` can name them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from egm_edge.decoding.options import MAX_DEADLINE_MS, MAX_SAMPLES, MAX_TEMPERATURE
from egm_edge.grounding import Task

MAX_PARTS = 256
MAX_MESSAGES = 1024
MAX_INT = 2**31 - 1
MAX_NAME_CHARS = 256

Name = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)]
Count = Annotated[int, Field(ge=1, le=MAX_INT)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _whole(value: Any) -> Any:
    """512.0 is 512, as JSON has one kind of number; -1 is none, as llama.cpp's and vLLM's clients send it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if type(value) is int and value == -1 else value


def _seed(value: Any) -> Any:
    seed = _whole(value)
    return seed % 2**63 if type(seed) is int and -(2**63) <= seed < 0 else seed


def _part(value: Any) -> Any:
    """A part in the words of the chat protocol: a text alone, no `type`, and the Responses protocol's names are known too."""
    if isinstance(value, str):
        return {"type": "text", "text": value}
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind == "input_text" or (kind is None and "text" in value):
        return value | {"type": "text"}
    picture = next((value[name] for name in ("image_url", "image", "url") if value.get(name) is not None), None)
    if picture is not None and kind in ("input_image", "image", None):
        rest = {name: given for name, given in value.items() if name not in ("image", "url", "detail")}
        return rest | {"type": "image_url", "image_url": picture}
    return value


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


class ImageUrl(_Model):
    """Where a picture is: inside the request, or at an address where the server was told to fetch."""

    url: str = Field(description="data:image/jpeg;base64,... (or png, webp, bmp, gif)", repr=False)
    detail: Any = Field("auto", description="accepted; the bundle's own pixel budget decides")


class ImagePart(_Model):
    """A picture."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(lambda value: {"url": value} if isinstance(value, str) else value)]


class TextPart(_Model):
    """What to find."""

    type: Literal["text"]
    text: str


Part = Annotated[ImagePart | TextPart, Field(discriminator="type"), BeforeValidator(_part)]


class UserMessage(_Model):
    """A question. The last one is answered, about the last picture up to it."""

    role: Literal["user"]
    content: str | Annotated[list[Part], Field(max_length=MAX_PARTS)] | None = None
    name: Name | None = None


class OtherMessage(_Model):
    """What others said: read past, and named in `egm.ignored`."""

    role: Literal["system", "developer", "assistant", "tool", "function"]
    content: Any = None


Message = Annotated[UserMessage | OtherMessage, Field(discriminator="role")]


class StreamOptions(_Model):
    """What a stream carries beside the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(_Model):
    """POST /v1/chat/completions."""

    model: Name | None = Field(None, description="any name or none, unless the server was started with --model-name")
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: Annotated[Count | None, BeforeValidator(_whole)] = Field(
        None, description="more than the bundle's limit, or -1, means that limit"
    )
    max_completion_tokens: Annotated[Count | None, BeforeValidator(_whole)] = Field(
        None, description="wins over max_tokens"
    )
    temperature: float | None = Field(
        None, ge=0, le=MAX_TEMPERATURE, description="0, the most likely token, by default"
    )
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Annotated[Seed | None, BeforeValidator(_seed)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Any = None
    metadata: Any = None

    n: Any = Field(None, description="1")
    stop: Any = Field(None, description="texts that end the answer; one that the answer holds is ignored")
    logprobs: Any = Field(None, description="ignored unless false")
    top_logprobs: Any = Field(None, description="ignored unless none")
    logit_bias: Any = Field(None, description="ignored unless none")
    frequency_penalty: Any = Field(None, description="ignored unless 0")
    presence_penalty: Any = Field(None, description="ignored unless 0")
    repetition_penalty: Any = Field(None, description="ignored unless 1")
    top_k: Any = Field(None, description="draw from the so many likeliest tokens; 0 or -1 for all")
    min_p: Any = Field(None, description="ignored unless 0")
    tools: Any = Field(
        None, description="ignored, but for a function that tool_choice asks for: it is given the answer"
    )
    tool_choice: Any = Field(None, description="a function of tools; anything else is ignored")
    parallel_tool_calls: Any = Field(None, description="any: there are no tools")
    response_format: Any = Field(None, description="text, json_object or json_schema: the answer as that JSON")
    guided_json: Any = Field(None, description="a schema for the answer, as older vLLM's clients send it")
    structured_outputs: Any = Field(None, description="its json, or json_object: the answer's form, as vLLM's clients send it")
    modalities: Any = Field(None, description='["text"]')
    store: Any = Field(None, description="ignored unless false")
    service_tier: Any = Field(None, description="ignored unless auto or default")
    skip_special_tokens: Any = Field(None, description="ignored unless true")
    spaces_between_special_tokens: Any = Field(None, description="any")
    enable_thinking: Any = Field(None, description="false for no thought, as max_think_tokens 0")
    chat_template_kwargs: Any = Field(None, description="enable_thinking, as above; others are ignored")
    reasoning_effort: Any = Field(None, description="none for no thought; others are ignored")

    task: Task | None = Field(
        None,
        description="the text is a bare expression: the server asks for its visible part (modal) or its whole (amodal)",
    )
    deadline_ms: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_MS, description="milliseconds from arrival to the box"
    )
    max_think_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = Field(None, description="0 for no thought")
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | Literal["auto"] | None = Field(
        None, description="answers to vote among; auto: as many as the deadline allows"
    )


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "stop": ([], ""),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
}
