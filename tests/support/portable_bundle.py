"""A bundle that keeps its portable graphs, for whatever runs them on a CPU: `--target rtx` turns them into engines."""

from __future__ import annotations

from importlib.metadata import version

from build_engine.checkpoint import Checkpoint
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.compilers.portable import graph_check, limit_context, write_graphs
from build_engine.manifest import BundleWriter
from build_engine.parity import build_gate
from build_engine.request import BuildRequest
from egm_edge.bundle import Bundle
from egm_edge.reporting.progress import ProgressBar


def write_portable_bundle(request: BuildRequest) -> Bundle:
    """The host half of a build for TensorRT for RTX, which needs no TensorRT: graphs, their check, no engines."""
    with Checkpoint(request.checkpoint) as checkpoint, BundleWriter(request.out_dir, force=request.force) as writer:
        plan = CheckpointPlan(checkpoint, request.max_pixels, request.max_new_tokens)
        limit_context(plan)
        write_graphs(plan, writer.root, request.precision, ProgressBar("build", None, checkpoint.parameter_count()))
        plan.write_tables(writer)
        manifest = plan.manifest(request.target.name, request.precision, {"onnxruntime": version("onnxruntime")})
        parity = build_gate.unverified("the gate was switched off")
        if request.gate:
            parity = graph_check(plan, preview(writer, manifest), "there are no engines")
        return writer.commit(**manifest, parity=parity)
