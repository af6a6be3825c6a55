"""Addresses as users write them, and Retry-After as servers write it."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from egm_edge.errors import InputError
from egm_edge.openai import OpenAIClient, Retry, Server
from tests.evaluate.servers import BOX, Reply, serving

BODY = {"model": "egm-test", "messages": [{"role": "user", "content": [{}, {"type": "text", "text": "x"}]}]}


@pytest.mark.parametrize(
    ("address", "base"),
    [
        pytest.param("http://h:8000", "http://h:8000/v1", id="host alone"),
        pytest.param("http://h:8000/", "http://h:8000/v1", id="a slash"),
        pytest.param("http://h:8000/v1", "http://h:8000/v1", id="with the version"),
        pytest.param("http://h:8000/v1/chat/completions", "http://h:8000/v1", id="the whole route"),
        pytest.param("http://h/chat/completions", "http://h/v1", id="the route without the version"),
        pytest.param("https://h/proxy", "https://h/proxy/v1", id="behind a prefix"),
        pytest.param("https://h/v1beta/openai/", "https://h/v1beta/openai", id="a version of another kind"),
        pytest.param("http://user:secret@h/v1", "http://h/v1", id="user and password are not told on"),
    ],
)
def test_addresses_with_and_without_their_version(address: str, base: str) -> None:
    assert Server(address).base_url == base


def test_both_ways_to_write_an_address_reach_the_server() -> None:
    with serving(lambda body, before: Reply()) as served:
        for address in (served.url, served.url.removesuffix("/v1")):
            client = OpenAIClient(address)
            assert client.models() == ["egm-test"]
            assert client.complete(BODY).text == BOX


@pytest.mark.parametrize("address", ["h:8000", "http://h:port", "http://h:99999", "http://h:0", "file:///etc"])
def test_what_is_no_address_is_said_at_once(address: str) -> None:
    with pytest.raises(InputError, match="an address such as"):
        Server(address)


def test_a_date_to_come_back_is_waited_for() -> None:
    def reply(body: object, before: int) -> Reply:
        return Reply() if before else Reply(status=503, retry_after=formatdate(time.time() + 3.0, usegmt=True))

    with serving(reply) as served:
        client = OpenAIClient(served.url, retry=Retry(tries=2, first_wait_s=60.0, longest_wait_s=120.0))
        started = time.monotonic()
        assert client.complete(BODY).text == BOX
        assert 1.0 < time.monotonic() - started < 30.0  # neither at once nor after our own back-off
