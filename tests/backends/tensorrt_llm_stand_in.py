"""Stand-ins of TensorRT-LLM's LLM API, in the shape that its source has (`RequestOutput`, `CompletionOutput`,
`RequestPerfMetrics`, `SamplingParams`)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

ANSWER = '\n</think>\n\n```json\n[{"bbox_2d": [250, 250, 750, 500], "label": "the mug"}]\n```'
PREFILL_MS, STEPS, PROMPT_TOKENS = 41.0, 13, 57
LATE_S = 20.0  # generous: the machine may be busy


@dataclass(slots=True, kw_only=True)
class GuidedDecodingParams:
    json: Any = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | None = None


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """The fields that are used, with the runtime's own defaults; an unknown one is a TypeError, as there."""

    max_tokens: int = 32
    temperature: float | None = None
    top_k: int | None = None
    return_perf_metrics: bool = False
    guided_decoding: GuidedDecodingParams | None = None
    skip_special_tokens: bool = True


@dataclass(slots=True)
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    request_perf_metrics: Any = None
    last_text_len: int = 0

    @property
    def text_diff(self) -> str:
        return self.text[self.last_text_len :]


class RequestOutput:
    """An answer under way: iterating blocks for the runtime's next response and gives the same object again. After `abort`
    the runtime sends one last response, "cancelled"."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling
        self.outputs = [CompletionOutput()]
        self.prompt_token_ids = list(range(PROMPT_TOKENS))
        self.cached_tokens, self.decoding_iter = 0, 0
        self.finished = self.aborted = False
        self.responses: queue.Queue[Callable[[CompletionOutput], None]] = queue.Queue()

    def __iter__(self) -> RequestOutput:
        return self

    def __next__(self) -> RequestOutput:
        if self.finished:
            raise StopIteration
        self.responses.get()(self.outputs[0])
        return self

    def abort(self) -> None:
        self.aborted = True
        self.responses.put(self.end("cancelled"))

    def piece(self, text: str) -> Callable[[CompletionOutput], None]:
        def arrive(output: CompletionOutput) -> None:
            output.last_text_len = len(output.text)
            output.text += text
            output.token_ids.append(1)

        return arrive

    def end(self, reason: str) -> Callable[[CompletionOutput], None]:
        def arrive(output: CompletionOutput) -> None:
            output.last_text_len = len(output.text)
            output.finish_reason, self.finished = reason, True
            if self.sampling.return_perf_metrics:
                output.request_perf_metrics = perf_metrics()

        return arrive

    def fail(self) -> Callable[[CompletionOutput], None]:
        def arrive(output: CompletionOutput) -> None:
            raise RuntimeError("CUDA out of memory in the worker")  # as the executor's error handler does

        return arrive


def perf_metrics() -> Any:
    """RequestPerfMetrics: moments since the runtime's start, blocks of the KV cache, iterations."""
    first_scheduled = timedelta(seconds=100.5)
    timing = SimpleNamespace(
        arrival_time=timedelta(seconds=100),
        first_scheduled_time=first_scheduled,
        first_token_time=first_scheduled + timedelta(milliseconds=PREFILL_MS),
        last_token_time=first_scheduled + timedelta(milliseconds=90),
    )
    cache = SimpleNamespace(
        num_reused_blocks=2, num_missed_blocks=1, num_new_allocated_blocks=1, kv_cache_hit_rate=0.66
    )
    return SimpleNamespace(timing_metrics=timing, kv_cache_metrics=cache, first_iter=7, last_iter=7 + STEPS - 1)


class LLM:
    """Records what it was asked, answers by `script`."""

    script = "answers"
    latest: LLM

    def __init__(self, model: str, **arguments: Any) -> None:
        if self.script == "does not load":
            raise ValueError("Unknown architecture\nin config.json")
        type(self).latest = self
        self.model, self.arguments = model, arguments
        self.asked: list[tuple[dict[str, Any], SamplingParams]] = []
        self.requests: list[RequestOutput] = []
        self.preprocess_s, self.prepared = 0.0, threading.Event()
        self.inside = self.most_inside = 0
        self.cached_tokens = 0
        self.barrier: threading.Barrier | None = None
        self.shut_down = False

    def generate_async(
        self, inputs: dict[str, Any], sampling_params: SamplingParams | None = None, streaming: bool = False
    ) -> RequestOutput:
        assert streaming and sampling_params is not None
        if self.shut_down:
            raise RuntimeError("LLM is shutting down")
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.prepared.wait(self.preprocess_s)
        self.inside -= 1
        if self.script == "refuses":
            raise ValueError("The sum of prompt length (9000) should not exceed max_num_tokens (8192)")
        request = RequestOutput(sampling_params)
        request.cached_tokens = self.cached_tokens
        self.asked.append((inputs, sampling_params))
        self.requests.append(request)
        threading.Thread(target=self._answer, args=(request, self.script), daemon=True).start()
        return request

    def _answer(self, request: RequestOutput, script: str) -> None:
        if self.barrier is not None:
            self.barrier.wait(LATE_S)
        if script == "stalls":
            return
        pieces = [ANSWER[i : i + 7] for i in range(0, len(ANSWER), 7)]
        for piece in pieces[: 3 if script in ("fails", "hangs half way") else None]:
            request.responses.put(request.piece(piece))
        if script == "fails":
            request.responses.put(request.fail())
        elif script != "hangs half way":
            request.responses.put(request.end({"answers": "stop", "cut": "length"}.get(script, script)))

    def shutdown(self) -> None:
        self.shut_down = True
