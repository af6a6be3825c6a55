"""Schemathesis drives the server from its own OpenAPI document: no 5xx, and every answer is one the document names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.serve.conftest import Server, Start

pytest.importorskip("schemathesis", reason="install the test extra")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def fuzz(server: Server, examples: int) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", str(examples), "--seed", "7", "--phases", "examples,coverage,fuzzing"]
    command += ["--request-timeout", "60", "--generation-database", "none", "--no-color"]
    environment = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.client.get("/ready").status_code == 200
    assert server.metric('egm_requests_total{outcome="failed"}') == 0


def test_a_short_fuzz_finds_nothing(scripted: Start) -> None:
    server = scripted()
    fuzz(server, 15)
    assert server.metric('egm_requests_total{outcome="refused"}') > 20
    assert server.stop() == 0


@pytest.mark.long
def test_a_long_fuzz_finds_nothing(nano: Server) -> None:
    fuzz(nano, 200)
