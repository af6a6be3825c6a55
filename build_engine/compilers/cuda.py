"""The CUDA compiler: portable graphs for ONNX Runtime's CUDA provider, 16-bit floats with INT4 weights on request, checked on this
machine's CPU."""

from __future__ import annotations

from importlib.metadata import version

from build_engine.checkpoint import Checkpoint
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.compilers.portable import graph_check, limit_context, write_graphs
from build_engine.exporters.portable_graph import BlockProduct
from build_engine.manifest import BundleWriter
from build_engine.parity import build_gate
from build_engine.request import BuildRequest
from egm_edge.bundle import Bundle
from egm_edge.reporting.progress import ProgressBar

BYTES_PER_PARAMETER = 2
INT4_PRODUCT = BlockProduct.ONNX_RUNTIME


def compile_cuda(request: BuildRequest) -> Bundle:
    """Build a bundle for the table's CUDA rows."""
    request.require_batch_of_one()
    with (
        Checkpoint(request.checkpoint) as checkpoint,
        BundleWriter(request.out_dir, force=request.force) as writer,
    ):
        plan = CheckpointPlan(checkpoint, request.max_pixels, request.max_new_tokens)
        limit_context(plan)
        writer.require_free(checkpoint.parameter_count() * BYTES_PER_PARAMETER * 2 + (16 << 20))
        bar = ProgressBar("build", request.progress_stream, checkpoint.parameter_count())
        write_graphs(plan, writer.root, request.precision, bar, product=INT4_PRODUCT)
        plan.write_tables(writer)
        manifest = plan.manifest(request.target.name, request.precision, {"onnxruntime": version("onnxruntime")})
        bar.stage("graph check on the CPU")
        why = "no CUDA GPU was asked"
        if request.gate:
            parity = graph_check(plan, preview(writer, manifest), why)
        else:
            parity = build_gate.unverified(f"unverified on target: {why}; the gate was switched off")
        bar.stage("hashing")
        bundle = writer.commit(**manifest, parity=parity)
        bar.finish()
        return bundle
