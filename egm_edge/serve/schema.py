"""The chat-completions request as pydantic models: OpenAI's fields, and this server's own at the end.

Types only: which values can be honoured is decided in `request_parsing`. The same models make the OpenAPI document. Unknown fields
are refused by name, because a field that is silently dropped is a wrong answer waiting to happen.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from egm_edge.decoding.options import MAX_DEADLINE_MS, MAX_SAMPLES, MAX_TEMPERATURE

MAX_PARTS = 16
MAX_MESSAGES = 64
MAX_INT = 2**31 - 1
TEXT_MAX_CHARS = 20_000

Text = Annotated[str, StringConstraints(max_length=TEXT_MAX_CHARS)]
Name = Annotated[str, StringConstraints(max_length=256)]
Count = Annotated[int, Field(ge=1, le=MAX_INT)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ImageUrl(_Model):
    """Where a picture is: here always inside the request."""

    url: str = Field(description="data:image/jpeg;base64,... (or png, webp, bmp)", repr=False)
    detail: Literal["auto", "low", "high"] = Field(
        "auto", description="accepted; the bundle's own pixel budget decides"
    )


class ImagePart(_Model):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(_Model):
    """What to find."""

    type: Literal["text"]
    text: Text


Part = Annotated[ImagePart | TextPart, Field(discriminator="type")]


class Message(_Model):
    """One turn. Requests here hold one user turn with one picture."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[Part], Field(max_length=MAX_PARTS)] | None = None
    name: Name | None = None


class StreamOptions(_Model):
    """What a stream carries beside the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(_Model):
    """POST /v1/chat/completions."""

    model: Name = Field(description="any name, unless the server was started with --model-name")
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: Count | None = Field(None, description="more than the bundle's limit means that limit")
    max_completion_tokens: Count | None = Field(None, description="wins over max_tokens")
    temperature: float | None = Field(
        None, ge=0, le=MAX_TEMPERATURE, description="0, the most likely token, by default"
    )
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    metadata: dict[str, Any] | None = None

    n: Any = Field(None, description="1")
    stop: Any = Field(None, description="none")
    logprobs: Any = Field(None, description="false")
    top_logprobs: Any = Field(None, description="none")
    logit_bias: Any = Field(None, description="none")
    frequency_penalty: Any = Field(None, description="0")
    presence_penalty: Any = Field(None, description="0")
    repetition_penalty: Any = Field(None, description="1")
    top_k: Any = Field(None, description="any whole number with temperature 0; 0 or -1 otherwise")
    min_p: Any = Field(None, description="0")
    tools: Any = Field(None, description="none")
    tool_choice: Any = Field(None, description="none")
    parallel_tool_calls: Any = Field(None, description="any: there are no tools")
    response_format: Any = Field(None, description='{"type": "text"}')
    modalities: Any = Field(None, description='["text"]')
    store: Any = Field(None, description="false")
    service_tier: Any = Field(None, description="auto or default")
    skip_special_tokens: Any = Field(None, description="true")
    spaces_between_special_tokens: Any = Field(None, description="any")

    task: Literal["modal", "amodal"] | None = Field(
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
