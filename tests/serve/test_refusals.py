"""What a request may not hold, to `--strict`: a clean 4xx in OpenAI's format that names the field; what it may is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.conftest import CHAT, Server, error_of, frame_url, question


def with_part(**image: Any) -> dict[str, Any]:
    body = question()
    body["messages"][0]["content"][0] = {"type": "image_url", "image_url": image}
    return body


def with_messages(*messages: Any) -> dict[str, Any]:
    return question() | {"messages": list(messages)}


def turn(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(content)}


IMAGE = {"type": "image_url", "image_url": {"url": frame_url("tabletop_5.png")}}
TEXT = {"type": "text", "text": "the mug"}
TINY_PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (with_part(url="http://example.com/a.png"), 400, "invalid_image_url", "fetches nothing"),
        (with_part(url="https://user:secret@example.com/a.png"), 400, "invalid_image_url", "fetches nothing"),
        (with_part(url="file:///etc/passwd"), 400, "invalid_image_url", "'file'"),
        (with_part(url=""), 400, "invalid_image_url", "data:image"),
        (with_part(url="data:image/png;base64,@@@@"), 400, "invalid_base64", "base64"),
        (with_part(url="data:image/png;base64,abc"), 400, "invalid_base64", "base64"),
        (with_part(url="data:image/png;base64,"), 400, "invalid_image", "JPEG, PNG"),
        (with_part(url="data:text/plain;base64,aGVsbG8="), 400, "invalid_image", "JPEG, PNG"),
        (with_part(url=TINY_PNG), 400, "invalid_image", "pixel"),
        (with_part(url=7), 400, "invalid_value", "string"),
        (with_part(), 400, "invalid_value", "image_url.url: Field required"),
        (with_messages(turn(TEXT)), 400, "invalid_value", "0 pictures"),
        (with_messages(turn(IMAGE, IMAGE, TEXT)), 400, "invalid_value", "2 pictures"),
        (with_messages({"role": "user", "content": "the mug"}), 400, "invalid_value", "0 pictures"),
        (with_messages(turn(IMAGE)), 400, "invalid_value", "empty text"),
        (with_messages(), 400, "invalid_value", "messages"),
        (with_messages(turn(TEXT, role="system"), turn(IMAGE, TEXT)), 400, "unsupported", "one user message"),
        (with_messages(turn(IMAGE, TEXT), turn(TEXT, role="assistant"), turn(TEXT)), 400, "unsupported", "one user"),
        (with_messages(turn(IMAGE, TEXT, role="pirate")), 400, "invalid_value", "role"),
        (with_messages(turn({"type": "input_audio", "input_audio": {}})), 400, "invalid_value", "input_audio"),
        (question("<|im_end|>"), 400, "invalid_value", "marker"),
        (question("x" * 3000), 400, "invalid_value", "2,000"),
        (question(temperature="hot"), 400, "invalid_value", "temperature"),
        (question(temperature=9), 400, "invalid_value", "temperature"),
        (question(top_p=0), 400, "invalid_value", "top_p"),
        (question(max_tokens=0), 400, "invalid_value", "max_tokens"),
        (question(max_tokens=10**30), 400, "invalid_value", "max_tokens"),
        (question(stream="yes"), 400, "invalid_value", "stream"),
        (question(stream_options={"include_usage": True}), 400, "invalid_value", "stream_options"),
        (question(task="sideways"), 400, "invalid_value", "task"),
        (question(n=2), 400, "unsupported", "expected n to be 1"),
        (question(n=True), 400, "unsupported", "expected n to be 1"),
        (question(stop=["\n"]), 400, "unsupported", "stop"),
        (question(logprobs=True), 400, "unsupported", "logprobs"),
        (question(tools=[{"type": "function"}]), 400, "unsupported", "tools"),
        (question(response_format={"type": "json_object"}), 400, "unsupported", "response_format"),
        (question(presence_penalty=1.5), 400, "unsupported", "presence_penalty"),
        (question(top_k=20, temperature=0.5), 400, "unsupported", "top_k"),
        (question(banana=1), 400, "unknown_field", "'banana'"),
        (question() | {"model": 7}, 400, "invalid_value", "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured_is_refused_by_name(
    strict: Server, body: Any, status: int, code: str, words: str
) -> None:
    response = strict.post(body)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (status, code), error
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1, "stop": None, "logprobs": False, "frequency_penalty": 0.0, "logit_bias": {}, "tool_choice": "none"},
        {"response_format": {"type": "text"}, "user": "me", "metadata": {"a": "b"}, "store": False, "tools": []},
        {"temperature": 0, "top_p": 1, "seed": 7, "max_completion_tokens": 9999, "skip_special_tokens": True},
    ],
)
def test_neutral_values_of_fields_are_accepted(nano: Server, neutral: dict[str, Any]) -> None:
    assert nano.post(question(**neutral)).status_code == 200


def test_text_may_come_before_the_picture_and_in_parts(nano: Server) -> None:
    parts = [{"type": "text", "text": "the red"}, IMAGE, {"type": "text", "text": " bowl"}]
    response = nano.post(with_messages(turn(*parts)))
    assert response.json()["egm"]["expression"] == "the red bowl"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": 1e999}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"NaN",
        b'"\\ud800"',
    ],
    ids=["empty", "cut", "list", "null", "not UTF-8", "infinite", "deep list", "deep object", "NaN", "lone surrogate"],
)
def test_json_that_is_none(nano: Server, raw: bytes) -> None:
    response = nano.client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error_of(response)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_only_plain_json_is_read(nano: Server, headers: dict[str, str], status: int) -> None:
    """A web page of another origin cannot send application/json without being asked about it first."""
    response = nano.client.post(CHAT, content=json.dumps(question()).encode(), headers=headers)
    assert response.status_code == status
