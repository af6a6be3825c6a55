"""RemoteGrounder: `Grounder.ground` answered by an OpenAI-compatible server: SGLang, vLLM, trtllm-serve, or `egm serve`.

    grounder = RemoteGrounder.from_url("http://127.0.0.1:8000", served_model="out/egm-4b-serve")
    grounding = grounder.ground("frame.png", "the red mug left of the kettle", deadline_ms=1500)

The server renders the chat template, tokenises and decodes. With a `served_model` (a bundle of the same checkpoint, or the
checkpoint itself) the picture is resized here by the checkpoint's own rule wherever the server's processor then finds nothing
left to resize, and sent losslessly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.text_runtime.base import TextRequest
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.backends.text_runtime.text_grounder import TextGrounder
from egm_edge.encoding import png
from egm_edge.errors import InputError
from egm_edge.openai import OpenAIClient, Retry, Server, data_url, grounding_request
from egm_edge.openai.chat_stream import ChatStream

MAX_NEW_TOKENS = 1024
# A frame grows old: what broke on its way is the caller's to ask again, with the next frame.
RETRY = Retry(tries=4, first_wait_s=0.25, longest_wait_s=8.0, timeout_s=float("inf"), lost_answers=False)


class HttpRuntime:
    """A model on a server.

    Args:
        server: where. model: the name it is asked for.
        special_token_syntax: answers are made of special tokens, which servers drop unless told not to.
        extra_body: fields that every request carries beside the standard ones (`mm_processor_kwargs`, `top_k`, …).
    """

    retry = RETRY

    def __init__(self, server: Server, model: str, *, special_token_syntax: bool, extra_body: Mapping[str, Any]) -> None:
        self.server, self.model = server, model
        self.where, self.stall_timeout_s = server.where, server.stall_timeout_s
        self.facts = RuntimeFacts("OpenAI-compatible server", server.where)
        # <box> is a special token of InternVL3 (vLLM and SGLang know the field)
        self._more = ({"skip_special_tokens": False} if special_token_syntax else {}) | dict(extra_body)

    def encode_image(self, image_rgb: NDArray[np.uint8]) -> str:
        return data_url(png(image_rgb), "image/png")

    def open_stream(self, request: TextRequest) -> ChatStream:
        body = grounding_request(self.model, request.picture, request.user_text, request.max_new_tokens)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        return ChatStream(self.server, body | self._more)

    def close(self) -> None:
        """Nothing is held between requests."""


class RemoteGrounder(TextGrounder):
    """Answers expressions through a server."""

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        served_model: str | Path | None = None,
        family: str = "qwen3_vl",
        model: str | None = None,
        api_key: str = "",
        extra_body: Mapping[str, Any] | None = None,
        stall_timeout_s: float = 60.0,
        contract: str | Path | None = None,
    ) -> RemoteGrounder:
        """Reach a server.

        Args:
            url: "http://HOST:PORT", with or without /v1.
            served_model: a bundle or checkpoint directory of the model that is served.
            family: task text and answer syntax where that is not given.
            model: its name on the server; None for the only one there.
            api_key: a bearer token.
            extra_body: further request fields.
            stall_timeout_s: silence after which a request without deadline is given up.
            contract: deprecated name of `served_model`.

        Raises:
            BackendError: nobody answers, or several models are there and none was named.
            BundleError, CheckpointError: `served_model` cannot be read.
        """
        server = Server(url, api_key, stall_timeout_s=stall_timeout_s)
        known = served_model if served_model is not None else contract
        served = ServedModel.read(known) if known is not None else ServedModel.of_family(family)
        if model is None:
            names = OpenAIClient(server, retry=RETRY).models()
            if len(names) > 1:
                raise InputError("the name of a model", f"{len(names)}: {', '.join(names[:5])}", "pass one of them")
            model = names[0]
        special = served.special_token_syntax
        runtime = HttpRuntime(server, model, special_token_syntax=special, extra_body=extra_body or {})
        return cls(runtime, served, max_new_tokens=MAX_NEW_TOKENS)
