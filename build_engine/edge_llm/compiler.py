"""The Edge-LLM compiler: `egm build` on a host writes everything but the engine; on the device the same command adds it.

Reads top to bottom: memory plan, quantise, export, check both graphs, write the bundle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from build_engine.checkpoint import Checkpoint
from build_engine.checkpoint_facts import require_plain_greedy, stop_ids, weight_licence
from build_engine.edge_llm import device
from build_engine.edge_llm.environment import EdgeLlmEnvironment, run_tool
from build_engine.edge_llm.export import check_interface, export, require_kernels
from build_engine.edge_llm.graph_check import GraphCheck, check_graphs
from build_engine.edge_llm.graph_inputs import HostMath
from build_engine.edge_llm.profile import EngineProfile, fitted_spec
from build_engine.edge_llm.request_tensors import Prepared, calibration_cases, prepare, save_requests
from build_engine.edge_llm.stages import Stages
from build_engine.exporters.text_decoder import DecoderShape
from build_engine.manifest import BundleWriter
from build_engine.memory_plan import MemoryPlan, require_fit
from build_engine.parity.cases import Case, probes, scenes
from build_engine.processor_settings import write_pixel_budget
from build_engine.progress import Progress
from build_engine.request import BuildRequest
from egm_edge.bundle import Bundle, sha256_of
from egm_edge.errors import BuildError
from egm_edge.families import PromptSpec
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.families.prompts import check_prompt_split
from egm_edge.hashing import canonical_hash
from egm_edge.machine import memory_gb
from egm_edge.pixels import PixelSpec

WORKER = Path(__file__).with_name("worker.py")
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "generation_config.json", "vocab.json", "merges.txt",
)  # fmt: skip
FLOAT32_PARAMETERS = 1_500_000_000  # up to here calibration computes in float32; beyond, in bfloat16 to halve its memory
UNITS = {"hash": 2, "quantise": 60, "export": 30, "check graphs": 6, "write": 2}


@dataclass(frozen=True, slots=True)
class Method:
    """A precision in the tools' words: ModelOpt's recipe (None for FP16), the operator that its export must hold, export
    flags, and hf_quant_config.json's name of it."""

    recipe: str | None
    operator: str | None
    algorithm: str | None
    flags: tuple[str, ...] = ()


METHODS = {
    "fp16": Method(None, None, None),
    "int4": Method("int4_awq", "Int4GroupwiseGemmPluginV2", "W4A16_AWQ"),
    "fp8": Method("fp8", "DequantizeLinear", "FP8"),
    "nvfp4": Method("nvfp4", "TRT_FP4DynamicQuantize", "NVFP4"),
}


def compile_edge_llm(request: BuildRequest) -> Bundle:
    """Build a bundle for a device that TensorRT Edge-LLM runs on.

    On the device itself, a bundle that lies at `request.out_dir` and lacks only its engine is finished instead.

    Raises:
        CheckpointError, BuildError: see their messages; nothing new is left at `request.out_dir`.
    """
    if device.awaits_engine(request.out_dir, request.target) and device.is_here():
        return device.finish(request)
    with Checkpoint(request.checkpoint) as checkpoint:
        plan = _Plan(checkpoint, request)
        environment = EdgeLlmEnvironment.find()
        bar = Progress(sum(UNITS.values()), request.progress_stream)
        bar.stage("checkpoint hashes")
        key = plan.key(environment)
        if (present := _present(request.out_dir, key)) is not None:
            bar.finish()
            return present
        bar.advance(UNITS["hash"])
        with BundleWriter(request.out_dir, force=request.force) as writer, Stages.open(key) as stages:
            writer.require_free(plan.disk_bytes())
            source = stages.run("quantised", lambda folder: _quantise(plan, environment, stages, folder, bar))
            bar.stage("export")
            exported = stages.run("exported", lambda folder: _export(plan, environment, stages, source, folder))
            bar.advance(UNITS["export"])
            bar.stage("check graphs")
            checked = _check(plan, source, exported) if request.gate else None
            bar.advance(UNITS["check graphs"])
            bar.stage("hashing")
            _fill(plan, writer, source, exported)
            bundle = writer.commit(**plan.manifest(environment, key, checked))
            stages.remove()
        bar.finish()
        return bundle


class _Plan:
    """What is known before the first tool runs; refuses what cannot work."""

    def __init__(self, checkpoint: Checkpoint, request: BuildRequest) -> None:
        self.checkpoint, self.request = checkpoint, request
        self.method = METHODS[request.precision]
        checkpoint.require_complete_layers()
        require_plain_greedy(checkpoint)
        self.shape = DecoderShape.read(checkpoint)
        require_kernels(self.shape.head_dim, self._vision_head_size())
        self.pixel_spec = fitted_spec(PixelSpec.from_checkpoint(checkpoint.directory), request.max_pixels, request.target)
        self.prompt_spec: PromptSpec = read_prompt_spec(checkpoint.directory)
        self.tokenizer = Tokenizer.from_file(str(checkpoint.directory / "tokenizer.json"))
        check_prompt_split(self.tokenizer, self.prompt_spec)
        self.profile = EngineProfile.of(self.pixel_spec, request.max_new_tokens, request.batch)
        self.memory: MemoryPlan = require_fit(
            checkpoint.config,
            self.pixel_spec,
            request.target,
            request.precision,
            max_new_tokens=request.max_new_tokens,
            batch=request.batch,
        )
        self._require_host_memory()
        if self.profile.max_kv_cache_capacity > self.shape.max_positions:
            raise BuildError(
                f"prompt and reply within the model's {self.shape.max_positions} positions",
                f"{self.profile.max_kv_cache_capacity}",
                "lower --max-pixels or --max-new-tokens",
            )
        self.calibration = calibration_cases(request.calibration) if self.method.recipe else []

    @property
    def deepstack(self) -> int:
        return len(self.checkpoint.vision_config.get("deepstack_visual_indexes", []))

    def prepared(self, cases: list[Case]) -> list[Prepared]:
        return [prepare(case, self.pixel_spec, self.prompt_spec, self.tokenizer) for case in cases]

    def checks(self) -> list[Prepared]:
        """One drawn scene with its answer and a small picture without: two grids, two lengths."""
        return self.prepared([*scenes(1), *probes()[2:3]])

    def key(self, environment: EdgeLlmEnvironment) -> str:
        """Names everything that decides the bundle's content."""
        directory = self.checkpoint.directory
        sources = [p for p in sorted(directory.iterdir()) if p.suffix in (".safetensors", ".json", ".jinja", ".txt")]
        inputs = {
            "checkpoint": {path.name: sha256_of(path) for path in sources},
            "target": self.request.target.name,
            "precision": self.request.precision,
            "pixel_spec": self.pixel_spec.hash,
            "prompt_spec": self.prompt_spec.hash,
            "profile": asdict(self.profile),
            "max_new_tokens": self.request.max_new_tokens,
            "gate": self.request.gate,
            "calibration": self._calibration_digest(),
            "tools": environment.versions,
            "worker": sha256_of(WORKER),
        }
        return canonical_hash(inputs)[:32]

    def disk_bytes(self) -> int:
        """An upper bound of the bundle: checkpoint and graphs, each at most FP16."""
        return 2 * 2 * self.checkpoint.parameter_count() + self.shape.vocab * self.shape.hidden * 4 + (64 << 20)

    def manifest(self, environment: EdgeLlmEnvironment, key: str, checked: GraphCheck | None) -> dict[str, Any]:
        request = self.request
        limits = {"max_new_tokens": request.max_new_tokens, "context_tokens": self.profile.max_kv_cache_capacity}
        parity: dict[str, Any] = {
            "status": "unverified",
            "why": f"unverified on target: not run on {request.target.name}",
            "next": device.next_command(request),
        }
        if checked is not None:
            parity["graphs"] = checked.to_dict()
        data = request.calibration.name if request.calibration else "drawn scenes"
        calibration = {"requests": len(self.calibration), "data": data} if self.calibration else {}
        return {
            "target": request.target.name,
            "precision": request.precision,
            "family": self.checkpoint.family,
            "model": {
                "image_token_id": int(self.checkpoint.config["image_token_id"]),
                "stop_token_ids": list(stop_ids(self.checkpoint)),
                "profile": asdict(self.profile),
                "quantisation": {"method": self.method.recipe, "vision": "fp16"} | calibration,
                "memory_plan_gb": self.memory.to_dict(),
                "support": request.target.support.value,
                "build_key": key,
                "engine": None,
            },
            "limits": limits | {"batch": request.batch},
            "pixel_spec": self.pixel_spec.to_dict(),
            "pixel_spec_hash": self.pixel_spec.hash,
            "prompt_spec": self.prompt_spec.to_dict(),
            "prompt_spec_hash": self.prompt_spec.hash,
            "parity": parity,
            "versions": environment.versions,
            "licences": {
                "code": "Apache-2.0",
                "weights": weight_licence(self.checkpoint),
                "calibration data": "the user's own" if request.calibration else "drawn by egm-edge, Apache-2.0",
            },
        }

    def _vision_head_size(self) -> int:
        vision = self.checkpoint.vision_config
        return int(vision["hidden_size"]) // int(vision.get("num_heads") or vision["num_attention_heads"])

    def _calibration_digest(self) -> list[str]:
        return [canonical_hash({"text": c.expression, "task": c.task.value, "picture": c.picture.hex()}) for c in self.calibration]

    def _require_host_memory(self) -> None:
        available = memory_gb()[1]
        if available and available < self.memory.host_export:
            raise BuildError(
                f"{self.memory.host_export:.1f} GB of memory to export this checkpoint",
                f"{available:.1f} GB available on this host",
                "close other programs, add swap, or build on a larger host",
            )


def _quantise(plan: _Plan, environment: EdgeLlmEnvironment, stages: Stages, folder: Path, bar: Progress) -> None:
    """Record what transformers computes and, below FP16, the quantised checkpoint: `checkpoint/`, `recorded.safetensors`."""
    bar.stage("calibration requests")
    requests = folder / "requests"
    calibration = save_requests(requests, "calibration", plan.prepared(plan.calibration), plan.pixel_spec)
    checks = save_requests(requests, "check", plan.checks(), plan.pixel_spec)
    small = plan.checkpoint.parameter_count() <= FLOAT32_PARAMETERS
    order = {
        "checkpoint": str(plan.checkpoint.directory.resolve()),
        "out": str(folder / "checkpoint"),
        "method": plan.method.recipe,
        "quantise_vision": False,
        "calibration": [str(path) for path in calibration],
        "checks": [str(path) for path in checks],
        "recorded": str(folder / "recorded.safetensors"),
        "dtype": "float32" if small else "bfloat16",
        "device": "auto",
    }
    (folder / "plan.json").write_text(json.dumps(order), encoding="utf-8")
    stage_units = _spread(bar, UNITS["quantise"], len(calibration) + 2 * len(checks))
    run_tool(
        [environment.python, "-P", WORKER, folder / "plan.json"],
        what="quantisation" if plan.method.recipe else "the reference run",
        log=stages.log("quantise"),
        on_line=lambda line: _show(line, bar, stage_units),
    )
    if plan.method.recipe:
        _check_quantised(folder / "checkpoint", plan.method)
    else:
        (folder / "checkpoint").mkdir()
        for path in sorted(plan.checkpoint.directory.glob("*.safetensors*")):
            shutil.copyfile(path, folder / "checkpoint" / path.name)
        shutil.copyfile(plan.checkpoint.directory / "config.json", folder / "checkpoint" / "config.json")
    for name in COMPANIONS:
        if (plan.checkpoint.directory / name).is_file() and not (folder / "checkpoint" / name).is_file():
            shutil.copyfile(plan.checkpoint.directory / name, folder / "checkpoint" / name)
    write_pixel_budget(folder / "checkpoint" / "preprocessor_config.json", plan.pixel_spec)
    shutil.rmtree(requests)


def _check_quantised(folder: Path, method: Method) -> None:
    """ModelOpt's own description must name the method: a recipe that matched no layer still writes a checkpoint."""
    stated = json.loads((folder / "hf_quant_config.json").read_text("utf-8")).get("quantization", {})
    if stated.get("quant_algo") != method.algorithm:
        raise BuildError(
            f"quant_algo {method.algorithm} in hf_quant_config.json", str(stated.get("quant_algo")), "report this"
        )


def _export(plan: _Plan, environment: EdgeLlmEnvironment, stages: Stages, source: Path, folder: Path) -> None:
    export(environment, source / "checkpoint", folder / "onnx", stages.log("export"), lambda line: None, plan.method.flags)
    check_interface(
        folder / "onnx",
        plan.checkpoint.family,
        layers=plan.shape.layers,
        deepstack=plan.deepstack,
        quantised=plan.method.operator,
    )


def _check(plan: _Plan, source: Path, exported: Path) -> GraphCheck:
    host = HostMath.of(plan.checkpoint, plan.pixel_spec, exported / "onnx" / "llm" / "embedding.safetensors")
    found = check_graphs(exported / "onnx", plan.checks(), source / "recorded.safetensors", host)
    found.require_passed()
    return found


def _fill(plan: _Plan, writer: BundleWriter, source: Path, exported: Path) -> None:
    """Copies, so that an interrupted commit leaves the stages whole."""
    for prefix, folder in (("checkpoint", source / "checkpoint"), ("onnx", exported / "onnx")):
        for path in _files(folder):
            shutil.copyfile(path, writer.path(f"{prefix}/{path.relative_to(folder).as_posix()}"))
    shutil.copyfile(plan.checkpoint.directory / "tokenizer.json", writer.path("tokenizer.json"))
    for licence in sorted(plan.checkpoint.directory.glob("LICENSE*")):
        shutil.copyfile(licence, writer.path(f"LICENSES/{licence.name}"))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _present(out_dir: Path, key: str) -> Bundle | None:
    """The bundle at `out_dir` when it was built from the same inputs and is whole."""
    try:
        bundle = Bundle.open(out_dir)
    except Exception:  # nothing there, or not this bundle: BundleWriter decides what may be replaced
        return None
    return bundle if bundle.manifest.model.get("build_key") == key else None


def _spread(bar: Progress, units: int, steps: int) -> Callable[[], None]:
    """Advances the bar by `units` over `steps` calls, whole units only; further calls change nothing."""
    shares = iter(np.diff(np.linspace(0, units, max(steps, 1) + 1).astype(int)).tolist())

    def step() -> None:
        bar.advance(int(next(shares, 0)))

    return step


def _show(line: str, bar: Progress, step: Callable[[], None]) -> None:
    if line.startswith("egm-progress "):
        *words, done, total = line.removeprefix("egm-progress ").split()
        bar.stage(f"{' '.join(words)} {done}/{total}" if int(total) > 1 else " ".join(words))
        step()
