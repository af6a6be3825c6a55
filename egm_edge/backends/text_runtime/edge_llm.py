"""EdgeLlmGrounder: a Jetson bundle answered by NVIDIA's TensorRT Edge-LLM runtime in this process.

    grounder = EdgeLlmGrounder.from_bundle("egm-4b-orin")
    grounding = grounder.ground(frame, "the red mug left of the kettle", color="rgb", deadline_ms=1500)

The runtime takes messages and pictures and gives text: it renders the chat template, cuts the picture and decodes, exactly as
a server does. Its own guided decoding takes the place of our forced syntax.

Written against the Python runtime of tensorrt-edgellm 0.11.0 (`tensorrt_edgellm.runtime`, as its own `experimental.server`
uses it) and covered by a contract test with stand-ins of the same shape. Not run on hardware.
"""

from __future__ import annotations

import threading
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.text_runtime.base import ONE_TRY, TextRequest, require_open, words_of
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.backends.text_runtime.text_grounder import TextGrounder
from egm_edge.bundle import Bundle
from egm_edge.encoding import png
from egm_edge.errors import BackendError, BundleError, message_of
from egm_edge.openai import TextChunk
from egm_edge.releases import EDGE_LLM, describe_release

RUNTIME = f"tensorrt-edgellm {EDGE_LLM}"
CONTEXT_RECORDS = 64  # prefixes kept: the prompt before the picture, and pictures asked about lately
_INSTALL = "on the device run `egm setup edgellm --device`, and use the egm that it names"
_PLATFORM = "compare `egm targets TARGET` with this machine's JetPack, CUDA and TensorRT"


class EdgeLlmRuntime:
    """The engine of an Edge-LLM bundle, loaded. It answers one request after another.

    Attributes:
        guided: (kind, guide) of the runtime's own guided decoding; kinds are "regex", "json_schema", "ebnf", …
    """

    retry, stall_timeout_s = ONE_TRY, 60.0

    def __init__(self, runtime: Any, engine: Any, bundle: Bundle, guided: tuple[str, str] | None) -> None:
        self.where = f"TensorRT Edge-LLM with {bundle.root.name}"
        self.facts = RuntimeFacts(RUNTIME, str(bundle.manifest.model["engine"].get("gpu", "cuda:0")))
        self.guided, self.engine = guided, engine
        self._runtime = runtime
        self._one_at_a_time = threading.Lock()

    @classmethod
    def open(cls, bundle: Bundle, served: ServedModel, guided: tuple[str, str] | None) -> EdgeLlmRuntime:
        """Load the engine; errors as `TextGrounder.from_bundle`."""
        if not bundle.manifest.model.get("engine"):
            hint = bundle.manifest.parity.get("next") or "build it on the device with egm build"
            raise BundleError(f"a bundle with an engine at {bundle.root}", "the host half alone", f"on the device: {hint}")
        runtime = _load_runtime()
        engine_dir, checkpoint = bundle.root / "engine", bundle.root / "checkpoint"
        cache = runtime.ContextCacheConfig()
        cache.enabled, cache.max_records = True, CONTEXT_RECORDS
        try:
            engine = runtime.LLMRuntime(str(engine_dir), str(engine_dir), {}, str(checkpoint), cache)
            engine.capture_decoding_cuda_graph()
        except RuntimeError as error:
            raise BackendError(
                f"an engine that runs here, built for {bundle.manifest.target}",
                message_of(error),
                "engines fit one GPU and one TensorRT: build it again on this device",
            ) from None
        return cls(runtime, engine, bundle, guided)

    def encode_image(self, image_rgb: NDArray[np.uint8]) -> bytes:
        return png(image_rgb)

    def open_stream(self, request: TextRequest) -> _EngineStream:
        engine = require_open(self.engine)
        return _EngineStream(self._runtime, engine, self._generation_request(request), self._one_at_a_time)

    def close(self) -> None:
        with self._one_at_a_time:
            self.engine = None

    def _generation_request(self, asked: TextRequest) -> Any:
        """The runtime's request: one user message, one picture, greedy."""
        rt = self._runtime
        message = rt.Message()
        message.role, message.has_content, message.content_is_array = "user", True, True
        message.contents = [rt.MessageContent("image", ""), rt.MessageContent("text", asked.user_text)]
        one = rt.Request(messages=[message])
        one.image_buffers = [rt.load_image_from_bytes(asked.picture)]
        if self.guided is not None:
            kind, guide = self.guided
            one.guided_decoding = rt.GuidedDecodingParams(getattr(rt.GuideType, kind.upper()), guide)
        request = rt.LLMGenerationRequest()
        request.requests = [one]
        request.temperature, request.top_p, request.top_k = 0.0, 1.0, 1
        request.max_generate_length = asked.max_new_tokens
        request.apply_chat_template, request.add_generation_prompt = True, True
        request.skip_special_tokens = False  # <box> and </think> are special tokens, and the parser reads them
        request.context_cache_lookup_policy = rt.ContextCacheLookupPolicy.USE_CACHE
        request.context_cache_commit_policy = rt.ContextCacheCommitPolicy.PREFILL_STATE_ONLY
        return request


class _EngineStream:
    """One request on the engine, read piece by piece. The engine runs in a thread of its own until it is done or
    the channel is cancelled."""

    def __init__(self, runtime: Any, engine: Any, request: Any, one_at_a_time: threading.Lock) -> None:
        self._channel = runtime.StreamChannel.create()
        self._channel.set_skip_special_tokens(False)
        request.stream_channels = [self._channel]
        self._error: Exception | None = None
        self._ended = False
        self._reasons = runtime.FinishReason
        self._thread = threading.Thread(target=self._run, args=(engine, request, one_at_a_time), daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> TextChunk | None:
        """The next piece, None at the end.

        Raises:
            TimeoutError: none came in time. BackendError: the runtime failed.
        """
        if self._ended:
            return None
        chunk = self._channel.wait_pop(timeout_ms=max(1, int(timeout_s * 1e3)))
        if chunk is None:
            if self._error is not None or self._channel.is_finished() or self._channel.is_cancelled():
                self._ended = True
                self._raise_failure()
                return None
            raise TimeoutError
        self._ended = bool(chunk.finished)
        if chunk.finished and chunk.reason == self._reasons.ERROR:
            self._thread.join()
            self._error = self._error or RuntimeError("the runtime ended the request with an error")
            self._raise_failure()
        reason = ("length" if chunk.reason == self._reasons.LENGTH else "stop") if chunk.finished else ""
        prompt_tokens = chunk.prompt_token_count if chunk.prompt_token_count >= 0 else None
        return TextChunk(chunk.text, finish_reason=reason, prompt_tokens=prompt_tokens)

    def close(self) -> None:
        """Cancel what is not finished, and wait until the engine is free again."""
        if not self._ended:
            self._channel.cancel()
        self._thread.join()

    def _run(self, engine: Any, request: Any, one_at_a_time: threading.Lock) -> None:
        try:
            with one_at_a_time:
                engine.handle_request(request)
        except Exception as error:  # crosses threads; `next` raises it where the caller is
            self._error = error
            self._channel.cancel()

    def _raise_failure(self) -> None:
        if self._error is not None:
            hint = "check the picture's size against the bundle's limits"
            raise BackendError("TensorRT Edge-LLM to answer", message_of(self._error), hint)


class EdgeLlmGrounder(TextGrounder):
    """Answers expressions with an Edge-LLM bundle."""

    runtime_kind = EdgeLlmRuntime


def _load_runtime() -> Any:
    """The native runtime, after its own check of system, CUDA, TensorRT and GPU."""
    try:
        release = version("tensorrt-edgellm")
    except PackageNotFoundError:
        release = None
    if release != EDGE_LLM:
        raise BackendError(f"{RUNTIME}, which runs this bundle", describe_release(release), _INSTALL)
    try:
        from tensorrt_edgellm import runtime

        runtime.load()
    except Exception as error:  # ImportError, NativeDetectionError, NativeSelectionError, TensorRTDependencyError
        raise BackendError(f"a machine that {RUNTIME} has a payload for", words_of(error), _PLATFORM) from None
    return runtime
