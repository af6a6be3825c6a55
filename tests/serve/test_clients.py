"""What other people's clients ordinarily send gets its box: the requests they made, recorded, and the real `openai` client."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image
from pydantic import BaseModel

from egm_edge.boxes import Box
from tests.serve.conftest import CHAT, FRAMES, Server, Start, data_url, error_of, frame_url, question
from tests.serve.test_picture_fetch import picture_server

PICTURE = FRAMES / "tabletop_1.png"
BOWL = (30, 175, 240, 335)  # the red bowl, 0 to 1000
SENTENCE = "Please provide the bounding box coordinate of the region this sentence describes: the red bowl."
REQUESTS = [json.loads(line) for line in (Path(__file__).parent / "data" / "client_requests.jsonl").open()]


def numbers(text: str) -> list[float]:
    found = re.search(r'"bbox_2d": ?\[([^\]]+)\]', text)
    assert found, text
    return [float(number) for number in found[1].split(",")]


def is_the_bowl(box: list[float]) -> bool:
    return Box(*box).iou(Box(*BOWL)) > 0.5


def user_turn(url: str | None = None, text: str = SENTENCE) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": url or frame_url()}}
    return {"role": "user", "content": [picture, {"type": "text", "text": text}]}


def asked(server: Server, **fields: Any) -> dict[str, Any]:
    """The answer to an ordinary request with these fields."""
    response = server.post({"model": "any", "messages": [user_turn()]} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert response.headers.get("x-egm-ignored", "") == ", ".join(answer["egm"]["ignored"])
    return answer


@pytest.mark.parametrize("recorded", REQUESTS, ids=[r["client"] for r in REQUESTS])
def test_a_recorded_request_gets_its_box(nano: Server, recorded: dict[str, Any]) -> None:
    body = json.loads(json.dumps(recorded["body"]).replace('"PICTURE"', json.dumps(frame_url())))
    response = nano.client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        events = [json.loads(x[6:]) for x in response.text.split("\n\n") if x.startswith("data: {")]
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])
    else:
        message = response.json()["choices"][0]["message"]
        text = message["content"] or message["tool_calls"][0]["function"]["arguments"]
    assert is_the_bowl(numbers(text))
    if "response_format" in body and body["response_format"]["type"] != "text":
        assert set(json.loads(text)) == {"bbox_2d", "label"}


class Found(BaseModel):
    bbox_2d: list[int]
    label: str


class Corners(BaseModel):
    x1: float
    y1: float
    x2: float
    y2: float
    confidence: float | None
    found: bool


class Boxes(BaseModel):
    boxes: list[Found]


@pytest.fixture(scope="module")
def client(nano: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{nano.url}/v1", api_key="EMPTY", max_retries=0)


def test_openai_parse_gives_the_clients_own_class(client: openai.OpenAI) -> None:
    def parsed(kind: type[BaseModel]) -> Any:
        answer = client.chat.completions.parse(model="gpt-4o", messages=[user_turn()], response_format=kind)  # type: ignore[list-item]
        return answer.choices[0].message.parsed

    assert is_the_bowl(parsed(Found).bbox_2d) and parsed(Found).label == "red bowl"
    corners = parsed(Corners)
    assert is_the_bowl([corners.x1, corners.y1, corners.x2, corners.y2]) and corners.found
    assert [is_the_bowl(each.bbox_2d) for each in parsed(Boxes).boxes] == [True]


def test_openai_parse_streams_and_calls_functions_too(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=[user_turn()], response_format=Found) as stream:  # type: ignore[list-item]
        final = stream.get_final_completion()
    assert is_the_bowl(final.choices[0].message.parsed.bbox_2d)
    tool = openai.pydantic_function_tool(Found)
    for choice in ("required", {"type": "function", "function": {"name": "Found"}}):
        answer = client.chat.completions.parse(model="m", messages=[user_turn()], tools=[tool], tool_choice=choice)  # type: ignore[arg-type, list-item]
        (call,) = answer.choices[0].message.tool_calls or ()
        assert is_the_bowl(call.function.parsed_arguments.bbox_2d)  # type: ignore[attr-defined, union-attr]


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        pytest.param(
            {"presence_penalty": 1.5, "repetition_penalty": 1.05},
            ["presence_penalty", "repetition_penalty"],
            id="penalties",
        ),
        pytest.param({"skip_special_tokens": False}, ["skip_special_tokens"], id="special tokens"),
        pytest.param(
            {"mm_processor_kwargs": {"max_pixels": 9}, "banana": 1},
            ["mm_processor_kwargs", "banana"],
            id="fields that are not known",
        ),
        pytest.param(
            {"chat_template_kwargs": {"enable_thinking": True, "tools_in_user": 1}},
            ["chat_template_kwargs.tools_in_user"],
            id="template's",
        ),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
            ["tools"],
            id="tools that need not be called",
        ),
        pytest.param({"logprobs": True, "top_logprobs": 5}, ["logprobs", "top_logprobs"], id="log-probabilities"),
        pytest.param(
            {"stream_options": {"include_usage": True}}, ["stream_options"], id="a stream's options without one"
        ),
        pytest.param({"response_format": {"type": "grammar"}}, ["response_format"], id="a format of another kind"),
        pytest.param({"stop": ["</think>"]}, ["stop"], id="a stop that the answer holds"),
        pytest.param(
            {"stop": ["\nHuman:", "###"], "top_k": 20, "temperature": 0.1, "seed": 1},
            [],
            id="a stop that never matches",
        ),
        pytest.param({"seed": 3, "user": "me", "nothing": None, "n": 1, "logit_bias": {}}, [], id="neutral values"),
    ],
)
def test_what_changes_nothing_is_named(nano: Server, fields: dict[str, Any], ignored: list[str]) -> None:
    answer = asked(nano, **fields)
    assert answer["egm"]["ignored"] == ignored
    assert is_the_bowl(numbers(answer["choices"][0]["message"]["content"]))


def test_top_k_is_honoured(nano: Server) -> None:
    greedy = asked(nano)["choices"][0]["message"]["content"]
    assert asked(nano, temperature=2.0, top_k=1)["choices"][0]["message"]["content"] == greedy
    assert asked(nano, temperature=2.0, top_k=-1)["egm"]["ignored"] == []


def test_odd_names_are_told_as_plain_text(nano: Server) -> None:
    answer = asked(nano, **{"é\r\nSet-Cookie: a": 1, "x" * 300: 2})
    assert answer["egm"]["ignored"] == ["???Set-Cookie??a", "x" * 100]


def test_streams_name_what_they_ignore_in_header_and_last_chunk(nano: Server) -> None:
    body = {"model": "m", "messages": [user_turn()], "stream": True, "min_p": 0.5, "stop": "</think>"}
    with nano.client.stream("POST", CHAT, json=body) as response:
        assert response.headers["x-egm-ignored"] == "min_p"
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    assert [chunk["egm"]["ignored"] for chunk in chunks if "egm" in chunk] == [["min_p", "stop"]]


@pytest.mark.parametrize(
    "fields",
    [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}],
    ids=["Qwen", "vLLM and SGLang", "OpenAI"],
)
def test_no_thought_is_honoured_in_everybodys_words(nano: Server, fields: dict[str, Any]) -> None:
    answer = asked(nano, **fields)["egm"]
    assert (answer["ignored"], answer["tokens"]["think"] <= 4) == ([], True)


@pytest.mark.parametrize(
    ("messages", "ignored", "expression"),
    [
        pytest.param(
            [{"role": "system", "content": "Be brief."}, user_turn()], ["messages.0"], "the red bowl", id="system text"
        ),
        pytest.param([{"role": "system", "content": ""}, user_turn()], [], "the red bowl", id="empty system text"),
        pytest.param(
            [
                user_turn(text="hello"),
                {"role": "assistant", "content": "Hi!", "tool_calls": None},
                {"role": "user", "content": "the blue bottle"},
            ],
            ["messages.1", "messages.0.text"],
            "the blue bottle",
            id="a picture of an earlier turn",
        ),
        pytest.param(
            [
                user_turn(frame_url("tabletop_2.png")),
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
                user_turn(),
            ],
            ["messages.0", "messages.1"],
            "the red bowl",
            id="a newer picture",
        ),
        pytest.param(
            [user_turn(), {"role": "assistant", "content": "The box is"}],
            ["messages.1"],
            "the red bowl",
            id="a begun answer",
        ),
    ],
)
def test_of_several_turns_the_last_users_is_answered(
    nano: Server, messages: Any, ignored: list[str], expression: str
) -> None:
    answer = asked(nano, messages=messages)["egm"]
    assert (answer["ignored"], answer["expression"]) == (ignored, expression)
    assert answer["image_wh"] == [640, 480]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("data:image/png;base64," + base64.encodebytes(PICTURE.read_bytes()).decode(), id="in lines"),
        pytest.param("DATA:IMAGE/PNG;BASE64," + frame_url().partition(",")[2], id="capitals"),
        pytest.param("data:image/png;name=a.png; base64," + frame_url().partition(",")[2], id="parameters"),
        pytest.param(frame_url().replace("+", "%2B"), id="percent-encoded"),
    ],
)
def test_data_addresses_as_clients_write_them(nano: Server, url: str) -> None:
    assert asked(nano, messages=[user_turn(url)])["egm"]["ignored"] == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            [{"type": "input_image", "image_url": frame_url(), "detail": "auto"}, SENTENCE], id="Responses' names"
        ),
        pytest.param([{"type": "input_text", "text": SENTENCE}, {"image_url": {"url": frame_url()}}], id="no type"),
        pytest.param([{"type": "image", "image": frame_url()}, {"text": SENTENCE}], id="Qwen's names"),
        pytest.param(
            [{"type": "image_url", "image_url": {"url": frame_url(), "detail": None}}, SENTENCE], id="null detail"
        ),
    ],
)
def test_parts_as_clients_write_them(nano: Server, content: Any) -> None:
    answer = asked(nano, messages=[{"role": "user", "content": content}])
    assert (answer["egm"]["ignored"], answer["egm"]["expression"]) == ([], "the red bowl")
    assert is_the_bowl(numbers(answer["choices"][0]["message"]["content"]))


def test_a_long_conversation_is_no_fault(nano: Server) -> None:
    said = [{"role": "user", "content": "x" * 30_000}, {"role": "assistant", "content": "y"}] * 40
    answer = asked(nano, messages=[*said, {"role": "user", "content": None}, user_turn()])
    assert answer["egm"]["expression"] == "the red bowl"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"max_tokens": -1, "seed": -1, "user": {"id": 7}}, id="LM Studio's and Open WebUI's"),
        pytest.param({"max_tokens": 512.0, "seed": -5, "user": "u" * 500}, id="decimals, a negative seed"),
        pytest.param({"metadata": None, "max_completion_tokens": 300.0, "seed": 42.0}, id="other languages' numbers"),
    ],
)
def test_values_that_other_servers_take(nano: Server, fields: dict[str, Any]) -> None:
    answer = asked(nano, **fields)
    assert answer["egm"]["ignored"] == []
    assert is_the_bowl(numbers(answer["choices"][0]["message"]["content"]))


CORNERS = {"properties": {name: {"type": "number"} for name in ("x1", "y1", "x2", "y2")}}


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"json": CORNERS}},
        {"structured_outputs": {"json": CORNERS, "json_object": None, "regex": None}},
        {"guided_json": CORNERS},
        {"response_format": {"type": "json_object", "schema": CORNERS}},
    ],
    ids=["vLLM", "vLLM, all it has", "older vLLM", "llama.cpp"],
)
def test_a_schema_in_other_servers_words(nano: Server, fields: dict[str, Any]) -> None:
    answer = asked(nano, **fields)
    assert answer["egm"]["ignored"] == []
    assert is_the_bowl([json.loads(answer["choices"][0]["message"]["content"])[name] for name in CORNERS["properties"]])


def test_a_schema_that_no_answer_fits_is_named_in_the_clients_words(nano: Server) -> None:
    odd = {"properties": {"mood": {"type": "string"}}, "required": ["mood"]}
    assert asked(nano, guided_json=odd)["egm"]["ignored"] == ["guided_json"]
    assert asked(nano, structured_outputs={"json": odd})["egm"]["ignored"] == ["structured_outputs.json"]


@pytest.mark.parametrize("also", [{}, {"json": CORNERS}, {"json_object": True}], ids=["alone", "with a schema", "with JSON"])
def test_a_pattern_for_the_answer_is_told_of_by_name(nano: Server, also: dict[str, Any]) -> None:
    """Nothing here holds an answer to a regular expression, a grammar or a choice of texts."""
    answer = asked(nano, structured_outputs={"regex": "[0-9]+", **also})
    assert answer["egm"]["ignored"] == ["structured_outputs.regex"]
    content = answer["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content), dict) if also else content


def test_a_model_that_is_null_is_as_good_as_none(nano: Server) -> None:
    """As vLLM has it (`model: str | None`)."""
    assert asked(nano, model=None)["egm"]["ignored"] == []


def test_a_model_need_not_be_named_and_a_slash_may_end_the_path(nano: Server) -> None:
    response = nano.client.post(CHAT + "/", json={"messages": [user_turn()]})
    assert is_the_bowl(numbers(response.json()["choices"][0]["message"]["content"]))
    assert nano.client.get("/v1/models/").json()["object"] == "list"
    told = error_of(nano.client.post("/v1/responses", json={"model": "m", "input": "x"}))["message"]
    assert "expected POST /v1/chat/completions" in told


def test_of_an_animation_the_first_frame_is_asked_about(nano: Server) -> None:
    first, other = Image.open(PICTURE).convert("RGB"), Image.new("RGB", (640, 480))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[other, other])
    answer = asked(nano, messages=[user_turn(data_url(buffer.getvalue(), "gif"))])
    assert is_the_bowl(numbers(answer["choices"][0]["message"]["content"]))


def test_pictures_may_be_told_apart_as_other_servers_do(nano: Server) -> None:
    part = {
        "type": "image_url",
        "image_url": {"url": frame_url(), "detail": "original", "min_pixels": 4},
        "max_pixels": 9,
    }
    turn = {
        "role": "user",
        "content": [part, {"type": "text", "text": SENTENCE, "cache_control": {"type": "ephemeral"}}],
    }
    names = asked(nano, messages=[turn])["egm"]["ignored"]
    assert sorted(names) == [
        "messages.0.content.0.image_url.min_pixels", "messages.0.content.0.max_pixels", "messages.0.content.1.cache_control"
    ]  # fmt: skip
    plain = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": frame_url()}, {"type": "text", "text": SENTENCE}],
    }
    assert asked(nano, messages=[plain])["egm"]["ignored"] == []


def test_a_picture_is_fetched_where_that_was_allowed(start: Start, nano_bundle: Path, nano: Server) -> None:
    server = start(
        "-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--threads", 1, "--fetch-network", "127.0.0.0/8"
    )
    with picture_server(data=PICTURE.read_bytes()) as url:
        assert is_the_bowl(numbers(asked(server, messages=[user_turn(url)])["choices"][0]["message"]["content"]))
        refused = nano.post({"model": "m", "messages": [user_turn(url)]})
        assert refused.status_code == 400 and "fetches nothing" in error_of(refused)["message"]
    assert server.stop() == 0


def test_javascripts_own_fetch(nano: Server) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    program = """
        const body = JSON.parse(require('fs').readFileSync(0, 'utf8'));
        fetch(process.argv[1], {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)})
          .then(async r => console.log((await r.json()).choices[0].message.content));"""
    body = json.dumps(question() | {"task": "modal"})
    done = subprocess.run(
        [node, "-e", program, nano.url + CHAT], input=body, capture_output=True, text=True, timeout=120, check=True
    )
    assert is_the_bowl(numbers(done.stdout)), done.stderr
