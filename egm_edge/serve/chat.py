"""POST /v1/chat/completions: body -> ChatQuestion -> Engine -> answer, whole or streamed, watching for a client that leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from egm_edge.decoding import TokenEvent
from egm_edge.grounding import Grounding
from egm_edge.serve.body import Body, HeldBytes
from egm_edge.serve.engine import Engine, Waiting
from egm_edge.serve.metrics import BUSY, FAILED, GONE, LATE, REFUSED, Metrics
from egm_edge.serve.question import ChatQuestion, read_question
from egm_edge.serve.refusals import ClientGoneError, RequestError
from egm_edge.serve.replies import Reply, event
from egm_edge.serve.settings import ServeSettings


class Chat:
    """An ASGI application for the one route."""

    def __init__(
        self, engine: Engine, settings: ServeSettings, metrics: Metrics, new_reply: Callable[[], Reply]
    ) -> None:
        self._engine, self._settings, self._metrics, self._new_reply = engine, settings, metrics, new_reply
        self._held = HeldBytes(settings.max_held_bytes, metrics.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        note: dict[str, object] = scope["state"]
        try:
            async with Body(self._held, self._settings) as body:
                question = await run_in_threadpool(
                    read_question, await body.read(Headers(scope=scope), receive), self._settings
                )
                await self._answer(question, arrived, scope, receive, send)
        except ClientGoneError:
            note["outcome"] = GONE
            self._metrics.ended(GONE, time.monotonic() - arrived)
        except RequestError as error:
            note["outcome"] = {429: BUSY, 504: LATE}.get(error.status, REFUSED if error.status < 500 else FAILED)
            self._metrics.ended(str(note["outcome"]), time.monotonic() - arrived)
            raise

    async def _answer(self, question: ChatQuestion, arrived: float, scope: Scope, receive: Receive, send: Send) -> None:
        waiting = self._engine.submit(question, arrived)
        watcher = asyncio.create_task(_cancel_when_gone(receive, waiting))
        try:
            results = waiting.results()
            if question.stream:
                grounding = await self._stream(question, results, arrived, send)
            else:
                grounding = await self._whole(results, arrived, scope, receive, send)
        finally:
            watcher.cancel()
            waiting.cancel()
        self._metrics.answered(grounding, time.monotonic() - arrived)
        scope["state"] |= {
            "outcome": grounding.outcome.value,
            "tokens": grounding.tokens.completion,
            "frame": "kept" if grounding.timings.frame_reused else "new",
        }

    async def _whole(
        self, results: AsyncIterator[TokenEvent | Grounding], arrived: float, scope: Scope, receive: Receive, send: Send
    ) -> Grounding:
        async for result in results:
            if isinstance(result, Grounding):
                await JSONResponse(self._new_reply().whole(result))(scope, receive, send)
                return result
            if result.count == 1:
                self._metrics.first_token_seconds.observe(time.monotonic() - arrived)
        raise ClientGoneError

    async def _stream(
        self, question: ChatQuestion, results: AsyncIterator[TokenEvent | Grounding], arrived: float, send: Send
    ) -> Grounding:
        """Server-sent events. The status line waits for the first result, so that a refusal still has its own status."""
        reply = self._new_reply()
        first = await anext(results)
        self._metrics.first_token_seconds.observe(time.monotonic() - arrived)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._piece(send, reply.opening())
        try:
            result: TokenEvent | Grounding = first
            while isinstance(result, TokenEvent):
                if question.options.samples == 1:  # with several, only the vote says which text is the answer
                    await self._piece(send, reply.piece(result.text))
                result = await anext(results)
        except RequestError as error:  # the status is sent: the error becomes the last event
            await self._piece(send, event(error.body()) + b"data: [DONE]\n\n", last=True)
            error.told = True
            raise
        await self._piece(send, reply.closing(result, include_usage=question.include_usage), last=True)
        return result

    async def _piece(self, send: Send, data: bytes, *, last: bool = False) -> None:
        if data or last:
            await send({"type": "http.response.body", "body": data, "more_body": not last})


async def _cancel_when_gone(receive: Receive, waiting: Waiting) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    waiting.cancel()
