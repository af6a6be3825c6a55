"""How large the inputs of the decoder's linear layers get on grounding requests: what FP8 engines take their scales from.

The 16-bit decoder runs on the CPU through ONNX Runtime, unoptimised, so that its weights are widened one layer at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from build_engine.compilers.plan import CheckpointPlan
from build_engine.exporters.graph import WeightFormat
from build_engine.exporters.observed_graph import OBSERVED, ObservedGraphWriter
from build_engine.exporters.portable_decoder import write_portable_decoder
from build_engine.exporters.portable_graph import PortableGraphWriter
from build_engine.modelopt.request_tensors import answer_text
from build_engine.parity.cases import Case
from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.portable.backend import PortableBackend
from egm_edge.backends.portable.runner import Arrays
from egm_edge.bundle import Bundle
from egm_edge.grounder import Grounder
from egm_edge.loaded_model import read_tokenizer
from egm_edge.reporting.progress import ProgressBar


def activation_ranges(
    plan: CheckpointPlan, tables: Bundle, cases: Sequence[Case], precision: str, bar: ProgressBar
) -> dict[str, float]:
    """Largest magnitude of each decoder layer's input over `cases`, requests with their answers.

    Args:
        tables: the bundle so far, with everything but graphs.
        precision: the graph's own type, "fp16".
    """
    folder = tables.root / "observed"
    folder.mkdir()
    try:
        bar.stage(f"calibration on {len(cases)} requests")
        vision, decoder = folder / "vision.onnx", folder / "decoder.onnx"
        writer = PortableGraphWriter(vision, precision=precision)
        plan.tower.write_vision(plan.checkpoint, plan.pixel_spec, writer, WeightFormat.FP32)
        observed = ObservedGraphWriter(decoder, precision=precision)
        deepstack = plan.engine().vision.deepstack
        write_portable_decoder(plan.checkpoint, plan.shape, observed, WeightFormat.FP32, deepstack=deepstack)
        observer = _Observer(vision, decoder)
        backend = PortableBackend(tables, observer)
        grounder = Grounder(backend, tables, read_tokenizer(tables))
        for case in cases:
            _run(backend, grounder, case)
        return observer.largest
    finally:
        shutil.rmtree(folder)


def _run(backend: PortableBackend, grounder: Grounder, case: Case) -> None:
    frame = grounder.frame(case.picture)
    request = grounder.token_ids(case.expression, case.task)
    answer = answer_text(case.expression, case.truth, frame.image_wh, grounder.prompt_spec)
    ids = [*request, *grounder.tokenizer.encode(answer, add_special_tokens=False).ids]
    backend.open_session(grounder.engine_frame(frame))
    backend.decode(backend.embedding.rows(ids), [])


class _Observer:
    """A Runner on the CPU that keeps its cache in NumPy arrays and the observed outputs' maxima in `largest`."""

    def __init__(self, vision: Path, decoder: Path) -> None:
        self.facts = RuntimeFacts(f"onnxruntime {ort.__version__}", "cpu", 0)
        self.cache_tokens = 0
        self.largest: dict[str, float] = {}
        self._vision, self._decoder = (_opened(path) for path in (vision, decoder))
        self._outputs = [value.name for value in self._decoder.get_outputs()]
        self._cache = {
            value.name: np.zeros((0, *value.shape[1:]), np.float16 if "16" in value.type else np.float32)
            for value in self._decoder.get_inputs()
            if value.name.startswith("past_")
        }

    def vision(self, inputs: Arrays, outputs: list[str]) -> list[NDArray[np.float32]]:
        known = {value.name for value in self._vision.get_inputs()}
        found: list[NDArray[np.float32]] = self._vision.run(outputs, {k: v for k, v in inputs.items() if k in known})
        return found

    def decode(self, inputs: Arrays) -> NDArray[np.float32]:
        past = {name: cache[: self.cache_tokens] for name, cache in self._cache.items()}
        found: dict[str, Any] = dict(
            zip(self._outputs, self._decoder.run(self._outputs, {**inputs, **past}), strict=True)
        )
        self._cache = {name: found[name.replace("past_", "present_")] for name in past}
        self.cache_tokens += inputs["embeds"].shape[1]
        for output, value in found.items():
            if output.startswith(OBSERVED):
                name = output.removeprefix(OBSERVED)
                self.largest[name] = max(self.largest.get(name, 0.0), float(value))
        hidden: NDArray[np.float32] = found["hidden"]
        return hidden

    def head(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError("no logits are asked for")

    def close(self) -> None:
        """Nothing to free."""


def _opened(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
