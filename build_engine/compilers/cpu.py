"""The CPU compiler: checkpoint to ONNX Runtime bundle, weights streamed, nothing of torch.

Reads top to bottom: read the specs, check the disk, write the graphs, write the tables, compare with the checkpoint, commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.compilers.plan import EMBEDDING_WEIGHT, CheckpointPlan, preview
from build_engine.exporters import text_decoder
from build_engine.exporters.graph import GraphWriter, WeightFormat
from build_engine.manifest import BundleWriter
from build_engine.parity import build_gate
from build_engine.request import BuildRequest
from build_engine.targets import TARGETS
from egm_edge.backends.onnx_runtime.sessions import DECODER, HEAD, PREFILL, VISION
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.reporting.progress import ProgressBar

RESCORED_LOGITS = 64
WIDE_HIDDEN = 1024  # from here on blocks of 128 are the fastest kernels; narrow models keep finer scales


@dataclass(frozen=True, slots=True)
class Formats:
    """Weight formats of the four graphs; `prefill` None when the decoder graph serves both."""

    vision: WeightFormat
    decoder: WeightFormat
    prefill: WeightFormat | None
    head: WeightFormat


PRECISIONS = {
    "fp32": Formats(WeightFormat.FP32, WeightFormat.FP32, None, WeightFormat.FP32),
    "int8": Formats(WeightFormat.W8A8, WeightFormat.INT8, WeightFormat.W8A8, WeightFormat.INT8),
    "int4": Formats(WeightFormat.W8A8, WeightFormat.INT4, WeightFormat.W8A8, WeightFormat.INT4),
}


def build_cpu(checkpoint_dir: str | Path, out_dir: str | Path, *, precision: str = "int8", **options: Any) -> Bundle:
    """`compile_cpu` for a caller with paths; `options` are those of `BuildRequest`."""
    checkpoint, out = Path(checkpoint_dir), Path(out_dir)
    request = BuildRequest(checkpoint=checkpoint, out_dir=out, target=TARGETS["cpu"], precision=precision, **options)
    return compile_cpu(request)


def compile_cpu(request: BuildRequest) -> Bundle:
    """Build the CPU bundle of a checkpoint: an EGM, Qwen3-VL or InternVL3 (-hf) model, in "fp32", "int8" or "int4".

    With the gate the bundle is compared with its checkpoint, run by transformers, on probe pictures, and refused when they
    differ; checkpoints too large for that beside the build are recorded as unverified instead.

    Raises:
        CheckpointError, BuildError: see their messages; nothing is left at `out_dir`.
    """
    request.require_batch_of_one()
    precision = request.precision
    if precision not in PRECISIONS:
        raise BuildError(
            f"precision {', '.join(PRECISIONS)} for target cpu", repr(precision), "pass one of them with --precision"
        )
    formats = PRECISIONS[precision]
    with Checkpoint(request.checkpoint) as checkpoint, BundleWriter(request.out_dir, force=request.force) as writer:
        plan = CpuPlan(checkpoint, formats, request.max_pixels, request.max_new_tokens)
        writer.require_free(plan.disk_bytes())
        bar = ProgressBar("build", request.progress_stream, plan.work_units())
        _write_graphs(plan, writer, bar)
        plan.write_tables(writer)
        manifest = plan.manifest("cpu", precision, {"onnxruntime": version("onnxruntime")})
        bar.stage("parity gate")
        parity = _gate(plan, writer, manifest) if request.gate else build_gate.unverified("the gate was switched off")
        bar.stage("hashing")
        bundle = writer.commit(**manifest, parity=parity)
        bar.finish()
        return bundle


def _gate(plan: CpuPlan, writer: BundleWriter, manifest: dict[str, Any]) -> dict[str, Any]:
    """Compare what was just written with its checkpoint."""
    return build_gate.gate(preview(writer, manifest), plan.checkpoint.directory, plan.checkpoint.parameter_count())


class CpuPlan(CheckpointPlan):
    """A checkpoint's plan with the weight formats of its graphs."""

    def __init__(self, checkpoint: Checkpoint, formats: Formats, max_pixels: int | None, max_new_tokens: int) -> None:
        super().__init__(checkpoint, max_pixels, max_new_tokens)
        self.formats = formats
        self.block_size = 128 if self.shape.hidden >= WIDE_HIDDEN else 32
        self.head_format = formats.head
        if self.head_format is WeightFormat.INT4 and not self.shape.tied_head:
            self.head_format = WeightFormat.INT8  # the table cannot rescore a head that is not its own

    @property
    def embedding_dtype(self) -> str:
        stored = self.checkpoint.dtype(EMBEDDING_WEIGHT)
        exact = stored == "F32" and self.formats.head is WeightFormat.FP32
        return "float32" if exact else super().embedding_dtype

    @property
    def rescored_logits(self) -> int:
        return RESCORED_LOGITS if self.head_format is WeightFormat.INT4 else 0

    def work_units(self) -> int:
        """Parameters to convert, the decoder's once more for a second copy."""
        text = sum(self.count(name) for name in self.checkpoint.names() if name.startswith("text.layers."))
        return self.checkpoint.parameter_count() + (text if self.formats.prefill else 0)

    def disk_bytes(self) -> int:
        """An upper bound of the bundle's size."""
        bytes_each = {WeightFormat.FP32: 4.0, WeightFormat.INT8: 1.2, WeightFormat.W8A8: 1.1, WeightFormat.INT4: 0.7}
        per_parameter = bytes_each[self.formats.decoder] + (
            bytes_each[self.formats.prefill] if self.formats.prefill else 0.0
        )
        table = self.count(EMBEDDING_WEIGHT) * (4 if self.formats.head is WeightFormat.FP32 else 2)
        return int(self.checkpoint.parameter_count() * per_parameter) + table + (16 << 20)


def _write_graphs(plan: CpuPlan, writer: BundleWriter, bar: ProgressBar) -> None:
    checkpoint, shape, formats, block = plan.checkpoint, plan.shape, plan.formats, plan.block_size
    checkpoint.on_read = bar.advance
    bar.stage(f"vision ({formats.vision.value})")
    vision = GraphWriter(writer.path(VISION), block_size=block)
    plan.tower.write_vision(checkpoint, plan.pixel_spec, vision, formats.vision)
    deepstack = plan.engine().vision.deepstack
    for name, fmt in ((DECODER, formats.decoder), (PREFILL, formats.prefill)):
        if fmt is not None:
            bar.stage(f"{Path(name).stem} ({fmt.value})")
            text_decoder.write_decoder(checkpoint, shape, writer.path(name), fmt, block_size=block, deepstack=deepstack)
    bar.stage(f"head ({plan.head_format.value})")
    text_decoder.write_head(checkpoint, shape, GraphWriter(writer.path(HEAD), block_size=block), plan.head_format)
