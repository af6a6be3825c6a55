"""The TensorRT for RTX compiler: portable graphs to ahead-of-time engines, on a machine without GPU or driver.

The engines hold kernels of no particular GPU: they are finished on the first load there (`egm_edge.backends.tensorrt_rtx`
keeps the result). They cannot be run here, so that the graphs they were built from are checked on the CPU instead, and stay in
the bundle for that unless they are to be left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import build_engine
from build_engine.checkpoint import Checkpoint
from build_engine.compilers import rtx_worker
from build_engine.compilers.activation_ranges import activation_ranges
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.compilers.portable import FORMATS, graph_check, limit_context, max_image_tokens, write_graphs
from build_engine.exporters.graph import WeightFormat
from build_engine.manifest import BundleWriter
from build_engine.modelopt.request_tensors import calibration_cases
from build_engine.parity import build_gate
from build_engine.request import BuildRequest
from build_engine.targets import Target
from egm_edge.backends.portable.ort_runner import DECODER, HEAD, VISION
from egm_edge.bundle import PORTABLE, Bundle
from egm_edge.errors import BuildError
from egm_edge.reporting.progress import ProgressBar

PACKAGE = "tensorrt_rtx"
WITHOUT_WHEEL = (3, 13)  # tensorrt-rtx 1.7.1 has wheels up to CPython 3.12
JOBS = "rtx-jobs.json"
ENGINES = {VISION: "engines/vision.engine", DECODER: "engines/decoder.engine", HEAD: "engines/head.engine"}
AGREEING_BUILDS, MOST_BUILDS = 2, 6
DECODE_TOKENS = 16  # a decode step with its draft
FIRST_FP8_SM = 89
BYTES_PER_PARAMETER = 6  # graph, engine, and room for what TensorRT writes meanwhile

# One profile: input -> (smallest, typical, largest) shape.
Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One engine to build."""

    graph: str
    profiles: Sequence[Profile]


def compile_rtx(request: BuildRequest) -> Bundle:
    """Build a bundle for the table's TensorRT-RTX rows.

    Raises:
        BuildError: the package is missing, a graph does not parse, or an engine was not built.
    """
    request.require_batch_of_one()
    installed = _require_tensorrt()
    with Checkpoint(request.checkpoint) as checkpoint, BundleWriter(request.out_dir, force=request.force) as writer:
        plan = CheckpointPlan(checkpoint, request.max_pixels, request.max_new_tokens)
        limit_context(plan)
        jobs = engine_jobs(plan)
        writer.require_free(checkpoint.parameter_count() * BYTES_PER_PARAMETER + (64 << 20))
        bar = ProgressBar("build", request.progress_stream, checkpoint.parameter_count())
        manifest = plan.manifest(request.target.name, request.precision, {"tensorrt-rtx": installed})
        sms = capabilities(request.target, request.precision)
        manifest["limits"] |= {"sm": list(sms)}
        plan.write_tables(writer)
        formats, ranges = FORMATS[request.precision], None
        if formats.decoder is WeightFormat.FP8:
            cases = calibration_cases(request.calibration)
            owner = "the user's own" if request.calibration else "drawn by egm-edge, Apache-2.0"
            manifest["licences"] |= {"calibration data": owner}
            ranges = activation_ranges(plan, preview(writer, manifest), cases, formats.native, bar)
        write_graphs(plan, writer.root, request.precision, bar, ranges=ranges)
        bar.stage("graph check on the CPU")
        why = "a TensorRT-RTX engine runs on an RTX GPU only"
        if request.gate:
            parity = graph_check(plan, preview(writer, manifest), why)
        else:
            parity = build_gate.unverified(f"unverified on target: {why}; the gate was switched off")
        bar.stage(f"engines for {', '.join(sms)}")
        build_engines(writer.root, sms, jobs, bar)
        if not request.keep_graphs:
            shutil.rmtree(writer.root / PORTABLE)
        bar.stage("hashing")
        bundle = writer.commit(**manifest, parity=parity)
        bar.finish()
        return bundle


def capabilities(target: Target, precision: str) -> tuple[str, ...]:
    """The target's compute capabilities that execute `precision`: an engine is built for all of these or not at all."""
    return tuple(sm for sm in target.sm if precision != "fp8" or int(sm.removeprefix("sm")) >= FIRST_FP8_SM)


def engine_jobs(plan: CheckpointPlan) -> list[EngineJob]:
    """Engines with profiles sized from the pixel spec and the token limits: the decoder has one for prompts and one for
    single steps, whose kernels differ."""
    shape, engine, spec = plan.shape, plan.engine(), plan.pixel_spec
    image_tokens, context = max_image_tokens(plan), plan.context_tokens
    if spec.tokens_per_tile:
        most, side = image_tokens // spec.tokens_per_tile, spec.tile_size
        vision: Profile = {"patches": ((1, 3, side, side), (1, 3, side, side), (most, 3, side, side))}
    else:
        least, most = spec.merge_size**2, image_tokens * spec.merge_size**2
        typical = max(least, most // 2 // least * least)
        width, half = int(plan.checkpoint.vision_config["hidden_size"]), engine.vision.head_dim // 2
        columns = {"patches": 3 * spec.patch_size**2, "position": width, "cos": half, "sin": half}
        vision = {name: ((least, size), (typical, size), (most, size)) for name, size in columns.items()}
    prompt = min(context, image_tokens + 64)
    decoder = [_decoder_profile(plan, n, past) for n, past in (((1, prompt, context), (0, 0, context)),
                                                              ((1, 1, DECODE_TOKENS), (1, prompt, context)))]  # fmt: skip
    head: Profile = {"hidden": ((1, 1, shape.hidden), (1, 1, shape.hidden), (1, context, shape.hidden))}
    return [EngineJob(VISION, [vision]), EngineJob(DECODER, decoder), EngineJob(HEAD, [head])]


def _decoder_profile(plan: CheckpointPlan, fed: tuple[int, int, int], past: tuple[int, int, int]) -> Profile:
    shape, half = plan.shape, plan.shape.head_dim // 2
    embeds = _three((1, n, shape.hidden) for n in fed)
    angles = _three((n, half) for n in fed)
    cache = _three((p, shape.kv_heads, shape.head_dim) for p in past)
    profile: dict[str, tuple[Shape, Shape, Shape]] = {"embeds": embeds, "cos": angles, "sin": angles}
    profile |= {f"deepstack_{i}": embeds for i in range(plan.engine().vision.deepstack)}
    profile["mask"] = _three((n, n + p) for n, p in zip(fed, past, strict=True))
    profile |= {f"past_{part}_{i}": cache for i in range(shape.layers) for part in ("key", "value")}
    return profile


def build_engines(root: Path, sms: Sequence[str], jobs: Sequence[EngineJob], bar: ProgressBar) -> None:
    """Build engines/*.engine from the graphs under `root`, for several compute capabilities.

    The worker sees fixed names and a fixed environment only, so that the same graphs give the same bytes wherever they lie.
    TensorRT's own threads may still race for it (a few dozen bytes differ then), so an engine is built until two builds agree.

    Raises:
        BuildError: TensorRT refuses; its own words are in the message.
    """
    (root / "engines").mkdir(exist_ok=True)
    for job in jobs:
        seen: dict[str, int] = {}
        while max(seen.values(), default=0) < AGREEING_BUILDS and sum(seen.values()) < MOST_BUILDS:
            _build_once(root, sms, job)
            digest = hashlib.sha256((root / ENGINES[job.graph]).read_bytes()).hexdigest()
            seen[digest] = seen.get(digest, 0) + 1
        bar.stage(f"engine {Path(ENGINES[job.graph]).stem} built {sum(seen.values())} times")


def _build_once(root: Path, sms: Sequence[str], job: EngineJob) -> None:
    """Build one engine in a process of its own."""
    engine = ENGINES[job.graph]
    (root / engine).unlink(missing_ok=True)
    work = {
        "sm": list(sms),
        "jobs": [{"graph": job.graph, "engine": engine, "profiles": [dict(profile) for profile in job.profiles]}],
    }
    (root / JOBS).write_text(json.dumps(work), encoding="utf-8")
    environment = {"PATH": os.defpath, "PYTHONPATH": str(Path(build_engine.__file__).parents[1])}
    refused = ""
    with subprocess.Popen(
        rtx_worker.command(JOBS), cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as worker:
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                if not line.startswith("egm-engine "):
                    refused = line.removeprefix("egm-refused ").strip() or refused
        except BaseException:
            worker.kill()
            raise
    (root / JOBS).unlink()
    if worker.returncode or not (root / engine).is_file():
        raise BuildError(
            f"TensorRT-RTX to build {engine}",
            refused[:400] or f"exit code {worker.returncode}",
            "report this with the checkpoint's config.json",
        )


def _three(shapes: Any) -> tuple[Shape, Shape, Shape]:
    low, typical, high = shapes
    return low, typical, high


def _require_tensorrt() -> str:
    """The installed version."""
    if importlib.util.find_spec(PACKAGE) is None:
        here = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        if sys.version_info >= WITHOUT_WHEEL:
            hint = "NVIDIA publishes none for it: make an environment with Python 3.10 to 3.12"
            raise BuildError(f"a wheel of {PACKAGE} for this Python", here, hint)
        raise BuildError("TensorRT for RTX", f"no package {PACKAGE} in this {here}", "pip install 'egm-edge[rtx]'")
    return version("tensorrt-rtx")
