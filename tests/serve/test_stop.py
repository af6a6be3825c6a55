"""Signals: what was accepted is finished, readiness goes false, nothing new is taken."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serve.conftest import Start, question


def until(happened: object, limit_s: float = 300.0) -> None:
    due = time.monotonic() + limit_s
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < due
        time.sleep(0.02)


def test_sigterm_finishes_running_and_waiting_requests(scripted: Start) -> None:
    server = scripted(token_s=0.03)
    with ThreadPoolExecutor(4) as pool:
        answers = [
            pool.submit(httpx.post, f"{server.url}/v1/chat/completions", json=question(), timeout=300) for _ in range(3)
        ]
        until(lambda: server.metric("egm_requests_running") + server.metric("egm_queue_depth") == 3)
        assert server.client.get("/ready").json() == {"status": "ready"}
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.client.get("/ready").status_code == 503)
        late = httpx.post(f"{server.url}/v1/chat/completions", json=question(), timeout=300)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "stopping")
        assert late.headers["connection"] == "close" and late.headers["retry-after"]
        assert server.client.get("/health").status_code == 200
        assert server.metric("egm_ready") == 0
        assert [answer.result().status_code for answer in answers] == [200, 200, 200]
    assert server.process.wait(300) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/ready")


def test_a_stream_that_runs_is_finished_too(scripted: Start) -> None:
    server = scripted(token_s=0.03)
    with server.client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as streamed:
        lines = streamed.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert server.process.wait(300) == 0


def test_a_second_signal_stops_at_once(scripted: Start) -> None:
    server = scripted(token_s=1.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.post(question())))
    asking.start()
    until(lambda: httpx.get(f"{server.url}/metrics").text.count("egm_requests_running 1.0"))
    server.process.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(300) == 128 + signal.SIGTERM
    asking.join()
    assert time.monotonic() - started < 40, "the whole answer takes more than a minute"
    assert answers[0].status_code == 503


def test_what_does_not_finish_in_time_is_cut(scripted: Start) -> None:
    server = scripted(token_s=0.5, drain_s=0.5)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.post(question())))
    asking.start()
    until(lambda: httpx.get(f"{server.url}/metrics").text.count("egm_requests_running 1.0"))
    assert server.stop() == 128 + signal.SIGTERM
    asking.join()
    assert answers[0].status_code == 503


def test_ctrl_c_on_an_idle_server_is_a_clean_stop(scripted: Start) -> None:
    assert scripted().stop(signal.SIGINT) == 0
