"""Sixty-four clients at once on loopback: no error but 429, and memory that stays flat."""

from __future__ import annotations

import asyncio
import collections
import json
import time

import httpx
import pytest

from tests.serve.conftest import FRAMES, Server, Start, data_url, question

CLIENTS = 64
SENTENCES = ("the red bowl", "the leftmost bowl", "the blue cup", "the largest object")


async def hammer(url: str, seconds: float) -> collections.Counter[str]:
    """Every client asks, reads the whole answer and asks again; half of them stream. A 429 is honoured for a moment only."""
    bodies = [
        json.dumps(
            question(SENTENCES[i % 4], data_url((FRAMES / f"tabletop_{i % 6 + 1}.png").read_bytes()), stream=i % 2 == 0)
        )
        for i in range(12)
    ]
    seen: collections.Counter[str] = collections.Counter()
    due = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=CLIENTS)

    async def client(number: int) -> None:
        turn = number
        while time.monotonic() < due:
            turn += 1
            try:
                response = await session.post(
                    "/v1/chat/completions", content=bodies[turn % 12], headers={"content-type": "application/json"}
                )
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1
                continue
            whole = response.status_code != 200 or turn % 2 or response.text.endswith("data: [DONE]\n\n")
            seen[str(response.status_code) if whole else "cut stream"] += 1
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                await asyncio.sleep(0.5)

    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as session:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return seen


def check(server: Server, seen: collections.Counter[str]) -> None:
    print(dict(seen))
    assert set(seen) <= {"200", "429"}, seen
    assert seen["200"] > CLIENTS // 4
    assert server.client.get("/ready").status_code == 200
    assert server.metric("egm_queue_depth") == server.metric("egm_held_bytes") == 0
    assert server.metric("egm_frames_kept") <= 4


def test_sixty_four_clients_for_a_few_seconds(start: Start, nano_bundle: object) -> None:
    server = start("-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--queue", 8, "--threads", 1)
    check(server, asyncio.run(hammer(server.url, 5)))
    assert server.stop() == 0


@pytest.mark.slow
def test_sixty_four_clients_for_a_minute_and_memory_is_flat(start: Start, nano_bundle: object) -> None:
    server = start("-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--queue", 16, "--threads", 1)
    check(server, asyncio.run(hammer(server.url, 20)))  # warm: pools, caches and kept frames have their size
    warm = server.resident_mib()
    seen = asyncio.run(hammer(server.url, 60))
    check(server, seen)
    after = server.resident_mib()
    print(f"resident {warm:.0f} MiB after 20 s, {after:.0f} MiB after 60 s more, {dict(seen)}")
    assert after < warm + 24
    assert server.stop() == 0
