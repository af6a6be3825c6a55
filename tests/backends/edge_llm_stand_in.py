"""Stand-ins of tensorrt_edgellm.runtime, of the shape in which tensorrt-edgellm 0.11.0's own `experimental.server` uses it.

`tests/build_engine/edge_llm/test_real_export.py` holds the names against the real package.
"""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

ANSWER = '\n</think>\n\n```json\n[{"bbox_2d": [250, 250, 750, 500], "label": "the mug"}]\n```'
NAMES = {
    "StreamChannel": ("create", "set_skip_special_tokens", "wait_pop", "is_finished", "is_cancelled", "cancel"),
    "LLMRuntime": ("capture_decoding_cuda_graph", "handle_request"),
    "LLMGenerationRequest": (
        "requests", "temperature", "top_p", "top_k", "max_generate_length", "apply_chat_template", "add_generation_prompt",
        "skip_special_tokens", "context_cache_lookup_policy", "context_cache_commit_policy", "stream_channels",
    ),
    "Message": ("role", "has_content", "content_is_array", "contents"),
    "Request": ("messages", "image_buffers", "guided_decoding"),
    "ContextCacheConfig": ("enabled", "max_records"),
    "StreamChunk": ("text", "finished", "reason", "prompt_token_count"),
    "FinishReason": ("NOT_FINISHED", "END_ID", "LENGTH", "ERROR"),
    "GuidedDecodingParams": (), "GuideType": ("REGEX",), "MessageContent": (), "load_image_from_bytes": (),
    "ContextCacheLookupPolicy": ("USE_CACHE",), "ContextCacheCommitPolicy": ("PREFILL_STATE_ONLY",),
}  # fmt: skip


class Channel:
    """StreamChannel: chunks in, chunks out, cancel from the reader's side."""

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.condition = threading.Condition()
        self.finished = self.cancelled = False

    @classmethod
    def create(cls) -> Channel:
        return cls()

    def set_skip_special_tokens(self, skip: bool) -> None:
        assert skip is False

    def push(self, text: str, reason: str = "NOT_FINISHED") -> None:
        done = reason != "NOT_FINISHED"
        chunk = SimpleNamespace(text=text, token_ids=[1], prompt_token_count=42, finished=done, reason=reason, logprobs=[])
        with self.condition:
            self.chunks.append(chunk)
            self.finished = self.finished or done
            self.condition.notify_all()

    def wait_pop(self, *, timeout_ms: int) -> Any:
        with self.condition:
            self.condition.wait_for(lambda: self.chunks or self.finished or self.cancelled, timeout_ms / 1e3)
            return self.chunks.pop(0) if self.chunks else None

    def is_finished(self) -> bool:
        return self.finished

    def is_cancelled(self) -> bool:
        return self.cancelled

    def cancel(self) -> None:
        with self.condition:
            self.cancelled = True
            self.condition.notify_all()


class Engine:
    """LLMRuntime: records what it was asked, answers by `script`."""

    script = "answers"
    reply: Callable[[Any], str] = staticmethod(lambda request: ANSWER)
    opened: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any) -> None:
        type(self).opened = arguments
        self.requests: list[Any] = []

    def capture_decoding_cuda_graph(self) -> bool:
        return True

    def handle_request(self, request: Any) -> None:
        self.requests.append(request)
        [channel] = request.stream_channels
        if self.script == "fails":
            raise RuntimeError("input length 4000 exceeds the engine's 2296")
        if self.script == "stalls":
            while not channel.is_cancelled():
                time.sleep(0.005)
            return
        text = self.reply(request)
        for piece in (text[i : i + 7] for i in range(0, len(text), 7)):
            channel.push(piece)
        channel.push("", {"answers": "END_ID", "cut": "LENGTH", "ends in error": "ERROR"}[self.script])


def names(*words: str) -> Any:
    return SimpleNamespace(**{word: word for word in words})


def install(monkeypatch: pytest.MonkeyPatch, release: str = "0.11.0") -> Any:
    """Put the stand-in where `import tensorrt_edgellm` finds it."""
    module: Any = types.ModuleType("tensorrt_edgellm.runtime")
    for name in ("Message", "LLMGenerationRequest", "ContextCacheConfig"):
        setattr(module, name, type(name, (), {}))
    module.MessageContent = lambda kind, text: (kind, text)
    module.Request = lambda messages: SimpleNamespace(messages=messages, guided_decoding=None)
    module.GuidedDecodingParams = lambda kind, guide: (kind, guide)
    module.GuideType = names("REGEX", "JSON_SCHEMA", "EBNF", "CHOICE")
    module.FinishReason = names("NOT_FINISHED", "END_ID", "LENGTH", "ERROR", "CANCELLED", "STOP_WORDS")
    module.ContextCacheLookupPolicy = names("USE_CACHE", "BYPASS")
    module.ContextCacheCommitPolicy = names("PREFILL_STATE_ONLY", "INCLUDING_GENERATED_TOKENS")
    module.load_image_from_bytes = lambda data: SimpleNamespace(data=data)
    module.StreamChannel, module.LLMRuntime = Channel, Engine
    module.load = lambda: None
    package: Any = types.ModuleType("tensorrt_edgellm")
    package.runtime = module
    monkeypatch.setitem(sys.modules, "tensorrt_edgellm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_edgellm.runtime", module)
    monkeypatch.setattr(Engine, "script", "answers")
    monkeypatch.setattr("egm_edge.backends.text_runtime.edge_llm.version", lambda name: release)
    return module
