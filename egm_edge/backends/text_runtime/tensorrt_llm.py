"""TensorRtLlmGrounder: a datacentre bundle answered by NVIDIA's TensorRT-LLM (its PyTorch runtime) in this process.

    if __name__ == "__main__":                 # the runtime starts workers, which import the calling script again
        grounder = TensorRtLlmGrounder.from_bundle("egm-4b-trtllm")
        grounding = grounder.ground(frame, "the red mug left of the kettle", color="rgb", deadline_ms=1500)

The runtime tokenises, expands the image token and decodes; the whole prompt (the bundle's PromptSpec) comes from this side.

Written against the LLM API of 1.3 as its source shows it (`llmapi/llm.py`, `executor/result.py`, `sampling_params.py`,
`_torch/models/modeling_qwen3vl.py`; development versions between 1.2.0rc2 and July 2026) and covered by a contract test with
stand-ins of the same shape. Not run on hardware.
"""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.text_runtime.base import ONE_TRY, TextRequest, require_open, words_of
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.backends.text_runtime.text_grounder import TextGrounder
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, BundleError, InputError
from egm_edge.openai import EngineMeasurements, TextChunk

TARGET = "tensorrt-llm"
FAMILY = "qwen3_vl"  # InternVL3 is not among the models of the PyTorch runtime
CHECKPOINT, ARGUMENTS = "checkpoint", "llm_args.yaml"
THOUGHT_PATTERN = r"[^<]*</think>\s{0,4}"


class TensorRtLlmRuntime:
    """The checkpoint of a TensorRT-LLM bundle, loaded. Requests decode in one batch.

    Attributes:
        guided: (kind, guide) of the runtime's own guided decoding; kinds are "regex", "json", "grammar" (EBNF),
            "structural_tag"; behind a thought only "regex".
    """

    retry, stall_timeout_s = ONE_TRY, 60.0

    def __init__(
        self, runtime: Any, engine: Any, bundle: Bundle, served: ServedModel, guided: tuple[str, str] | None
    ) -> None:
        self.where = f"TensorRT-LLM with {bundle.root.name}"
        self.facts = RuntimeFacts(f"tensorrt-llm {runtime.__version__}", "cuda:0")
        self.guided = guided
        self._runtime, self._engine, self._served = runtime, engine, served
        self._submitting = threading.Lock()  # the Hugging Face processor inside is not made for several threads
        self._replies: set[_Reply] = set()

    @classmethod
    def open(cls, bundle: Bundle, served: ServedModel, guided: tuple[str, str] | None) -> TensorRtLlmRuntime:
        """Load the checkpoint; errors as `TextGrounder.from_bundle`."""
        manifest = bundle.manifest
        if manifest.target != TARGET or manifest.family != FAMILY:
            found = f"{manifest.family} for {manifest.target} in {bundle.root}"
            hint = f"egm build CHECKPOINT --target {TARGET}; InternVL3 runs on vllm and sglang"
            raise BundleError(f"a {FAMILY} bundle for {TARGET}", found, hint)
        runtime = _load_runtime(str(manifest.versions["server"]))
        import yaml  # comes with the runtime

        arguments = yaml.safe_load(bundle.path(ARGUMENTS).read_text(encoding="utf-8"))
        try:
            engine = runtime.LLM(model=str(bundle.root / CHECKPOINT), **arguments)
        except Exception as error:  # whatever torch, CUDA, MPI and pydantic raise
            hint = (
                "see the runtime's log; egm build with a smaller --batch, --max-pixels or --precision needs less memory"
            )
            raise BackendError(f"TensorRT-LLM to load {bundle.root / CHECKPOINT}", words_of(error), hint) from None
        if guided is not None and served.in_thought and guided[0] != "regex":
            raise InputError("a regex guide for a bundle that thinks first", guided[0], "pass ('regex', BOX_PATTERN)")
        return cls(runtime, engine, bundle, served, guided)

    def encode_image(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image_rgb

    def open_stream(self, request: TextRequest) -> _Reply:
        require_open(self._engine)
        inputs, sampling = self._inputs(request), self._sampling(request.max_new_tokens)

        def submit() -> Any:
            with self._submitting:
                return require_open(self._engine).generate_async(inputs, sampling, streaming=True)

        reply = _Reply(submit, self._replies.discard)
        self._replies.add(reply)
        reply.start()
        return reply

    def close(self) -> None:
        with self._submitting:
            engine, self._engine = self._engine, None
        for reply in list(self._replies):
            reply.join(self.stall_timeout_s)
        if engine is not None:
            engine.shutdown()

    def _inputs(self, request: TextRequest) -> dict[str, Any]:
        """The runtime's prompt: text with one image token, one picture, and the bundle's own pixel budget."""
        spec = self._served.pixel_spec
        assert spec is not None
        return {
            "prompt": self._served.prompt(request.user_text),
            "multi_modal_data": {"image": [Image.fromarray(request.picture)]},
            "mm_processor_kwargs": {"size": spec.area_limits},
        }

    def _sampling(self, max_tokens: int) -> Any:
        guide = None
        if self.guided is not None:
            kind, text = self.guided
            text = THOUGHT_PATTERN + text if self._served.in_thought else text
            guide = self._runtime.llmapi.GuidedDecodingParams(**{kind: text})
        return self._runtime.SamplingParams(
            max_tokens=max_tokens, temperature=0.0, top_k=1, return_perf_metrics=True, guided_decoding=guide
        )


class TensorRtLlmGrounder(TextGrounder):
    """Answers expressions with a TensorRT-LLM bundle."""

    runtime_kind = TensorRtLlmRuntime


class _Reply:
    """One request in the runtime, read piece by piece. A thread of its own waits for the runtime, which has no
    timeouts, so that a deadline or a cancel holds whatever the runtime is doing."""

    def __init__(self, submit: Callable[[], Any], ended: Callable[[_Reply], None]) -> None:
        self._submit, self._ended = submit, ended
        self._chunks: queue.SimpleQueue[TextChunk | BackendError | None] = queue.SimpleQueue()
        self._state = threading.Lock()
        self._closed = False
        self._request: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until the runtime is done with it."""
        self._thread.join(timeout_s)

    def next(self, timeout_s: float) -> TextChunk | None:
        """The next piece, None at the end.

        Raises:
            TimeoutError: none came in time. BackendError: the runtime failed.
        """
        try:
            chunk = self._chunks.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(chunk, BackendError):
            raise chunk
        return chunk

    def close(self) -> None:
        """Take the request out of the batch, if it is not done. Does not wait: others go on meanwhile."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._abort()

    def _abort(self) -> None:
        if self._request is not None and not self._request.finished:
            with contextlib.suppress(Exception):  # a runtime that died has nothing to abort
                self._request.abort()

    def _run(self) -> None:
        try:
            self._pump()
        except BackendError as error:
            self._chunks.put(error)
        except Exception as error:  # crosses threads; `next` raises it where the caller is
            hint = "see the runtime's log, and the picture's size against the bundle's limits"
            self._chunks.put(BackendError("TensorRT-LLM to answer", words_of(error), hint))
        finally:
            self._ended(self)

    def _pump(self) -> None:
        started = time.perf_counter()
        request = self._submit()
        preprocess_ms = (time.perf_counter() - started) * 1e3
        with self._state:
            self._request = request
            if self._closed:  # while the picture was being processed
                self._abort()
        prompt_tokens = len(request.prompt_token_ids)
        self._chunks.put(TextChunk(prompt_tokens=prompt_tokens, measured=EngineMeasurements(preprocess_ms)))
        output = None
        for step in request:  # the same object again, grown by what the runtime's last step gave
            output = step.outputs[0]
            self._chunks.put(TextChunk(output.text_diff))
        reason = "nothing" if output is None else output.finish_reason
        if output is None or reason not in ("stop", "length"):
            found = f"a request that ended as {reason!r} by itself"
            raise BackendError("TensorRT-LLM to answer", found, "see the runtime's log")
        measured = _measured(request, output, preprocess_ms)
        made = len(output.token_ids)
        self._chunks.put(TextChunk(finish_reason=reason, completion_tokens=made, measured=measured))
        self._chunks.put(None)


def _measured(request: Any, output: Any, preprocess_ms: float) -> EngineMeasurements:
    """What the runtime says of a finished request; a value that it leaves out stays unknown."""
    prefill_ms, steps = None, int(getattr(request, "decoding_iter", 0) or 0)
    metrics = getattr(output, "request_perf_metrics", None)
    if metrics is not None:
        timing = metrics.timing_metrics  # datetime.timedelta since one moment
        between_ms = (timing.first_token_time - timing.first_scheduled_time).total_seconds() * 1e3
        prefill_ms = between_ms if between_ms > 0.0 else None
        if metrics.first_iter is not None and metrics.last_iter is not None:
            steps = metrics.last_iter - metrics.first_iter + 1
    return EngineMeasurements(preprocess_ms, prefill_ms, int(getattr(request, "cached_tokens", 0) or 0), steps)


def _load_runtime(requirement: str) -> Any:
    """The package, of a release that the bundle accepts."""
    install = (
        f"pip install '{requirement}' on a machine with a GPU of `egm targets`, or start serve.sh where it is installed"
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints its version, where --json is read
            runtime = importlib.import_module("tensorrt_llm")
            importlib.import_module("tensorrt_llm.llmapi")
    except Exception as error:  # ImportError, and what a missing CUDA library or MPI raises
        raise BackendError(f"{requirement}, which runs this bundle", words_of(error), install) from None
    from packaging.requirements import Requirement  # comes with the runtime

    if not Requirement(requirement).specifier.contains(runtime.__version__, prereleases=True):
        found = f"{runtime.__version__}, which is known to shift boxes or was never tried"
        raise BackendError(f"{requirement}, as the bundle asks for", found, install)
    return runtime

