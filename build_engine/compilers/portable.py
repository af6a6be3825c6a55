"""What the GPU compilers share: write the portable graphs of a checkpoint, and check them on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine import memory_plan
from build_engine.compilers.plan import CheckpointPlan
from build_engine.exporters.graph import WeightFormat
from build_engine.exporters.portable_decoder import write_portable_decoder
from build_engine.exporters.portable_graph import INT4_BLOCKS, PortableGraphWriter
from build_engine.exporters.text_decoder import write_head
from build_engine.parity import build_gate
from build_engine.parity.stand_in import open_graphs
from egm_edge.backends.portable.ort_runner import DECODER, HEAD, VISION
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, BuildError
from egm_edge.pixels import TILES
from egm_edge.reporting.progress import ProgressBar

MAX_EXPRESSION_TOKENS = 1024  # a request's own words and the chat template
MAX_PATCHES = 16384


@dataclass(frozen=True, slots=True)
class PortableFormats:
    """What a precision means for the portable graphs.

    Attributes:
        native: type of activations, of the KV cache and of weights that are not quantized.
        decoder: its linear layers.
    """

    native: str
    decoder: WeightFormat = WeightFormat.FP32


FORMATS = {
    "fp32": PortableFormats("fp32"),
    "fp16": PortableFormats("fp16"),
    "bf16": PortableFormats("bf16"),
    "int4": PortableFormats("fp16", WeightFormat.INT4),
    "fp8": PortableFormats("fp16", WeightFormat.FP8),
}


def max_image_tokens(plan: CheckpointPlan) -> int:
    """Image tokens of the largest picture that the pixel spec lets through.

    Raises:
        BuildError: too many for a GPU engine's profile.
    """
    spec = plan.pixel_spec
    if spec.rule != TILES and spec.max_pixels // spec.patch_size**2 > MAX_PATCHES:
        most = MAX_PATCHES * spec.patch_size**2
        raise BuildError(
            f"pictures of at most {most:,} pixels after resizing",
            f"{spec.max_pixels:,}",
            f"pass --max-pixels {most} or less",
        )
    return memory_plan.max_image_tokens(spec)


def limit_context(plan: CheckpointPlan) -> None:
    """Size the context for the largest picture, a long request and the token limit, within the checkpoint's own."""
    needed = max_image_tokens(plan) + MAX_EXPRESSION_TOKENS + plan.max_new_tokens
    plan.context_tokens = min(plan.context_tokens, needed)


def write_graphs(
    plan: CheckpointPlan, root: Path, precision: str, bar: ProgressBar, *, ranges: Mapping[str, float] | None = None
) -> None:
    """Write portable/vision.onnx, decoder.onnx and head.onnx under `root`, vision tower and head never quantized.

    Args:
        ranges: of decoder layers' inputs, for FP8.

    Raises:
        BuildError: no layer can be written in the precision asked for.
    """
    checkpoint, formats = plan.checkpoint, FORMATS[precision]
    checkpoint.on_read = bar.advance
    for name in (VISION, DECODER, HEAD):
        (root / name).parent.mkdir(parents=True, exist_ok=True)

    def graph(name: str) -> PortableGraphWriter:
        return PortableGraphWriter(root / name, precision=formats.native, ranges=ranges)

    bar.stage(f"vision ({formats.native})")
    plan.tower.write_vision(checkpoint, plan.pixel_spec, graph(VISION), WeightFormat.FP32)
    bar.stage(f"decoder ({precision})")
    deepstack = plan.engine().vision.deepstack
    decoder = graph(DECODER)
    write_portable_decoder(checkpoint, plan.shape, decoder, formats.decoder, deepstack=deepstack)
    if formats.decoder is WeightFormat.INT4 and not decoder.int4_layers:
        raise BuildError(
            f"a decoder layer whose inputs are a multiple of {min(INT4_BLOCKS)}",
            f"none in one {plan.shape.hidden} wide",
            f"pass --precision {formats.native}",
        )
    if decoder.plain_layers:
        bar.stage(f"{len(decoder.plain_layers)} layers that INT4 blocks do not divide stay in {formats.native}")
    bar.stage(f"head ({formats.native})")
    write_head(checkpoint, plan.shape, graph(HEAD), WeightFormat.FP32)


def graph_check(plan: CheckpointPlan, candidate: Bundle, why_not_here: str) -> dict[str, Any]:
    """The parity section of a bundle whose device is not here: its graphs, run on the CPU, against the checkpoint.

    Args:
        candidate: a bundle with the portable graphs in it.
        why_not_here: what is missing for the real comparison.

    Raises:
        BuildError: the graphs differ from the checkpoint.
    """
    section = build_gate.unverified(f"unverified on target: {why_not_here}")
    parameters = plan.checkpoint.parameter_count()
    wide = FORMATS[candidate.manifest.precision].native == "bf16"
    try:
        found = build_gate.gate(candidate, plan.checkpoint.directory, parameters, open_engine=open_graphs)
    except BackendError as error:
        raise BuildError("graphs that ONNX Runtime runs on the CPU", str(error), "report this checkpoint") from None
    return section | {"graphs": found | ({"arithmetic": "float32 over bfloat16 weights"} if wide else {})}

