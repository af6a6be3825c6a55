"""The application: routes, and the parts behind them put together. Knows no sockets and no signals."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from egm_edge import __version__
from egm_edge.grounder import Grounder
from egm_edge.openai import CHAT_PATH, MODELS_PATH
from egm_edge.serve.body import ByteBudget
from egm_edge.serve.chat import Chat
from egm_edge.serve.engine import RequestQueue
from egm_edge.serve.errors import RequestError
from egm_edge.serve.ignored import HEADER
from egm_edge.serve.live import LiveTracks
from egm_edge.serve.metrics import Metrics
from egm_edge.serve.middleware import Middleware
from egm_edge.serve.openapi import openapi_document
from egm_edge.serve.replies import Reply
from egm_edge.serve.request_parsing import ParsedRequest
from egm_edge.serve.samples import samples
from egm_edge.serve.schema import MAX_NAME_CHARS
from egm_edge.serve.settings import ServeSettings

PAGE_DIR = Path(__file__).parent / "page"
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


class Service:
    """One bundle as an ASGI application.

    Attributes:
        app: the application. middleware: what tells whether requests are in flight, and what draining sets.
        engine: answers. metrics: counts.
    """

    def __init__(self, grounder: Grounder, settings: ServeSettings, name: str) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.engine = RequestQueue(grounder, settings, self.metrics)
        self._names = settings.model_names or (name,)
        self._created = int(time.time())
        self._fingerprint = grounder.bundle_hash[:16]
        self._hidden = _special_tokens(grounder)
        manifest = grounder.bundle.manifest
        self._context_tokens = int(manifest.limits["context_tokens"])
        self._document = openapi_document(with_key=bool(settings.api_key))
        facts = {"name": name, "family": manifest.family, "target": manifest.target, "precision": manifest.precision}
        self.metrics.bundle.info(facts | {"hash": grounder.bundle_hash, "version": __version__})
        self.metrics.ready.set(1)
        budget = ByteBudget(settings.max_held_bytes, self.metrics.held_bytes)
        chat = Chat(self.engine, settings, self.metrics, budget, self._new_reply)
        routes = [
            *(Route(CHAT_PATH + end, chat, methods=["POST"]) for end in ("", "/")),
            *(Route(MODELS_PATH + end, self._models) for end in ("", "/")),
            Route(MODELS_PATH + "/{name:path}", self._model),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._prometheus),
            Route("/openapi.json", self._openapi),
            Route("/v1/track", LiveTracks(settings, budget).track, methods=["POST"]),
            Route("/samples.json", self._samples),
            Route("/samples/{number:int}.jpg", self._sample),
            *(Route("/" + path.name.removeprefix("index.html"), _file(path)) for path in PAGE_DIR.iterdir()),
        ]
        self.middleware = Middleware(Router(routes, redirect_slashes=False), settings)
        self.app = _with_cors(self.middleware, settings.cors_origins)

    def drain(self) -> None:
        """Accept no more chat requests."""
        self.middleware.draining = True
        self.metrics.ready.set(0)

    @property
    def idle(self) -> bool:
        """Every accepted request is answered to its last byte."""
        return self.engine.idle and not self.middleware.in_flight

    def _new_reply(self, request: ParsedRequest) -> Reply:
        return Reply(self._names[0], self._fingerprint, self._hidden, request)

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "egm-edge",
            "max_model_len": self._context_tokens,
        }

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._names]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._names and (self.settings.model_names or len(name) > MAX_NAME_CHARS):
            found = f"expected model {', '.join(self._names)}; found {name[:100]!r}"
            raise RequestError(404, found, "model_not_found", param="model")
        return JSONResponse(self._card(name))

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.middleware.draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ready"})

    async def _prometheus(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.metrics.registry), media_type=content_type)

    async def _samples(self, request: Request) -> Response:
        made = await run_in_threadpool(samples)
        listed = [{"url": f"/samples/{at}.jpg", "expression": sample.expression} for at, sample in enumerate(made, 1)]
        return JSONResponse(listed)

    async def _sample(self, request: Request) -> Response:
        made, number = await run_in_threadpool(samples), request.path_params["number"]
        if not 0 < number <= len(made):
            raise RequestError(404, f"expected a sample from 1 to {len(made)}; found {number}", "no_such_sample")
        return Response(made[number - 1].jpeg, media_type="image/jpeg")

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)


def _with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # clients in a page send their own (x-stainless-lang); none of them changes anything here
        expose_headers=["retry-after", "x-request-id", HEADER.lower()],
    )


def _file(path: Path) -> Any:
    content = path.read_bytes()

    async def send_file(request: Request) -> Response:
        return Response(content, media_type=PAGE_TYPES[path.suffix], headers=PAGE_HEADERS)

    return send_file


def _special_tokens(grounder: Grounder) -> re.Pattern[str]:
    added = grounder.tokenizer.get_added_tokens_decoder().values()
    special = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, special)) or r"(?!)")
