"""RequestError: a refusal in OpenAI's error format. Knows nothing of HTTP servers beyond status codes and headers."""

from __future__ import annotations

from typing import Any

from egm_edge.errors import EgmError, InputError


class RequestError(Exception):
    """What a client is told instead of an answer.

    Args:
        status: HTTP status code.
        message: what was expected, what was found, what to do; never holds picture content or keys.
        code: one word for programs ("queue_full").
        param: the request field at fault.
        retry_after_s: when to try again.
        close: the connection cannot be used further.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, " ".join(message.split()), code, param
        self.told = False  # a stream already carried it
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)
        if close:
            self.headers["Connection"] = "close"
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    @classmethod
    def of(cls, error: EgmError) -> RequestError:
        """An error of ours: a request that cannot be answered is the client's, everything else the server's."""
        if isinstance(error, InputError):
            return cls(400, str(error), "invalid_value")
        return cls(500, str(error), "engine_failed")

    @property
    def kind(self) -> str:
        """OpenAI's `type` of this status."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to be told anything."""
