"""OpenAIClient: a server's models and chat completions, retried with back-off. Safe to call from several threads at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from egm_edge.decoding import TokenEvent
from egm_edge.errors import BackendError
from egm_edge.openai.chat_stream import ChatStream, read_json
from egm_edge.openai.reply import ChatReply, Limits
from egm_edge.openai.retry import Retry, ask
from egm_edge.openai.server import Server


class OpenAIClient:
    """A server's chat completions.

    Args:
        server: where, or its address alone. key: bearer token for an address. retry: how patiently to try.
    """

    def __init__(self, server: Server | str, *, key: str | None = None, retry: Retry | None = None) -> None:
        self.server = Server(server, key or "") if isinstance(server, str) else server
        self.retry = retry or Retry()

    def models(self) -> list[str]:
        """Names of the models that are served.

        Raises:
            BackendError: nobody answers, or the server does not say.
        """
        server, timeout_s = self.server, min(self.retry.timeout_s, self.server.stall_timeout_s)

        def once() -> Any:
            with server.exchange("GET", "models", timeout_s=timeout_s) as response:
                return read_json(response, server.where)

        listed = self.retry.run(once, server.where, _sleep)
        entries = listed.get("data") if isinstance(listed, dict) else None
        named = [e.get("id") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
        names = [name for name in named if isinstance(name, str)]
        if not names:
            raise BackendError(f"a list of models from {server.where}", "none", "load one, or pass the model's name")
        return names

    def complete(
        self,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> ChatReply:
        """Ask once, or as often as it takes; streamed where someone listens.

        Args:
            body: of the request: model, messages, max_tokens, …
            headers: beside the usual ones. on_token, should_stop: see `egm_edge.openai.ask`.

        Raises:
            RequestRefusedError, NoAnswerError: this request failed for good.
            BackendError: the server refuses us altogether, or falls silent.
        """
        if on_token is not None:
            body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        return ask(
            lambda: ChatStream(self.server, body, headers),
            Limits(),
            self.retry,
            where=self.server.where,
            should_stop=should_stop,
            on_token=on_token,
        )


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
