"""How large the inputs of the decoder's linear layers get on grounding requests: what FP8 engines take their scales from.

The 16-bit decoder runs on the CPU through ONNX Runtime, unoptimised, so that its weights are widened one layer at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engine.compilers.plan import CheckpointPlan
from build_engine.exporters.graph import WeightFormat
from build_engine.exporters.observed_graph import OBSERVED, ObservedGraphWriter
from build_engine.exporters.portable_decoder import write_portable_decoder
from build_engine.exporters.portable_graph import PortableGraphWriter
from build_engine.modelopt.request_tensors import answer_text
from build_engine.parity.cases import Case
from egm_edge.backends.portable.backend import PortableBackend
from egm_edge.backends.portable.ort_runner import DECODER, VISION, OrtRunner
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
        observer = _Observer(tables, vision, decoder)
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


class _Observer(OrtRunner):
    """Keeps the observed outputs' maxima in `largest`."""

    def __init__(self, tables: Bundle, vision: Path, decoder: Path) -> None:
        super().__init__(tables, graphs={VISION: vision, DECODER: decoder}, optimised=False)
        self.largest: dict[str, float] = {}
        self._observed = [v.name for v in self._sessions[DECODER].get_outputs() if v.name.startswith(OBSERVED)]

    def decode(self, inputs: Arrays) -> NDArray[np.float32]:
        hidden, *found = self._decode(inputs, ["hidden", *self._observed])
        for output, value in zip(self._observed, found, strict=True):
            name = output.removeprefix(OBSERVED)
            self.largest[name] = max(self.largest.get(name, 0.0), float(value))
        return hidden
