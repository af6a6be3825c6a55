"""The real `openai` client, and the request forms of EGM's published clients, against a real `egm serve`."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from egm_edge.grounder import Grounder
from egm_edge.grounding import Grounding
from tests.serve.conftest import FRAMES, Server, frame_url, question

PICTURE = FRAMES / "tabletop_1.png"
QUICK_START = """
import openai, base64
client = openai.Client(base_url="http://127.0.0.1:30000/v1", api_key="EMPTY")
image_base64 = base64.b64encode(open("example.jpg", "rb").read()).decode("utf-8")
response = client.chat.completions.create(
    model="nvidia/EGM-4B",
    messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image_base64}"}},
        {"type": "text", "text": "Please provide the bounding box coordinate of the region this sentence describes: the person on the left."}]}],
    temperature=0.6, top_p=0.95, max_tokens=8192)
print(response.choices[0].message.content)
"""  # noqa: E501 - as it is published
BOX = re.compile(r'"bbox_2d": \[(\d+), (\d+), (\d+), (\d+)\]')
ANSWER = re.compile(r"```json\n\[(\{.*\})?\]\n```")  # a box, or none where the model says that nothing is meant


@pytest.fixture(scope="module")
def client(nano: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{nano.url}/v1", api_key="EMPTY", max_retries=0)


@pytest.fixture(scope="module")
def reference(nano_bundle: Path) -> Grounding:
    with Grounder.from_bundle(nano_bundle, threads=1) as grounder:
        return grounder.ground(PICTURE, "the red bowl")


def user_turn(text: str, **image: Any) -> list[Any]:
    picture = {"type": "image_url", "image_url": {"url": frame_url(), **image}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def ask(client: openai.OpenAI, text: str = "the red bowl", url: str | None = None, **fields: Any) -> Any:
    """A bare expression, with this server's own fields in extra_body."""
    own = {"task": "modal"} | fields.pop("extra_body", {})
    return client.chat.completions.create(
        model="any", messages=question(text, url)["messages"], extra_body=own, **fields
    )


@pytest.mark.parametrize(
    ("expression", "answer"),
    [("the person on the left", ANSWER), ("the red bowl", BOX)],
    ids=["a word EGM-Nano may not know", "an object of the picture"],
)
def test_the_published_quick_start_runs_as_it_is(
    nano: Server, tmp_path: Path, expression: str, answer: re.Pattern[str]
) -> None:
    (tmp_path / "example.jpg").write_bytes(PICTURE.read_bytes())
    program = QUICK_START.replace("http://127.0.0.1:30000", nano.url).replace("the person on the left", expression)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "</think>" in done.stdout and answer.search(done.stdout), done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "Please provide the bounding box coordinate of the region this sentence describes: the red bowl.",
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>the red bowl</ref> ",
        "Locate the red bowl, output its bbox coordinates using JSON format",
        "Locate the red bowl, output its bbox coordinates using JSON format.",
    ],
    ids=["model card", "InternVL evaluation", "Qwen evaluation", "Qwen training"],
)
def test_every_published_sentence_gets_the_bundles_own_box(
    client: openai.OpenAI, reference: Grounding, text: str
) -> None:
    response = client.chat.completions.create(model="nvidia/EGM-4B", messages=user_turn(text))
    assert response.choices[0].message.content == reference.text
    assert response.egm["box"] == list(reference.box.xyxy)  # type: ignore[attr-defined, union-attr]
    assert response.egm["expression"] == "the red bowl"  # type: ignore[attr-defined]


def test_an_answer_has_what_clients_read(client: openai.OpenAI, reference: Grounding) -> None:
    response = ask(client)
    choice = response.choices[0]
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert response.object == "chat.completion" and response.id.startswith("chatcmpl-")
    assert response.usage is not None
    assert response.usage.prompt_tokens == reference.tokens.prompt
    assert response.usage.completion_tokens == reference.tokens.completion
    assert response.usage.completion_tokens_details.reasoning_tokens == reference.tokens.think
    assert Grounding.from_dict(response.egm).box == reference.box


def test_a_stream_is_the_same_text_in_pieces(client: openai.OpenAI, reference: Grounding) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == reference.text
    assert len([p for p in pieces if p]) > 10
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_evaluation_client_of_egm_gets_all_its_answers(nano: Server) -> None:
    """Sixty-four at once with the fields that EGM's evaluation script sends; its queue fits, so no 429."""

    async def all_of_them() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{nano.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(
                    model="EGM",
                    messages=user_turn(
                        f"Locate the {c} bowl, output its bbox coordinates using JSON format", detail="high"
                    ),
                    temperature=0.0,
                    top_p=1.0,
                    presence_penalty=0.0,
                    max_tokens=1024,
                    extra_body={"top_k": 20, "repetition_penalty": 1.0},
                )
                for c in ["red", "blue", "green", "white"] * 16
            ]
            return await asyncio.gather(*asked)

    answers = asyncio.run(all_of_them())
    assert len(answers) == 64
    assert {a.egm["outcome"] for a in answers} <= {"FOUND", "NOT_FOUND"}
    assert sum("bbox_2d" in a.choices[0].message.content for a in answers) >= 16
    assert sum(a.egm["timings"]["frame_reused"] for a in answers) >= 63


def test_the_same_picture_again_is_not_seen_again(client: openai.OpenAI) -> None:
    url = frame_url("tabletop_3.png")
    first = ask(client, "the mug", url).egm["timings"]
    second = ask(client, "the bowl", url).egm["timings"]
    assert not first["frame_reused"] and first["vision_ms"] > 0 and first["decode_image_ms"] > 0
    assert second["frame_reused"] and second["vision_ms"] == second["decode_image_ms"] == 0


def test_own_fields_travel_in_extra_body(client: openai.OpenAI) -> None:
    body = question()
    del body["task"]
    response = client.chat.completions.create(
        **body, extra_body={"task": "amodal", "max_think_tokens": 0, "samples": 1}
    )
    assert response.egm["task"] == "amodal"  # type: ignore[attr-defined]
    assert response.egm["tokens"]["think"] <= 4  # type: ignore[attr-defined]


def test_max_tokens_cuts_and_says_so(client: openai.OpenAI) -> None:
    response = ask(client, max_tokens=3)
    assert response.usage.completion_tokens == 3
    assert response.choices[0].finish_reason == "length"


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["egm-nano-cpu"]
    assert client.models.retrieve(names[0]).owned_by == "egm-edge"
    assert client.models.retrieve("gpt-9").id == "gpt-9", "chat accepts every name"
    with pytest.raises(openai.NotFoundError, match="expected model egm-nano-cpu"):
        client.models.retrieve("x" * 257)


def test_refusals_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="fetches nothing") as raised:
        ask(client, url="https://example.com/a.jpg")
    assert raised.value.code == "invalid_image_url"
