"""The Edge-LLM compiler: `egm build` on a host writes everything but the engine; on the device the same command adds it.

Reads top to bottom: memory plan, quantize, export, check both graphs, write the bundle.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.edge_llm import device
from build_engine.edge_llm.environment import EdgeLlmEnvironment
from build_engine.edge_llm.export import check_interface, export, require_kernels
from build_engine.edge_llm.graph_check import GraphCheck, check_graphs
from build_engine.edge_llm.graph_inputs import HostMath
from build_engine.edge_llm.profile import EngineProfile, fitted_spec
from build_engine.manifest import BundleWriter
from build_engine.memory_plan import MemoryPlan, require_fit
from build_engine.modelopt.numeric_check import QuantizationCheck
from build_engine.modelopt.quantize import COMPANIONS, RECORDED, SAVED, Quantization, require_host_memory
from build_engine.modelopt.recipe import EDGE_LLM_NUMBERS
from build_engine.parity import build_gate
from build_engine.precisions import PRECISIONS
from build_engine.request import BuildRequest
from build_engine.stages import Stages, present_bundle
from build_engine.upstream_faults import FAULTS
from egm_edge.backends.text_runtime import EDGE_LLM
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.hashing import canonical_hash
from egm_edge.pixels import PixelSpec
from egm_edge.reporting.progress import ProgressBar

_log = logging.getLogger(__name__)
UNITS = {"hash": 2, "quantize": 60, "export": 30, "check graphs": 6, "write": 2}


def compile_edge_llm(request: BuildRequest) -> Bundle:
    """Build a bundle for a device that TensorRT Edge-LLM runs on.

    On the device itself, a bundle that lies at `request.out_dir` and lacks only its engine is finished instead.

    Raises:
        CheckpointError, BuildError: see their messages; nothing new is left at `request.out_dir`.
    """
    if device.is_asked_for(request.checkpoint, request.out_dir, request.target):
        return device.finish(request)
    with Checkpoint(request.checkpoint) as checkpoint:
        plan = _Plan(checkpoint, request)
        for fault in FAULTS:
            if fault.concerns(request.target.name, request.precision, checkpoint.family):
                _log.warning("known upstream: %s", fault.line())
        environment = EdgeLlmEnvironment.find()
        bar = ProgressBar("build", request.progress_stream, sum(UNITS.values()))
        bar.stage("checkpoint hashes")
        key = plan.key(environment)
        if (present := present_bundle(request.out_dir, key)) is not None:
            bar.finish()
            return present
        bar.advance(UNITS["hash"])
        with BundleWriter(request.out_dir, force=request.force) as writer, Stages.open(key) as stages:
            writer.require_free(plan.disk_bytes())
            source = stages.run("quantized", lambda folder: _quantize(plan, environment, stages, folder, bar))
            bar.stage("export")
            exported = stages.run("exported", lambda folder: _export(plan, environment, stages, source, folder))
            bar.advance(UNITS["export"])
            bar.stage("check graphs")
            cost = plan.quantization.checked(source, request.precision, environment.versions) if plan.quantization.recipe else None
            if cost and request.gate:
                cost.require_passed()
            checked = _check(plan, source, exported) if request.gate else None
            bar.advance(UNITS["check graphs"])
            bar.stage("hashing")
            _fill(plan, writer, source, exported)
            manifest = plan.sections(environment, key, checked, cost)
            manifest["parity"] |= _golden(plan, writer, manifest) if request.gate else {}
            bundle = writer.commit(**manifest)
            stages.remove()
        bar.finish()
        return bundle


class _Plan(CheckpointPlan):
    """What is known before the first tool runs; refuses what cannot work."""

    def __init__(self, checkpoint: Checkpoint, request: BuildRequest) -> None:
        super().__init__(checkpoint, request.max_pixels, request.max_new_tokens)
        self.request = request
        require_kernels(self.shape.head_dim, self._vision_head_size())
        self.pixel_spec = fitted_spec(PixelSpec.from_checkpoint(checkpoint.directory), request.max_pixels, request.target)
        self.profile = EngineProfile.of(self.pixel_spec, request.max_new_tokens, request.batch)
        self.memory: MemoryPlan = require_fit(
            checkpoint.config,
            self.pixel_spec,
            request.target,
            request.precision,
            max_new_tokens=request.max_new_tokens,
            batch=request.batch,
            vision_precision="fp8" if request.quantize_vision else None,
        )
        require_host_memory(self.memory)
        if self.profile.max_kv_cache_capacity > self.shape.max_positions:
            raise BuildError(
                f"prompt and reply within the model's {self.shape.max_positions} positions",
                f"{self.profile.max_kv_cache_capacity}",
                "lower --max-pixels or --max-new-tokens",
            )
        self.quantization = Quantization(
            checkpoint=checkpoint,
            pixel_spec=self.pixel_spec,
            prompt_spec=self.prompt_spec,
            recipe=PRECISIONS[request.precision].recipe,
            numbers=EDGE_LLM_NUMBERS,
            rows=request.calibration,
            vision=request.quantize_vision,
        )

    def key(self, environment: EdgeLlmEnvironment) -> str:
        """Names everything that decides the bundle's content."""
        inputs = self.quantization.key_inputs() | {
            "target": self.request.target.name,
            "profile": asdict(self.profile),
            "max_new_tokens": self.request.max_new_tokens,
            "gate": self.request.gate,
            "tools": environment.versions,
        }
        return canonical_hash(inputs)[:32]

    def disk_bytes(self) -> int:
        """An upper bound of the bundle: checkpoint and graphs, each at most FP16."""
        return 2 * 2 * self.checkpoint.parameter_count() + self.shape.vocab * self.shape.hidden * 4 + (64 << 20)

    def sections(
        self, environment: EdgeLlmEnvironment, key: str, checked: GraphCheck | None, cost: QuantizationCheck | None
    ) -> dict[str, Any]:
        """Every field of the manifest."""
        request = self.request
        common = self.manifest(request.target.name, request.precision, environment.versions)
        parity: dict[str, Any] = {
            "status": "unverified",
            "why": f"unverified on target: not run on {request.target.name}",
            "next": device.next_command(request),
        }
        if checked is not None:
            parity["graphs"] = checked.to_dict()
        if cost is not None:
            parity["quantization"] = cost.to_dict()
        model = {
            "image_token_id": common["model"]["image_token_id"],
            "stop_token_ids": common["model"]["stop_token_ids"],
            "profile": asdict(self.profile),
            "quantization": self.quantization.manifest_section(),
            "memory_plan_gb": self.memory.to_dict(),
            "support": request.target.support.value,
            "build_key": key,
            "engine": None,
        }
        limits = {"max_new_tokens": request.max_new_tokens, "context_tokens": self.profile.max_kv_cache_capacity}
        return common | {
            "text_runtime": EDGE_LLM,
            "model": model,
            "limits": limits | {"batch": request.batch},
            "calibration": None,
            "parity": parity,
            "versions": environment.versions,
            "licences": common["licences"] | {"calibration data": self.quantization.calibration_licence()},
        }

    def _vision_head_size(self) -> int:
        vision = self.checkpoint.vision_config
        return int(vision["hidden_size"]) // int(vision.get("num_heads") or vision["num_attention_heads"])


def _quantize(plan: _Plan, environment: EdgeLlmEnvironment, stages: Stages, folder: Path, bar: ProgressBar) -> None:
    plan.quantization.run(environment, folder, stages.log("quantize"), bar, UNITS["quantize"], COMPANIONS)


def _export(plan: _Plan, environment: EdgeLlmEnvironment, stages: Stages, source: Path, folder: Path) -> None:
    export(environment, source / SAVED, folder / "onnx", stages.log("export"), lambda line: None)
    check_interface(
        folder / "onnx",
        plan.checkpoint.family,
        layers=plan.shape.layers,
        deepstack=plan.engine().vision.deepstack,
        quantized=PRECISIONS[plan.request.precision].edge_llm_operator,
        vision=plan.request.quantize_vision,
    )


def _check(plan: _Plan, source: Path, exported: Path) -> GraphCheck:
    host = HostMath.of(plan, exported / "onnx" / "llm" / "embedding.safetensors")
    found = check_graphs(exported / "onnx", plan.quantization.checks(), source / RECORDED, host)
    found.require_passed()
    return found


def _golden(plan: _Plan, writer: BundleWriter, manifest: dict[str, Any]) -> dict[str, Any]:
    """Golden replies for the device half to ask; what is lacking for them, where that is so."""
    candidate = preview(writer, {name: value for name, value in manifest.items() if name != "parity"})
    lacking = build_gate.store_golden(candidate, plan.checkpoint.directory, plan.checkpoint.parameter_count())
    return {"golden": f"none: {lacking}"} if lacking else {}


def _fill(plan: _Plan, writer: BundleWriter, source: Path, exported: Path) -> None:
    """Copies, so that an interrupted commit leaves the stages whole."""
    for prefix, folder in (("checkpoint", source / SAVED), ("onnx", exported / "onnx")):
        for path in _files(folder):
            shutil.copyfile(path, writer.path(f"{prefix}/{path.relative_to(folder).as_posix()}"))
    shutil.copyfile(plan.checkpoint.directory / "tokenizer.json", writer.path("tokenizer.json"))
    for licence in sorted(plan.checkpoint.directory.glob("LICENSE*")):
        shutil.copyfile(licence, writer.path(f"LICENSES/{licence.name}"))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
