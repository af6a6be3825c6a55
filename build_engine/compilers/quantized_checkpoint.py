"""A server's quantized checkpoint: memory plan, ModelOpt, the numeric check, the bundle round it.

What ModelOpt saves are the weights and how to read them. Everything else that a server reads is the checkpoint's own, its
config.json included: ModelOpt's is written by another transformers, in whose words an older server does not find the rotary
settings. Not run on hardware: no server has loaded one of these checkpoints here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from build_engine.checkpoint import Checkpoint
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.edge_llm.environment import EdgeLlmEnvironment
from build_engine.manifest import BundleWriter
from build_engine.memory_plan import MemoryPlan, require_fit
from build_engine.modelopt.quantize import SAVED, Quantization, require_host_memory
from build_engine.modelopt.recipe import SERVER_NUMBERS
from build_engine.precisions import PRECISIONS
from build_engine.request import BuildRequest
from build_engine.served_settings import with_rotary_of_4
from build_engine.stages import Stages, present_bundle
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError, CheckpointError
from egm_edge.families.weight_names import canonical_name
from egm_edge.files import write_json
from egm_edge.hashing import canonical_hash
from egm_edge.reporting.progress import ProgressBar

MODEL = "checkpoint"
COMPANIONS = ("*.json", "*.jinja", "*.txt", "LICENSE*", "README.md")
INDEX = "model.safetensors.index.json"
UNITS = {"hash": 2, "quantize": 90, "write": 8}


class QuantizedCheckpoint:
    """One quantized checkpoint for a server; refuses what cannot work before any work is done.

    Raises:
        BuildError: no tools, or too little memory. CheckpointError: widths that the precision cannot group.
    """

    def __init__(self, plan: CheckpointPlan, request: BuildRequest) -> None:
        self.plan, self.request = plan, request
        recipe = PRECISIONS[request.precision].recipe
        assert recipe is not None  # the target's row names no other
        _require_groups(plan, request, recipe.multiple)
        self.memory: MemoryPlan = require_fit(
            plan.checkpoint.config, plan.pixel_spec, request.target, request.precision,
            max_new_tokens=request.max_new_tokens, batch=request.batch,
        )  # fmt: skip
        require_host_memory(self.memory)
        self.environment = EdgeLlmEnvironment.find()
        self.quantization = Quantization(
            checkpoint=plan.checkpoint,
            pixel_spec=plan.pixel_spec,
            prompt_spec=plan.prompt_spec,
            recipe=recipe,
            numbers=SERVER_NUMBERS,
            rows=request.calibration,
        )

    def build(
        self,
        manifest: dict[str, Any],
        write_settings: Callable[[BundleWriter], None],
        parity_of: Callable[[CheckpointPlan, Bundle, bool], dict[str, Any]],
    ) -> Bundle:
        """Quantize, check, and write the bundle; stages that are there are taken up.

        Args:
            manifest: every field but the parity report. parity_of: the report of a plan's bundle as written so far.
            write_settings: writes what the server needs beside the checkpoint.

        Raises:
            BuildError: the tool failed, or the quantized checkpoint strays too far from the original.
        """
        request = self.request
        bar = ProgressBar("build", request.progress_stream, sum(UNITS.values()))
        bar.stage("checkpoint hashes")
        key = self._key(manifest)
        present = present_bundle(request.out_dir, key)
        if present is not None and (not request.gate or present.manifest.parity["quantization"]["passed"]):
            bar.finish()
            return present
        bar.advance(UNITS["hash"])
        with BundleWriter(request.out_dir, force=request.force) as writer, Stages.open(key) as stages:
            writer.require_free(2 * self.plan.checkpoint.parameter_count() + (64 << 20))
            source = stages.run("quantized", lambda folder: self._quantize(folder, stages, bar))
            checked = self.quantization.checked(source, request.precision, self.environment.versions)
            if request.gate:
                checked.require_passed()
            bar.stage("hashing")
            for path in sorted((source / SAVED).iterdir()):
                shutil.copyfile(path, writer.path(f"{MODEL}/{path.name}"))
            write_settings(writer)
            whole = self._manifest(manifest, key)
            parity = parity_of(self.plan, preview(writer, whole), request.gate)
            bundle = writer.commit(**whole, parity=parity | {"quantization": checked.to_dict()})
            stages.remove()
        bar.finish()
        return bundle

    def _key(self, manifest: dict[str, Any]) -> str:
        inputs = self.quantization.key_inputs() | {
            "manifest": manifest,
            "batch": self.request.batch,
            "tools": self.environment.versions,
        }
        return canonical_hash(inputs)[:32]

    def _quantize(self, folder: Path, stages: Stages, bar: ProgressBar) -> None:
        log = stages.log("quantize")
        self.quantization.run(self.environment, folder, log, bar, UNITS["quantize"], COMPANIONS)
        take_original_settings(self.plan.checkpoint, folder / SAVED)

    def _manifest(self, manifest: dict[str, Any], key: str) -> dict[str, Any]:
        quantized = {"quantization": self.quantization.manifest_section(), "memory_plan_gb": self.memory.to_dict()}
        licences = manifest["licences"] | {"calibration data": self.quantization.calibration_licence()}
        return manifest | {
            "model": manifest["model"] | quantized | {"build_key": key},
            "versions": self.environment.versions | manifest["versions"],
            "licences": licences,
        }


def take_original_settings(checkpoint: Checkpoint, out: Path) -> None:
    """The checkpoint's own config.json and generation settings, with ModelOpt's `quantization_config` and the type in which
    the rest is stored. An index of the original's shards is left out where ModelOpt wrote other files.

    Raises:
        BuildError: ModelOpt left a tensor out.
    """
    quantized = json.loads((out / "config.json").read_text("utf-8"))["quantization_config"]
    config = _with_dtype(dict(checkpoint.config), SERVER_NUMBERS.weights)
    config = {"dtype": SERVER_NUMBERS.weights} | config | {"quantization_config": quantized}
    write_json(out / "config.json", with_rotary_of_4(config))
    if (checkpoint.directory / "generation_config.json").is_file():
        shutil.copyfile(checkpoint.directory / "generation_config.json", out / "generation_config.json")
    names = {key for path in sorted(out.glob("*.safetensors")) for key in _keys(path)}
    if (out / INDEX).is_file() and set(json.loads((out / INDEX).read_text("utf-8"))["weight_map"]) != names:
        (out / INDEX).unlink()
    missing = sorted(set(checkpoint.names()) - {canonical_name(name) for name in names} - {"head.weight"})
    if missing:
        raise BuildError(f"every tensor of the original in {out}", f"no {missing[0]} (of {len(missing)})", "report this")


def _with_dtype(values: Any, dtype: str) -> Any:
    """Every stated storage type, in the section that states it."""
    if not isinstance(values, dict):
        return values
    return {k: dtype if k in ("dtype", "torch_dtype") and v else _with_dtype(v, dtype) for k, v in values.items()}


def _shares_no_scale(precision: str) -> bool:
    recipe = PRECISIONS[precision].recipe
    return recipe is None or recipe.multiple == 1


def _keys(path: Path) -> set[str]:
    with safe_open(str(path), "np") as file:
        return set(file.keys())


def _require_groups(plan: CheckpointPlan, request: BuildRequest, multiple: int) -> None:
    shape = plan.shape
    widths = {
        "hidden_size": shape.hidden,
        "intermediate_size": int(plan.checkpoint.text_config["intermediate_size"]),
        "num_attention_heads x head_dim": shape.heads * shape.head_dim,
    }
    odd = [f"{name} {width}" for name, width in widths.items() if width % multiple]
    if odd:
        raise CheckpointError(
            f"decoder widths in multiples of {multiple}, the values that share a scale in {request.precision}",
            ", ".join(odd),
            f"pass --precision {' or '.join(p for p in request.target.precisions if _shares_no_scale(p))}",
        )
