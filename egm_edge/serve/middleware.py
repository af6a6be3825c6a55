"""Middleware: what every request passes first and last: who may ask, what a refusal looks like, headers, and one plain log line.

A pure ASGI wrapper. The log holds address, method, path, status, time and outcome: no query, no picture, no key.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egm_edge.openai import CHAT_PATH, MODELS_PATH
from egm_edge.serve.errors import ClientGoneError, RequestError
from egm_edge.serve.settings import ServeSettings

log = logging.getLogger("egm_edge.serve")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
CLIENT_GONE_STATUS = 499  # only in the log, as nginx writes it


class Middleware:
    """Wraps the application.

    Attributes:
        draining: a stop was asked for: new chat requests are told 503 and connections close.
        in_flight: requests that are not answered to the end.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self.draining = False
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started, status = time.monotonic(), CLIENT_GONE_STATUS
        scope.setdefault("state", {})["request_id"] = secrets.token_hex(8)
        scope["app"] = self  # tells Starlette's router to raise its refusals instead of sending plain text

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, scope)
            await send(message)

        self.in_flight += 1
        try:
            await self._guarded(scope, receive, send_with_headers)
        except ClientGoneError:
            status = CLIENT_GONE_STATUS
        finally:
            self.in_flight -= 1
            _write_line(scope, status, time.monotonic() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, its errors turned into OpenAI's format."""
        try:
            self._admit(scope)
            await self._app(scope, receive, send)
            return
        except RequestError as error:
            refusal = error
        except HTTPException as error:
            asked = f"{scope['method']} {scope['path'][:100]}"
            expected = f"expected POST {CHAT_PATH} or GET {MODELS_PATH}; found {asked}: {error.detail}"
            refusal = RequestError(error.status_code, expected, "no_such_route")
            refusal.headers |= error.headers or {}
        except ClientGoneError:
            raise
        except Exception as error:
            log.error("unexpected %s: %s", type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
            refusal = RequestError(500, f"unexpected {type(error).__name__}; see the server's log", "internal_error")
        if not refusal.told:
            await JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Refuse foreign host names (a web page that points its own name at this machine), missing keys, and late comers."""
        headers, path = Headers(scope=scope), scope["path"]
        if (
            "transfer-encoding" in headers and "content-length" in headers
        ):  # two lengths: a smuggled request (RFC 9112, 6.1)
            raise RequestError(
                400, "expected Content-Length or Transfer-Encoding; found both", "two_lengths", close=True
            )
        host = headers.get("host", "").rpartition("@")[2]
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if self._settings.allowed_hosts and name.lower() not in self._settings.allowed_hosts:
            raise RequestError(
                403, f"expected a host this server goes by; found {name[:100]!r}; see --allow-host", "unknown_host"
            )
        if not path.startswith("/v1/"):
            return
        if self._settings.api_key and scope["method"] != "OPTIONS" and not self._has_key(headers):
            raise RequestError(401, "expected Authorization: Bearer KEY with this server's key", "invalid_api_key")
        if self.draining and scope["method"] == "POST":
            raise RequestError(503, "the server is stopping", "stopping", retry_after_s=5, close=True)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self._settings.api_key.encode())

    def _add_headers(self, message: Message, scope: Scope) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = scope["state"]["request_id"]
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")
        if self.draining:
            headers["Connection"] = "close"


def _write_line(scope: Scope, status: int, seconds: float) -> None:
    state: dict[str, Any] = scope["state"]
    notes = "".join(f" {name}={state[name]}" for name in ("outcome", "tokens", "frame") if name in state)
    client = (scope.get("client") or ("-",))[0]
    path = "".join(c if c.isprintable() and c != " " else "?" for c in scope["path"][:200])
    log.info(
        "%s %s %s %d %.0f ms%s id=%s", client, scope["method"], path, status, seconds * 1e3, notes, state["request_id"]
    )
