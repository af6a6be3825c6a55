"""Hostile and broken clients against a real server: too much, too slow, too many; a clean 4xx each, and the server lives."""

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
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image

from egm_edge.serve.timeouts import _close_the_longest_waiting
from tests.serve.conftest import CHAT, FRAMES, Server, Start, data_url, error_of, frame_url, question


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
    "sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "], ids=["silent", "half a header"]
)
def test_slow_loris_does_not_keep_others_out(scripted: Start, sent: bytes) -> None:
    server = scripted(header_s=2.0)
    held = silent_connections(server.port, 100, sent)
    try:
        assert server.post(question()).status_code == 200
        assert closed_after(held, b"a" if sent else b"", 300) < 300
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


def talk(port: int, sent: bytes, *, half_close: bool = False) -> bytes:
    """All that the server says to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    return said


@pytest.mark.parametrize(
    "rest",
    [b"X-Slow: ", b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"],
    ids=["half a header", "half a body"],
)
def test_half_open_connections_above_the_limit_make_room(nano: Server, rest: bytes) -> None:
    """Three hundred from one address: the longest silent ones go, whoever asks is answered."""
    held = silent_connections(nano.port, 300, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + rest)
    try:
        for _ in range(3):
            assert httpx.get(f"{nano.url}/health", timeout=60).status_code == 200
        assert httpx.post(nano.url + CHAT, json=question(), timeout=300).status_code == 200
    finally:
        for each in held:
            each.close()


@pytest.mark.parametrize(
    ("waits", "closed"),
    [
        pytest.param([None, (False, 5.0), (True, 1.0), (False, 3.0)], 3, id="the longest half-open or idle one"),
        pytest.param([None, (True, 2.0), (True, 1.0), None], 2, id="then the longest half-sent body"),
        pytest.param([None, None, None, None], 4, id="all wait for an answer: the newcomer"),
    ],
)
def test_who_is_closed_above_the_limit(waits: list[Any], closed: int) -> None:
    aborted: list[int] = []
    connections: list[Any] = []
    uncounted = SimpleNamespace(discard=lambda each: None)
    for at, each in enumerate([*waits, (False, 9.0)]):  # the last one is the newcomer
        transport = SimpleNamespace(abort=lambda at=at: aborted.append(at))
        connections.append(SimpleNamespace(waits=each, transport=transport, connections=uncounted))
    _close_the_longest_waiting(connections, connections[-1])
    assert aborted == [closed]


def test_two_lengths_are_refused_and_the_connection_is_closed(nano: Server) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    smuggled = b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    said = talk(nano.port, head + b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled)
    assert said.startswith(b"HTTP/1.1 400 ") and b"two_lengths" in said and said.count(b"HTTP/1.1 ") == 1


def request_bytes(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_half_closed_client_gets_its_answer(nano: Server, stream: bool) -> None:
    said = talk(nano.port, request_bytes(question(stream=stream)), half_close=True)
    assert said.startswith(b"HTTP/1.1 200 ") and b'"outcome":"FOUND"' in said


def test_a_half_closed_client_gets_a_slow_answer_too(scripted: Start) -> None:
    """Longer than the server waits before it looks whether anybody is left: an interim answer comes first."""
    server = scripted(token_s=0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall(request_bytes(question()))
        connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()  # passes over interim answers
        content = json.loads(response.read())["choices"][0]["message"]["content"]
        assert response.status == 200 and "bbox_2d" in content
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
    server = scripted(token_s=1.0)
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
        assert time.monotonic() - left < 40, "a whole answer takes more than a minute"
    assert server.metric('egm_requests_total{outcome="gone"}') == 2
    assert server.stop() == 0


def test_the_servers_own_time_ends_a_request(scripted: Start) -> None:
    server = scripted(token_s=0.5, request_s=4.0)
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
    assert server.post(question("the red bowl"), headers=good).status_code == 200
    assert server.client.get("/health").status_code == server.client.get("/").status_code == 200
    assert server.stop() == 0
    log = server.log.read_text()
    assert "POST /v1/chat/completions 200" in log and "outcome=FOUND" in log
    assert "s3cret" not in log and "red mug" not in log and "base64" not in log


def test_log_lines_cannot_be_forged(nano: Server) -> None:
    nano.client.get("/a%0d%0a2026 POST%20/fake%1b[31m")
    waited = time.monotonic() + 30
    while not (
        lines := [line for line in nano.log.read_text().splitlines() if "/a" in line]
    ):  # written after the reply
        assert time.monotonic() < waited, nano.log.read_text()
        time.sleep(0.05)
    assert re.search(r"GET /a\?\?2026\?POST\?/fake\?\[31m 404 ", lines[-1])
