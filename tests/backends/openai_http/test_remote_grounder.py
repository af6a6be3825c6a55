"""RemoteGrounder against a real server on loopback that streams, stalls, cuts off, is busy, or talks nonsense."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egm_edge.backends.text_runtime.http import RemoteGrounder
from egm_edge.decoding import Stage, TokenEvent
from egm_edge.errors import BackendError, InputError
from egm_edge.grounding import Grounding, Outcome, Task
from egm_edge.openai import Server
from egm_edge.pixels import PixelSpec, preprocess
from tests.backends.openai_http.chat_server import ANSWER, THOUGHT, ChatServer, serving

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
PROMPT_S = 20.0  # generous: the machine may be busy; what is tested is that nobody waits for the stalled server


def _ask(server: ChatServer, expression: str = "the mug", **options: object) -> Grounding:
    reached = RemoteGrounder.from_url(server.url, **{k: options.pop(k) for k in ("served_model", "family") if k in options})  # type: ignore[arg-type]
    return reached.ground(IMAGE, expression, color="rgb", **options)  # type: ignore[arg-type]


def test_a_streamed_answer_becomes_a_grounding() -> None:
    events: list[TokenEvent] = []
    with serving("stream") as server:
        grounding = _ask(server, stamp_ns=5, on_token=events.append, max_new_tokens=99)
    assert grounding.outcome is Outcome.FOUND
    assert grounding.box is not None and grounding.box.xyxy == pytest.approx((12.0, 18.0, 60.0, 54.0))
    assert (grounding.label, grounding.reasoning, grounding.stamp_ns) == ("mug", THOUGHT, 5)
    assert (grounding.tokens.prompt, grounding.tokens.completion, grounding.confidence) == (77, 23, None)
    assert "".join(event.text for event in events) == grounding.text
    assert grounding.timings.total_ms >= grounding.timings.ttft_ms > 0
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["stream"]) == ("egm", 0.0, 99, True)
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    assert body["messages"][0]["content"][1]["text"] == "Locate the mug, output its bbox coordinates using JSON format"
    assert Grounding.from_dict(grounding.to_dict()) == grounding


def test_a_thought_that_the_server_sends_apart_stands_in_the_text() -> None:
    stages: list[Stage] = []
    with serving("apart") as server:
        grounding = _ask(server, on_token=lambda event: stages.append(event.stage))
    assert grounding.text == f"<think>{THOUGHT} </think>{ANSWER}"
    assert (grounding.outcome, grounding.reasoning) == (Outcome.FOUND, THOUGHT)
    assert set(stages) == {Stage.THINK, Stage.ANSWER} and stages == sorted(
        stages, key=[Stage.THINK, Stage.ANSWER].index
    )


def test_a_stream_without_its_done_mark_is_whole_when_it_named_a_reason() -> None:
    with serving("no_done_mark") as server:
        assert _ask(server).outcome is Outcome.FOUND


def test_the_servers_token_limit_is_told() -> None:
    with serving("truncated") as server:
        grounding = _ask(server)
    assert (grounding.outcome, grounding.cut) == (Outcome.UNPARSABLE, "max_new_tokens")


@pytest.mark.parametrize("act", ["stall", "silent", "mute"])
def test_a_deadline_holds_while_the_server_is_silent(act: str) -> None:
    with serving(act) as server:
        started = time.perf_counter()
        grounding = _ask(server, deadline_ms=300)
        took_s = time.perf_counter() - started
        assert server.dropped.wait(PROMPT_S), "the server was not told to stop"
    assert (grounding.outcome, grounding.deadline_met, grounding.box) == (Outcome.TIMED_OUT, False, None)
    assert 0.29 <= took_s < PROMPT_S


def test_a_deadline_holds_at_token_granularity() -> None:
    with serving("stream", token_s=0.15) as server:
        started = time.perf_counter()
        grounding = _ask(server, deadline_ms=1200)
        took_s = time.perf_counter() - started
    assert grounding.outcome is Outcome.TIMED_OUT
    assert 0 < len(grounding.text) < len(THOUGHT) + len(ANSWER)
    assert took_s < PROMPT_S


def test_a_box_that_stands_at_the_deadline_counts() -> None:
    with serving("stall_after_box") as server:
        grounding = _ask(server, deadline_ms=1500)
    assert (grounding.outcome, grounding.cut) == (Outcome.FOUND, "answer")


@pytest.mark.parametrize("act", ["stall", "silent", "mute"])
def test_a_cancel_holds_while_the_server_is_silent(act: str) -> None:
    cancel = threading.Event()
    with serving(act) as server:
        threading.Timer(0.2, cancel.set).start()
        started = time.perf_counter()
        grounding = _ask(server, should_stop=cancel.is_set)
        took_s = time.perf_counter() - started
        assert server.dropped.wait(PROMPT_S), "the server was not told to stop"
    assert grounding.outcome is Outcome.CANCELLED
    assert took_s < PROMPT_S


def test_a_cancel_in_the_middle_of_a_stream_keeps_what_came() -> None:
    seen: list[TokenEvent] = []
    with serving("stream", token_s=0.02) as server:
        grounding = _ask(server, on_token=seen.append, should_stop=lambda: len(seen) >= 3)
    assert grounding.outcome is Outcome.CANCELLED
    assert grounding.text == "".join(event.text for event in seen) and 3 <= len(seen) <= 4


def test_a_request_that_is_cancelled_already_asks_nothing() -> None:
    with serving("stream") as server:
        grounding = _ask(server, should_stop=lambda: True)
        assert not server.requests
    assert grounding.outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("act", "words"),
    [
        pytest.param("cut_off", "ended in the middle", id="cut off"),
        pytest.param("malformed", "JSON events", id="malformed JSON"),
        pytest.param("other_json", "chat events", id="JSON of another shape"),
        pytest.param("list_json", "JSON objects", id="a JSON list"),
        pytest.param("error_event", "CUDA out of memory", id="an error in the stream"),
        pytest.param("endless_line", "longer line", id="an endless line"),
        pytest.param("not_a_stream", "event stream", id="not a stream"),
        pytest.param("broken", "HTTP 500", id="server error"),
        pytest.param("no_key", "API key", id="no key"),
        pytest.param("hang_up", "127.0.0.1", id="hangs up"),
        pytest.param("busy", "HTTP 429: queue full", id="busy for good"),
    ],
)
def test_what_is_no_answer_is_one_line_of_error(act: str, words: str) -> None:
    with serving(act) as server, pytest.raises(BackendError, match=words) as caught:
        _ask(server)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == (4 if act in ("busy", "broken") else 1)  # statuses to try again are one set for all


def test_a_busy_server_is_asked_again() -> None:
    with serving("busy", "busy", "stream") as server:
        assert _ask(server).outcome is Outcome.FOUND
        assert len(server.requests) == 3


def test_a_deadline_holds_while_a_busy_server_is_waited_for() -> None:
    with serving("busy_for_long") as server:
        started = time.perf_counter()
        assert _ask(server, deadline_ms=300).outcome is Outcome.TIMED_OUT
        assert time.perf_counter() - started < PROMPT_S


def test_silence_without_a_deadline_is_given_up() -> None:
    with serving("stall") as server:
        reached = RemoteGrounder.from_url(server.url, stall_timeout_s=0.3)
        with pytest.raises(BackendError, match="silence"):
            reached.ground(IMAGE, "the mug", color="rgb")
        assert server.dropped.wait(PROMPT_S)


def test_nobody_there_is_one_line_of_error() -> None:
    with serving("stream") as server:
        url = server.url
    with pytest.raises(BackendError, match=r"127\.0\.0\.1"):
        RemoteGrounder.from_url(url)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="http://"):
        Server(url)


def test_several_models_need_a_name_and_the_key_is_sent() -> None:
    with serving("stream") as server:
        server.models = ["a", "b"]
        with pytest.raises(InputError, match="a, b"):
            RemoteGrounder.from_url(server.url)
        reached = RemoteGrounder.from_url(server.url + "/v1/", model="b", api_key="secret", extra_body={"top_k": 1})
        reached.ground(IMAGE, "the mug", color="rgb")
    assert server.headers_seen[0]["Authorization"] == "Bearer secret"
    assert (server.requests[0]["model"], server.requests[0]["top_k"]) == ("b", 1)
    assert "secret" not in repr(reached.facts)


def test_the_server_gets_the_very_pixels_that_this_side_would_cut(tiny_qwen3_vl: Path) -> None:
    """The picture that is sent is a fixed point of the checkpoint's resize: what the server cuts is what we would."""
    spec = PixelSpec.from_checkpoint(tiny_qwen3_vl)
    image = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    with serving("stream") as server:
        reached = RemoteGrounder.from_url(server.url, served_model=tiny_qwen3_vl)
        frame = reached.frame(image, color="rgb")
        grounding = reached.ground(frame, "the mug")
    data = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
    arrived = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    theirs, ours = preprocess(arrived, spec), preprocess(image, spec)
    np.testing.assert_array_equal(theirs.patches, ours.patches)
    assert frame.image_tokens == ours.image_token_count == grounding.tokens.image
    assert grounding.image_wh == (640, 480)
    assert grounding.box is not None and grounding.box.xyxy == pytest.approx((64.0, 96.0, 320.0, 288.0))
    assert grounding.pixel_spec_hash == spec.hash


def test_another_prompt_length_on_the_server_is_told_once(
    tiny_qwen3_vl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving("stream") as server:
        reached = RemoteGrounder.from_url(server.url, served_model=tiny_qwen3_vl)
        frame = reached.frame(IMAGE, color="rgb")
        server.prompt_tokens = reached.served.prompt_tokens("the mug", Task.MODAL, frame.image_tokens)
        with caplog.at_level(logging.WARNING):
            reached.ground(frame, "the mug")
            assert not caplog.messages
            server.prompt_tokens += 12
            reached.ground(frame, "the mug")
            reached.ground(frame, "the mug")
    assert len(caplog.messages) == 1 and "prompt tokens" in caplog.messages[0]


def test_internvl_answers_keep_their_special_tokens() -> None:
    with serving("stream", reply="<ref>mug</ref><box>[[100, 200, 500, 600]]</box>") as server:
        grounding = _ask(server, family="internvl3", task="amodal")
    assert server.requests[0]["skip_special_tokens"] is False
    assert "amodal bounding box" in server.requests[0]["messages"][0]["content"][1]["text"]
    assert (grounding.outcome, grounding.parse_rule, grounding.task) == (Outcome.FOUND, "box_tag", Task.AMODAL)


@pytest.mark.parametrize("deadline_ms", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(deadline_ms: float) -> None:
    with serving("stream") as server, pytest.raises(InputError, match="deadline"):
        _ask(server, deadline_ms=deadline_ms)


def test_several_threads_share_one_grounder() -> None:
    with serving("stream", token_s=0.002) as server:
        reached = RemoteGrounder.from_url(server.url)
        found: list[Grounding] = []
        threads = [
            threading.Thread(target=lambda: found.append(reached.ground(IMAGE, "the mug", color="rgb")))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [g.outcome for g in found] == [Outcome.FOUND] * 6
