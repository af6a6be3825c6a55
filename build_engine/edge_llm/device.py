"""The device half: a bundle that lacks only its engine gets it, from NVIDIA's builder, on the machine that will run it.

Written against the documented command line of tensorrt-edgellm 0.11.0 and covered by a contract test with a stand-in for the
builder. Not run on hardware.
"""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from build_engine.compilers.plan import preview
from build_engine.edge_llm.environment import EdgeLlmEnvironment, run_tool
from build_engine.edge_llm.profile import EngineProfile
from build_engine.manifest import BundleWriter
from build_engine.request import BuildRequest
from build_engine.stages import Stages
from build_engine.targets import Target
from egm_edge.backends.text_runtime.edge_llm import EdgeLlmGrounder
from egm_edge.bundle import MANIFEST_NAME, Bundle
from egm_edge.errors import BackendError, BuildError, EgmError
from egm_edge.golden.attestation import Machine
from egm_edge.golden.check import check_golden
from egm_edge.golden.replies import has_golden, read_golden
from egm_edge.machine import has_nvidia_gpu, nvidia_gpus
from egm_edge.releases import EDGE_LLM
from egm_edge.reporting.progress import ProgressBar

ENGINE_FILES = ("llm.engine", "config.json", "visual/visual.engine", "visual/config.json")
BUILDER = "tensorrt-edgellm-build"
# Detection is lazy; load() is the check of operating system, CUDA, TensorRT and GPU that NVIDIA's own server does.
_PREFLIGHT = "from tensorrt_edgellm import runtime; runtime.load(); print('egm-runtime ready')"
_PREFLIGHT_TIMEOUT_S = 120


def awaits_engine(path: Path, target: Target) -> bool:
    """Whether a bundle for `target` without its engine lies at `path`."""
    if not (path / MANIFEST_NAME).is_file():
        return False
    try:
        manifest = Bundle.open(path, verify="sizes").manifest
    except EgmError:
        return False
    return manifest.target == target.name and "engine" in manifest.model and manifest.model["engine"] is None


def is_asked_for(given: Path, out_dir: Path, target: Target) -> bool:
    """Whether a build is to add the engine to the bundle at `out_dir`: a bundle was named where a checkpoint stands otherwise, or
    this machine can build the engine."""
    return awaits_engine(out_dir, target) and ((given / MANIFEST_NAME).is_file() or is_here())


def is_here() -> bool:
    """Whether this machine can build the engine: an NVIDIA GPU, and Edge-LLM in the environment."""
    try:
        return has_nvidia_gpu() and bool(EdgeLlmEnvironment.find())
    except BuildError:
        return False


def next_command(request: BuildRequest) -> str:
    """What finishes the bundle, typed on the device after copying it there."""
    name = shlex.quote(request.out_dir.name)
    return f"egm build {name} --target {request.target.name} -o {name}"


def finish(request: BuildRequest) -> Bundle:
    """Build the engine into the bundle at `request.out_dir`.

    Raises:
        BuildError: the runtime does not accept this machine, the builder failed, or its files are not what was asked for.
    """
    bundle = Bundle.open(request.out_dir)
    environment = EdgeLlmEnvironment.find()
    profile = EngineProfile(**bundle.manifest.model["profile"])
    facts = preflight(environment)
    bar = ProgressBar("build", request.progress_stream, 3)
    with BundleWriter(request.out_dir, force=request.force) as writer, Stages.open(f"engine-{bundle.hash[:32]}") as stages:
        bar.stage("engine (1 to 20 minutes)")

        def build(folder: Path) -> None:
            argv = builder_arguments(environment, bundle.root / "checkpoint", folder, profile)
            run_tool(argv, what="the engine build", log=stages.log("engine"))
            check_engine(folder, profile)

        engine = stages.run("engine", build)
        bar.advance(2)
        bar.stage("hashing")
        for name in bundle.manifest.files:
            writer.link(bundle.path(name), name)
        for path in sorted(p for p in engine.rglob("*") if p.is_file()):
            shutil.copyfile(path, writer.path(f"engine/{path.relative_to(engine).as_posix()}"))
        manifest = _manifest(bundle, environment, facts)
        if request.gate:
            bar.stage("golden replies")
            manifest["parity"] |= ask_golden(writer, manifest)
        finished = writer.commit(**manifest)
        stages.remove()
    bar.finish()
    return finished


def ask_golden(writer: BundleWriter, manifest: dict[str, Any]) -> dict[str, Any]:
    """Ask the new engine the golden replies that the host stored.

    Returns:
        What the parity section says then.

    Raises:
        BuildError: it answers otherwise.
    """
    candidate = preview(writer, {name: value for name, value in manifest.items() if name != "parity"})
    if not has_golden(candidate):
        return {}
    try:
        with EdgeLlmGrounder.from_opened(candidate) as grounder:
            report = check_golden(grounder, grounder.facts, read_golden(candidate))
            machine = Machine.of(grounder.facts).to_dict()
    except BackendError as error:
        return {"why": f"the engine was built and could not be asked here: {error}"}
    if not report.passed:
        hint = "try another --precision (`egm targets` knows upstream faults), or pass --no-gate to keep the engine"
        raise BuildError("an engine that gives the checkpoint's boxes", "; ".join(report.problems), hint)
    return {"status": "verified", "why": "its golden replies", "golden": report.to_dict(), "machine": machine}


def builder_arguments(environment: EdgeLlmEnvironment, checkpoint: Path, out: Path, profile: EngineProfile) -> list[str]:
    """The command line of NVIDIA's builder; its own defaults are demo-sized (32 input tokens)."""
    tool = environment.tool(BUILDER)
    return [str(tool), "--model-dir", str(checkpoint), "--engine-dir", str(out), *profile.flags()]


def preflight(environment: EdgeLlmEnvironment) -> dict[str, str]:
    """Ask the runtime whether it has a payload for this machine, before minutes of building.

    Raises:
        BuildError: it has none; its own words are passed on.
    """
    try:
        done = subprocess.run(
            [str(environment.python), "-P", "-c", _PREFLIGHT],
            capture_output=True, errors="replace", timeout=_PREFLIGHT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError("Edge-LLM's runtime to answer", str(error)[:200], f"check {environment.root}") from None
    if done.returncode != 0 or "egm-runtime" not in done.stdout:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        raise BuildError(
            "a machine that TensorRT Edge-LLM has a payload for",
            lines[-1][:300],
            "compare `egm targets TARGET` with this machine's JetPack, CUDA and TensorRT",
        )
    return {"machine": platform.machine(), "kernel": platform.release()} | gpu_facts()


def gpu_facts() -> dict[str, str]:
    """Name, driver and compute capability as the driver tells them; empty where it does not."""
    first = nvidia_gpus("name", "driver_version", "compute_cap")[:1]
    return {key: value for gpu in first for key, value in zip(("gpu", "driver", "compute_capability"), gpu, strict=False)}


def check_engine(folder: Path, profile: EngineProfile) -> None:
    """All files there, none empty, and the profile that was asked for in the engine's own configuration.

    Raises:
        BuildError: naming what is missing or differs.
    """
    missing = [name for name in ENGINE_FILES if not (folder / name).is_file() or not (folder / name).stat().st_size]
    if missing:
        raise BuildError("a complete engine", f"no {', '.join(missing)}", "run the same command again")
    try:
        text, visual = (
            json.loads((folder / name).read_text("utf-8")).get("builder_config", {})
            for name in ("config.json", "visual/config.json")
        )
    except (ValueError, AttributeError) as error:
        raise BuildError("the engine's config.json", str(error), "run the same command again") from None
    expected = asdict(profile)
    for built, names in (
        (text, ("max_input_len", "max_kv_cache_capacity", "max_batch_size")),
        (visual, ("min_image_tokens", "max_image_tokens", "max_image_tokens_per_image")),
    ):
        wrong = [f"{name} {built.get(name)} instead of {expected[name]}" for name in names if built.get(name) != expected[name]]
        if wrong:
            raise BuildError("the engine profile that was asked for", ", ".join(wrong), "report this")


def _manifest(bundle: Bundle, environment: EdgeLlmEnvironment, facts: dict[str, str]) -> dict[str, Any]:
    """The host half's manifest with the engine in it; parity stays unverified until `egm verify` has run here."""
    values = asdict(bundle.manifest)
    for name in ("schema_version", "egm_edge_version", "files"):
        values.pop(name)
    values["model"] |= {"engine": facts | {"builder": f"tensorrt-edgellm {EDGE_LLM}"}}
    values["versions"] |= {f"device {name}": version for name, version in environment.versions.items()}
    values["parity"] |= {
        "why": "the engine was built here and not compared yet",
        "next": f"egm verify {shlex.quote(str(bundle.root.name))}",
    }
    return values
