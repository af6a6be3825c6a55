"""/metrics, /openapi.json, headers: what operators and tools read."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from egm_edge.serve.body import ByteBudget
from egm_edge.serve.chat import Chat
from egm_edge.serve.metrics import Metrics
from egm_edge.serve.settings import ServeSettings
from tests.serve.conftest import Server, frame_url, question


def test_metrics_count_what_happened(nano: Server) -> None:
    names = [
        'egm_requests_total{outcome="found"}',
        'egm_requests_total{outcome="refused"}',
        "egm_request_seconds_count",
        "egm_frames_reused_total",
        'egm_tokens_total{kind="completion"}',
        'egm_stage_seconds_count{stage="vision"}',
        "egm_time_to_first_token_seconds_count",
    ]
    before = {name: nano.metric(name) for name in names}
    url = frame_url("tabletop_6.png")
    tokens = 0
    for _ in range(2):
        answer = nano.post(question("the red bowl", url)).json()
        tokens += answer["usage"]["completion_tokens"]
    nano.post(question(n=5))
    grown = {name: nano.metric(name) - before[name] for name in names}
    outcome = answer["egm"]["outcome"].lower()
    assert grown['egm_requests_total{outcome="refused"}'] == 1
    assert outcome != "found" or grown['egm_requests_total{outcome="found"}'] == 2
    assert grown["egm_request_seconds_count"] == 3
    assert grown["egm_frames_reused_total"] == 1
    assert grown['egm_tokens_total{kind="completion"}'] == tokens
    assert grown['egm_stage_seconds_count{stage="vision"}'] == grown["egm_time_to_first_token_seconds_count"] == 2
    assert nano.metric("egm_ready") == 1 and nano.metric("egm_queue_depth") == 0


def test_what_nobody_expected_is_counted_as_failed() -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": json.dumps(question()).encode()}

    async def send(message: object) -> None:
        raise AssertionError("the middleware tells of it")

    metrics, settings = Metrics(), ServeSettings()
    budget = ByteBudget(settings.max_held_bytes, metrics.held_bytes)
    chat = Chat(SimpleNamespace(submit=explode), settings, metrics, budget, new_reply=explode)  # type: ignore[arg-type]
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "state": {}}
    with pytest.raises(RuntimeError):
        asyncio.run(chat(scope, receive, send))
    assert scope["state"] == {"outcome": "failed"}
    assert metrics.registry.get_sample_value("egm_requests_total", {"outcome": "failed"}) == 1
    assert metrics.registry.get_sample_value("egm_held_bytes") == 0


def test_metric_names_keep_the_conventions(nano: Server) -> None:
    response = nano.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(response.text))
    ours = [family for family in families if family.name.startswith("egm_")]
    assert len(ours) >= 14
    for family in ours:
        assert family.documentation, family.name
        assert re.fullmatch(r"egm_[a-z_]+", family.name)
        assert not re.search(r"_(ms|millis|kb|mb)(_|$)", family.name), "base units only"
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    assert any(family.name == "process_resident_memory_bytes" for family in families)


def test_openmetrics_is_spoken_when_asked_for(nano: Server) -> None:
    response = nano.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_every_answer_carries_its_id_and_the_security_headers(nano: Server) -> None:
    ids = set()
    for response in (nano.client.get("/"), nano.client.get("/v1/models"), nano.client.get("/nothing"), nano.post({})):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers
        ids.add(response.headers["x-request-id"])
    assert len(ids) == 4


def test_the_openapi_document_names_every_route_and_own_field(nano: Server) -> None:
    document = nano.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions", "/v1/models", "/v1/models/{model}", "/health", "/ready", "/metrics"
    }  # fmt: skip
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"task", "deadline_ms", "max_think_tokens", "samples", "temperature", "messages"} <= set(fields)
    assert document["openapi"].startswith("3.1")
