"""Bundles for the PyTorch engine: the checkpoint's own files, unchanged, beside both specs, golden replies and the manifest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.checkpoint_contents import require_finite
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.compilers.quantized_checkpoint import COMPANIONS
from build_engine.manifest import BundleWriter
from build_engine.parity import build_gate
from build_engine.request import BuildRequest
from egm_edge.bundle import Bundle
from egm_edge.reporting.progress import ProgressBar

WEIGHTS = "*.safetensors"


def compile_torch(request: BuildRequest) -> Bundle:
    """Build a bundle for the table's torch row; weights are hard links where the file system has them, else copies.

    Raises:
        CheckpointError: the checkpoint does not hold together. BuildError: the engine does not follow it.
    """
    request.require_batch_of_one()
    root = Path(request.checkpoint)
    with Checkpoint(root) as checkpoint, BundleWriter(request.out_dir, force=request.force) as writer:
        plan = CheckpointPlan(checkpoint, request.max_pixels, request.max_new_tokens)
        writer.require_free(1 << 24)
        bar = ProgressBar("build", request.progress_stream, 4)
        bar.stage("checkpoint")
        require_finite(checkpoint)
        for path in sorted({path for pattern in COMPANIONS for path in root.glob(pattern)}):
            shutil.copyfile(path, writer.path(path.name))
        for path in sorted(root.glob(WEIGHTS)):
            writer.link(path, path.name)
        bar.advance(2)
        manifest = plan.manifest(request.target.name, request.precision, {})
        bar.stage("parity")
        candidate = preview(writer, manifest)
        parity = _gate(plan, candidate) if request.gate else build_gate.unverified("the gate was switched off")
        bar.advance(2)
        bar.stage("hashing")
        bundle = writer.commit(**manifest, parity=parity)
        bar.finish()
        return bundle


def _gate(plan: CheckpointPlan, candidate: Bundle) -> dict[str, Any]:
    """Verified on a GPU that is here; else the same code in float32 on the CPU, which says nothing of a GPU's arithmetic."""
    found = build_gate.gate(candidate, plan.checkpoint.directory, plan.checkpoint.parameter_count())
    if found["status"] != "verified":
        return found
    import torch  # a comparison was made, so it is there

    if torch.cuda.is_available():
        return found
    return build_gate.unverified("unverified on target: no GPU was here") | {"engine": found | {"arithmetic": "float32"}}
