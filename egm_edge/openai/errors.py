"""What may go wrong with one request, by what to do about it."""

from __future__ import annotations

import json

from egm_edge.errors import BackendError

SHOWN_CHARS = 200


class RequestRefusedError(BackendError):
    """The server refuses this one request; the same request again would fare no better."""


class NoAnswerError(BackendError):
    """The answer was lost on its way, or is none; the same request again may fare better."""


class StatusError(Exception):
    """An answer that is no 200.

    Attributes:
        status: of HTTP. words: the server's own, one bounded line.
        retry_after_s: how long it asks to wait, None where it does not say.
    """

    def __init__(self, status: int, body: str, retry_after_s: float | None) -> None:
        self.status, self.words, self.retry_after_s = status, server_words(body), retry_after_s
        super().__init__(f"HTTP {status}: {self.words}".rstrip(": "))


def server_words(body: str) -> str:
    """What an error body says, one bounded line."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return one_line(str(found))


def one_line(text: str) -> str:
    """Bounded, without line breaks."""
    return " ".join(text.split())[:SHOWN_CHARS]
