"""OpenVINO GenAI as a peer: a model directory exported by optimum-intel. Imports openvino_genai when opened.

Its pipeline does its own preprocessing and templating, so the clock of both sides starts at the picture. Prefix caching is
switched off: it would answer the second turn from the first.
"""

from __future__ import annotations

import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

from egm_edge.benchmark.peer import PeerRequest, PeerSample
from egm_edge.errors import BackendError, message_of


class OpenVinoPeer:
    """`openvino_genai.VLMPipeline` on the CPU, greedy.

    Raises:
        BackendError: it is not installed, or cannot load the directory.
    """

    starts_at, exact = "picture", True

    def __init__(self, directory: Path, *, threads: int) -> None:
        try:
            self._genai, self._openvino = import_module("openvino_genai"), import_module("openvino")
        except ImportError as error:
            raise BackendError("openvino-genai", str(error), "pip install openvino-genai") from None
        try:
            self._pipeline = self._genai.VLMPipeline(str(directory), "CPU", INFERENCE_NUM_THREADS=threads)
        except Exception as error:  # its exceptions share no public base class
            hint = "export it with optimum-cli export openvino"
            raise BackendError(f"{directory} to load into OpenVINO GenAI", message_of(error), hint) from None
        self.name = f"OpenVINO GenAI {version('openvino-genai')}, {directory.name}"
        self.precision, self.threads = "as exported", threads

    def run(self, request: PeerRequest, count: int) -> PeerSample:
        """Generate exactly `count` tokens."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        times: list[float] = []

        def note(piece: str) -> bool:
            times.append(time.perf_counter())
            return False

        started = time.perf_counter()
        picture = self._openvino.Tensor(np.ascontiguousarray(request.picture[None]))
        result = self._pipeline.generate(request.sentence, images=[picture], generation_config=config, streamer=note)
        finished = time.perf_counter()
        metrics = result.perf_metrics
        new_tokens, prompt = int(metrics.get_num_generated_tokens()), int(metrics.get_num_input_tokens())
        ttft_s, tpot_s = metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3
        if times and ttft_s > 0:  # the streamer holds text back until it is whole; its own clock counts tokens
            return PeerSample((finished - started) * 1e3, ttft_s * 1e3, tpot_s * 1e3, new_tokens, prompt)
        return PeerSample.of(started, times, finished, new_tokens, prompt)

    def close(self) -> None:
        """Free the model."""
        del self._pipeline
