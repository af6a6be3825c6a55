"""One chat completion from an OpenAI-compatible endpoint, retried with back-off. Knows nothing of grounding.

What passes (overload, server errors, stalls, cut connections, answers that are no JSON) is tried again; what will not
(bad key, unknown model) ends the run at once.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp

from egm_edge.errors import BackendError
from egm_edge.openai_client import FATAL_STATUS, PASSING_STATUS, Completion, Retry


class GaveUpError(Exception):
    """One request failed for good; the run goes on with the others."""


async def complete(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], request_id: str, retry: Retry
) -> Completion:
    """Ask once, or as often as it takes.

    Raises:
        GaveUpError: every try failed, or the server refused this one request.
        BackendError: the server refuses us altogether.
    """
    failure = ""
    for attempt in range(retry.tries):
        wait_s = min(retry.longest_wait_s, retry.first_wait_s * 2**attempt) * random.uniform(0.5, 1.0)
        try:
            # The same key on every try: a server that knows it does not bill a repeated request again.
            headers = {"Idempotency-Key": request_id, "X-Request-Id": request_id}
            timeout = aiohttp.ClientTimeout(total=retry.timeout_s)
            async with session.post(url, json=body, headers=headers, timeout=timeout) as response:
                if response.status == 200:
                    return _completion(await response.json(content_type=None))
                failure = f"HTTP {response.status}: {(await response.text())[:160]}"
                if response.status in FATAL_STATUS:
                    raise BackendError(f"an answer from {url}", failure, "check the endpoint, the model and the key")
                if response.status not in PASSING_STATUS:
                    raise GaveUpError(failure)
                wait_s = _retry_after(response.headers.get("Retry-After"), wait_s, retry.longest_wait_s)
        except asyncio.TimeoutError:
            failure = f"no answer within {retry.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            failure = f"{type(error).__name__}: {str(error)[:160]}"
        if attempt + 1 < retry.tries:
            await asyncio.sleep(wait_s)
    raise GaveUpError(failure)


def _completion(values: Any) -> Completion:
    usage = values.get("usage") or {}
    text = values["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError(f"content is a {type(text).__name__}")
    counts = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
    prompt_tokens, completion_tokens = counts
    return Completion(
        text, model=str(values.get("model", "")), prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
    )


def _retry_after(header: str | None, wait_s: float, longest_s: float) -> float:
    try:
        return min(longest_s, max(0.0, float(header))) if header is not None else wait_s
    except ValueError:  # an HTTP date: our own back-off will do
        return wait_s
