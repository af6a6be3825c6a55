"""The numeric check: both exported graphs on the CPU, against what transformers computed for the same requests.

A quantized graph is held against transformers with the saved checkpoint's own numbers, so that a difference is the export's
and not the quantization's; what quantization itself costs is reported beside it. Runs the graphs as exported, with the plugin
operators as ONNX functions.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from safetensors.numpy import load_file

from build_engine.edge_llm.graph_inputs import HostMath
from build_engine.edge_llm.plugin_functions import load_runnable, unpack_fp4_weights
from build_engine.modelopt.numeric_check import relative_error
from build_engine.modelopt.request_tensors import PreparedRequest
from egm_edge.errors import BuildError, message_of

INLINE_BYTES = 4096  # shapes and axes must be in the graph itself for ONNX Runtime's shape inference
# Root-mean-square error over the reference's own spread. FP16 arithmetic against float32 gives 6e-4 on small checkpoints; a
# wrong grid, position, scale or feature gives a tenth and more (tests/build_engine/edge_llm).
BOUND = 2e-2
_ORT_STATE = ort.capi.onnxruntime_pybind11_state
_ORT_ERRORS = (_ORT_STATE.Fail, _ORT_STATE.InvalidGraph, _ORT_STATE.NotImplemented, _ORT_STATE.InvalidArgument)
ROUNDING_SHARE = 1.5  # of what FP16 rounding alone does to the reference, where that is more


@dataclass(frozen=True, slots=True)
class StageDeviation:
    """One stage: root-mean-square error over the reference's own spread, the worst of all requests, and its bound."""

    stage: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


@dataclass(frozen=True, slots=True)
class GraphCheck:
    """What the check found.

    Attributes:
        stages: vision embedding, deep-stack, prefill logits, in the order in which the model computes them.
        top1_agreement: share of positions whose best token is the reference's.
        rounding_error: of the reference's own logits when its layers round to FP16; None where nothing was quantized. The same
            of the other stages is in their bounds, where the vision tower is quantized too.
        quantization_error: of the reference's own logits against the unquantized checkpoint; None where nothing was
            quantized.
        operators: plugin operators that were run as functions.
    """

    stages: tuple[StageDeviation, ...]
    top1_agreement: float
    rounding_error: float | None
    quantization_error: float | None
    requests: int
    operators: tuple[str, ...]

    def require_passed(self) -> None:
        """Raises BuildError naming the first stage that differs."""
        for stage in self.stages:
            if not stage.passed:
                raise BuildError(
                    f"{stage.stage} of the exported graphs within {stage.bound:g} of transformers",
                    f"{stage.error:.3g}",
                    "the export is wrong for this checkpoint: report it, or pass --no-gate to keep the bundle",
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rounded = {row.stage: {"error": round(row.error, 6), "bound": round(row.bound, 6)} for row in self.stages}
        return asdict(self) | {"stages": rounded, "operators": list(self.operators)}


def check_graphs(export_dir: Path, requests: Sequence[PreparedRequest], recorded: Path, host: HostMath) -> GraphCheck:
    """Run both graphs on `requests` and compare with what the worker recorded.

    Args:
        export_dir: holds llm/ and visual/.
        recorded: the worker's safetensors.
    """
    reference = load_file(str(recorded))
    kind = "quantized" if any(name.startswith("quantized.") for name in reference) else "checkpoint"
    operators: list[str] = []
    seen: list[dict[str, NDArray[np.float32]]] = []
    with _opened(export_dir / "visual" / "model.onnx", operators) as visual:
        for request in requests:
            names = [output.name for output in visual.get_outputs()]
            outputs = visual.run(names, host.visual(request))
            seen.append({_visual_stage(name): value.astype(np.float32) for name, value in zip(names, outputs, strict=True)})
    with _opened(export_dir / "llm" / "model.onnx", operators) as llm:
        for request, features in zip(requests, seen, strict=True):
            deepstack = [features[name] for name in sorted(features) if name.startswith("deepstack")]
            features["logits"] = llm.run(["logits"], host.llm(request, features["embeddings"], deepstack))[0]
    errors: dict[str, float] = {}
    agreements, losses = [], []
    floors: dict[str, float] = {}
    for i, features in enumerate(seen):
        for name, found in features.items():
            expected = reference[f"{kind}.{i}.{name}"]
            stage = _stage(name)
            errors[stage] = max(errors.get(stage, 0.0), relative_error(found, expected, name == "logits"))
            if kind == "quantized":
                floor = relative_error(reference[f"rounded.{i}.{name}"], expected, name == "logits")
                floors[stage] = max(floors.get(stage, 0.0), floor)
        logits = reference[f"{kind}.{i}.logits"]
        agreements.append((features["logits"].argmax(-1) == logits.argmax(-1)).mean())
        losses.append(relative_error(logits, reference[f"checkpoint.{i}.logits"], True))
    bounds = {stage: max(BOUND, ROUNDING_SHARE * floor) for stage, floor in floors.items()}
    return GraphCheck(
        stages=tuple(StageDeviation(name, error, bounds.get(name, BOUND)) for name, error in errors.items()),
        top1_agreement=round(float(np.mean(agreements)), 6),
        rounding_error=round(floors["prefill logits"], 6) if kind == "quantized" else None,
        quantization_error=round(max(losses), 6) if kind == "quantized" else None,
        requests=len(requests),
        operators=tuple(operators),
    )


def _visual_stage(output: str) -> str:
    return "embeddings" if output == "output" else output.replace("_features_", "_")


def _stage(name: str) -> str:
    return {"embeddings": "vision embedding", "logits": "prefill logits"}.get(name, "deep-stack")


@contextlib.contextmanager
def _opened(path: Path, operators: list[str]) -> Iterator[ort.InferenceSession]:
    """A session over the graph with its functions. The runnable copy holds no weights: those stay in the export's file."""
    model, names = load_runnable(path)
    operators += [name for name in names if name not in operators]
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and _bytes(tensor) <= INLINE_BYTES:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    unpack_fp4_weights(model, path.parent)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".check-", suffix=".onnx") as runnable:
        runnable.write(model.SerializeToString())
        runnable.flush()
        try:
            yield ort.InferenceSession(runnable.name, options, providers=["CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            hint = "report this with the checkpoint"
            raise BuildError(f"a graph {path} that runs on the CPU", message_of(error), hint) from None


def _bytes(tensor: onnx.TensorProto) -> int:
    stated = {entry.key: entry.value for entry in tensor.external_data}
    return int(stated.get("length", 1 << 62))


