"""Hostile and broken clients against a real server: a clean 4xx each, and the server lives."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.serve.conftest import FRAMES, Server, Start, data_url, frame_url, question

CHAT = "/v1/chat/completions"


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a refusal, its form checked."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    return dict(error)


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
        (question() | {"model": None}, 400, "invalid_value", "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured_is_refused_by_name(
    nano: Server, body: Any, status: int, code: str, words: str
) -> None:
    response = nano.post(body)
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
    parts = [{"type": "text", "text": "the red"}, IMAGE, {"type": "text", "text": " mug"}]
    response = nano.post(with_messages(turn(*parts)))
    assert response.json()["egm"]["expression"] == "the red mug"


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


@pytest.mark.parametrize("told", [True, False], ids=["with a length", "in chunks"])
def test_a_50_mb_body_is_refused_without_being_kept(nano: Server, told: bool) -> None:
    chunk = b"x" * 1_000_000
    before = nano.resident_mib()

    def chunks() -> Any:
        yield from (chunk for _ in range(50))

    content = chunk * 50 if told else chunks()
    response = nano.client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert "20 MiB" in error_of(response)["message"]
    assert nano.resident_mib() - before < 60


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of zeros: tens of kilobytes that decode to width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height", "status"), [(10_000, 10_000, 400), (7_000, 6_000, 413)])
def test_a_png_bomb_is_judged_by_its_header(nano: Server, width: int, height: int, status: int) -> None:
    before = nano.resident_mib()
    response = nano.post(question(url=data_url(png_bomb(width, height))))
    assert response.status_code == status
    assert "megapixels" in error_of(response)["message"]
    assert nano.resident_mib() - before < 30


def test_a_picture_that_breaks_while_decoding_is_the_clients_fault(nano: Server) -> None:
    whole = (FRAMES / "tabletop_1.png").read_bytes()
    response = nano.post(question(url=data_url(whole[: len(whole) // 2])))
    assert response.status_code == 400
    assert "undamaged" in error_of(response)["message"]
    cut = nano.post(question(url=data_url(whole[: len(whole) // 3]), stream=True))
    assert cut.status_code == 400, "a stream, too, refuses with its status line"


def test_a_jpeg_called_png_is_read_as_what_it_is(nano: Server) -> None:
    buffer = io.BytesIO()
    Image.open(FRAMES / "tabletop_1.png").convert("RGB").save(buffer, "JPEG")
    assert nano.post(question(url=data_url(buffer.getvalue(), "png"))).status_code == 200


def test_unknown_routes_and_methods_answer_in_the_same_format(nano: Server) -> None:
    for method, path, status in [
        ("GET", "/v1/nothing", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/page/index.html", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/", 405),
    ]:
        response = nano.client.request(method, path)
        assert response.status_code == status, path
        error_of(response)
    assert nano.client.get(CHAT).headers["allow"] == "POST"


def test_a_foreign_host_name_is_refused(nano: Server) -> None:
    """A page that points its own name at 127.0.0.1 must not reach the server."""
    for host in ("evil.example", "evil.example:30000", "127.0.0.1.evil.example"):
        response = nano.client.get("/v1/models", headers={"host": host})
        assert response.status_code == 403
        assert "allow-host" in error_of(response)["message"]
    assert nano.client.get("/v1/models", headers={"host": f"localhost:{nano.port}"}).status_code == 200


def test_no_origin_may_call_from_a_browser_by_default(nano: Server) -> None:
    asking = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    response = nano.client.options(CHAT, headers=asking)
    assert response.status_code == 405
    answer = nano.post(question(), headers={"origin": "https://evil.example"})
    assert not [name for name in (*response.headers, *answer.headers) if name.startswith("access-control")]


def silent_connections(port: int, count: int, text: bytes) -> list[socket.socket]:
    held = []
    for _ in range(count):
        held.append(socket.create_connection(("127.0.0.1", port)))
        held[-1].sendall(text)
    return held


def closed_after(held: list[socket.socket], trickle: bytes, limit_s: float) -> float:
    """Seconds until the server has closed them all, each fed a byte now and then."""
    started = time.monotonic()
    left = list(held)
    for each in left:
        each.settimeout(0.05)
    while left and time.monotonic() - started < limit_s:
        for each in list(left):
            try:
                each.sendall(trickle)
                if each.recv(4096) == b"":
                    left.remove(each)
            except TimeoutError:
                continue
            except OSError:
                left.remove(each)
    return time.monotonic() - started


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "],
    ids=["silent", "half a header"],
)
def test_slow_loris_does_not_keep_others_out(scripted: Start, sent: bytes) -> None:
    server = scripted(header_s=2.0)
    held = silent_connections(server.port, 100, sent)
    try:
        assert server.post(question()).status_code == 200
        assert closed_after(held, b"a" if sent else b"", 30) < 30
        assert server.post(question()).status_code == 200
    finally:
        for each in held:
            each.close()
    assert server.stop() == 0


def test_a_slow_body_is_told_408(scripted: Start) -> None:
    server = scripted(body_s=1.0)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
    head += b"Content-Type: application/json\r\n\r\n{"
    held = silent_connections(server.port, 20, head)
    try:
        assert server.post(question()).status_code == 200
        for each in held:
            each.settimeout(30)
            assert each.recv(4096).startswith(b"HTTP/1.1 408 ")
    finally:
        for each in held:
            each.close()
    assert server.metric("egm_held_bytes") == 0
    assert server.stop() == 0


def test_connections_above_the_limit_are_closed(scripted: Start) -> None:
    server = scripted(max_connections=8)
    held = silent_connections(server.port, 8, b"")
    extra = socket.create_connection(("127.0.0.1", server.port))
    extra.settimeout(10)
    try:
        extra.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        refused = extra.recv(10) == b""
    except ConnectionError:
        refused = True
    assert refused
    for each in (*held, extra):
        each.close()
    time.sleep(0.2)
    assert server.client.get("/health").status_code == 200
    assert server.stop() == 0


def test_a_full_queue_is_told_429_and_when_to_come_again(scripted: Start) -> None:
    server = scripted(token_s=0.05, max_waiting=1)
    statuses: list[int] = []
    after: list[str | None] = []

    def ask() -> None:
        response = server.post(question())
        statuses.append(response.status_code)
        after.append(response.headers.get("retry-after"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(statuses)) == [200, 429]
    assert statuses.count(200) >= 2
    assert all(
        seconds is not None and int(seconds) >= 1
        for status, seconds in zip(statuses, after, strict=True)
        if status == 429
    )
    assert server.metric('egm_requests_total{outcome="busy"}') == statuses.count(429)
    assert server.metric("egm_queue_depth") == 0
    assert server.stop() == 0


def test_all_bodies_together_are_bounded(scripted: Start) -> None:
    server = scripted(token_s=0.1, max_body_bytes=1_000_000, max_held_bytes=1_000_000)
    first = threading.Thread(target=lambda: server.post(question()))
    first.start()
    while server.metric("egm_held_bytes") == 0:
        time.sleep(0.01)
    big = json.dumps(question(url=frame_url("tabletop_3.png"))).encode()
    response = server.client.post(CHAT, content=big, headers={"content-type": "application/json"})
    first.join()
    assert response.status_code == 429
    assert error_of(response)["code"] == "memory_full"
    assert server.post(question()).status_code == 200
    assert server.stop() == 0


def test_a_client_that_leaves_frees_the_engine(scripted: Start) -> None:
    server = scripted(token_s=0.2)
    for stream in (True, False):
        body = json.dumps(question(stream=stream)).encode()
        leaver = http.client.HTTPConnection("127.0.0.1", server.port)
        leaver.request("POST", CHAT, body, {"Content-Type": "application/json"})
        if stream:
            assert leaver.getresponse().read(1)
        while server.metric("egm_requests_running") == 0:
            time.sleep(0.02)
        leaver.close()
        left = time.monotonic()
        while server.metric("egm_requests_running"):
            time.sleep(0.02)
        assert time.monotonic() - left < 5, "a whole answer takes some fifteen seconds"
    assert server.metric('egm_requests_total{outcome="gone"}') == 2
    assert server.stop() == 0


def test_the_servers_own_time_ends_a_request(scripted: Start) -> None:
    server = scripted(token_s=0.1, request_s=1.0)
    response = server.post(question())
    assert response.status_code == 504
    assert error_of(response)["code"] == "time_limit"
    with server.client.stream("POST", CHAT, json=question(stream=True)) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert streamed.status_code == 200 and lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "time_limit"
    assert server.metric('egm_requests_total{outcome="late"}') == 2
    assert server.stop() == 0


def test_a_failing_engine_is_a_500_without_its_secrets(scripted: Start) -> None:
    server = scripted()
    response = server.post(question("please explode"))
    assert response.status_code == 500
    assert "secret" not in response.text and error_of(response)["type"] == "server_error"
    assert server.post(question()).status_code == 200
    assert server.metric('egm_requests_total{outcome="failed"}') == 1
    assert server.stop() == 0


def test_a_key_is_asked_for_and_never_logged(start: Start, nano_bundle: Any) -> None:
    server = start("-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, env={"EGM_API_KEY": "s3cret-key"})
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic s3cret-key"},
        {"authorization": "Bearer \xe9"},
    ):
        response = server.client.get(
            "/v1/models?key=s3cret-key", headers={k: v.encode("latin-1") for k, v in headers.items()}
        )
        assert response.status_code == 401
        assert error_of(response)["type"] == "authentication_error"
        assert response.headers["www-authenticate"] == "Bearer"
    good = {"authorization": "Bearer s3cret-key"}
    assert server.post(question("the red mug"), headers=good).status_code == 200
    assert server.client.get("/health").status_code == server.client.get("/").status_code == 200
    assert server.stop() == 0
    log = server.log.read_text()
    assert "POST /v1/chat/completions 200" in log and "outcome=FOUND" in log
    assert "s3cret" not in log and "red mug" not in log and "base64" not in log


def test_log_lines_cannot_be_forged(nano: Server) -> None:
    nano.client.get("/a%0d%0a2026 POST%20/fake%1b[31m")
    line = [line for line in nano.log.read_text().splitlines() if "/a" in line][-1]
    assert re.search(r"GET /a\?\?2026\?POST\?/fake\?\[31m 404 ", line)
