"""POST /v1/chat/completions: body -> ParsedRequest -> queue -> answer, whole or streamed, watching for a client that leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from egm_edge.decoding import TokenEvent
from egm_edge.grounding import Grounding
from egm_edge.serve.body import ByteBudget, read_body
from egm_edge.serve.engine import QueuedRequest, RequestQueue
from egm_edge.serve.errors import ClientGoneError, RequestError
from egm_edge.serve.ignored import HEADER
from egm_edge.serve.metrics import BUSY, FAILED, GONE, LATE, REFUSED, Metrics
from egm_edge.serve.picture_fetch import PictureFetcher
from egm_edge.serve.replies import Reply, event
from egm_edge.serve.request_parsing import AddressedRequest, ParsedRequest, parse_request
from egm_edge.serve.settings import ServeSettings


class Chat:
    """An ASGI application for the one route."""

    def __init__(
        self,
        engine: RequestQueue,
        settings: ServeSettings,
        metrics: Metrics,
        budget: ByteBudget,
        new_reply: Callable[[ParsedRequest], Reply],
    ) -> None:
        self._engine, self._settings, self._metrics, self._new_reply = engine, settings, metrics, new_reply
        self._budget, self._fetcher = budget, PictureFetcher(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        try:
            async with read_body(Request(scope, receive), self._budget, self._settings) as body:
                request = await run_in_threadpool(parse_request, body.pop(), self._settings)
                with self._budget.holding() as take:
                    if isinstance(request, AddressedRequest):
                        request = request.with_picture(await self._fetcher.fetch(request.url, take))
                    await self._answer(request, arrived, scope, receive, send)
        except ClientGoneError:
            self._ended(scope, GONE, arrived)
        except RequestError as error:
            kind = {429: BUSY, 504: LATE}.get(error.status, REFUSED if error.status < 500 else FAILED)
            self._ended(scope, kind, arrived)
            raise
        except Exception:
            self._ended(scope, FAILED, arrived)
            raise

    def _ended(self, scope: Scope, outcome: str, arrived: float) -> None:
        scope["state"]["outcome"] = outcome
        self._metrics.ended(outcome, time.monotonic() - arrived)

    async def _answer(self, request: ParsedRequest, arrived: float, scope: Scope, receive: Receive, send: Send) -> None:
        queued = self._engine.submit(request, arrived)
        watcher = asyncio.create_task(_cancel_when_gone(receive, queued))
        try:
            results = queued.results()
            if request.stream:
                grounding = await self._stream(request, results, arrived, send)
            else:
                grounding = await self._whole(request, results, arrived, scope, receive, send)
        finally:
            watcher.cancel()
            queued.cancel()
        self._metrics.answered(grounding, time.monotonic() - arrived)
        scope["state"] |= {
            "outcome": grounding.outcome.value,
            "tokens": grounding.tokens.completion,
            "frame": "kept" if grounding.timings.frame_reused else "new",
        }

    async def _whole(
        self,
        request: ParsedRequest,
        results: AsyncIterator[TokenEvent | Grounding],
        arrived: float,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Grounding:
        async for result in results:
            if isinstance(result, Grounding):
                body = self._new_reply(request).whole(result)
                headers = _ignored_header(body["egm"]["ignored"])
                await JSONResponse(body, headers=headers)(scope, receive, send)
                return result
            if result.count == 1:
                self._metrics.first_token_seconds.observe(time.monotonic() - arrived)
        raise ClientGoneError

    async def _stream(
        self, request: ParsedRequest, results: AsyncIterator[TokenEvent | Grounding], arrived: float, send: Send
    ) -> Grounding:
        """Server-sent events. The status line waits for the first result, so that a refusal still has its own status."""
        reply = self._new_reply(request)
        first = await anext(results)
        self._metrics.first_token_seconds.observe(time.monotonic() - arrived)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        headers += [(k.lower().encode(), v.encode()) for k, v in _ignored_header(request.ignored).items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._piece(send, reply.opening())
        try:
            result: TokenEvent | Grounding = first
            while isinstance(result, TokenEvent):
                await self._piece(send, reply.piece(result.text))
                result = await anext(results)
        except RequestError as error:  # the status is sent: the error becomes the last event
            await self._piece(send, event(error.body()) + b"data: [DONE]\n\n", last=True)
            error.told = True
            raise
        await self._piece(send, reply.closing(result, include_usage=request.include_usage), last=True)
        return result

    async def _piece(self, send: Send, data: bytes, *, last: bool = False) -> None:
        if data or last:
            await send({"type": "http.response.body", "body": data, "more_body": not last})


def _ignored_header(names: Sequence[str]) -> dict[str, str]:
    return {HEADER: ", ".join(names)} if names else {}


async def _cancel_when_gone(receive: Receive, queued: QueuedRequest) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    queued.cancel()
