"""Deployment bundles for servers: the checkpoint as the server loads it, its settings, the versions that are safe, and the
command that starts it. No engine is built: TensorRT-LLM's PyTorch runtime, vLLM and SGLang load Hugging Face checkpoints.

In BF16 the checkpoint is served as it is; below, as ModelOpt quantized it (`served_quantization.py`). The pixel budget is
written into the checkpoint's own processor settings, which every server reads, and repeated where a server takes it on the
command line.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from build_engine.checkpoint import Checkpoint
from build_engine.checkpoint_contents import require_finite
from build_engine.compilers.plan import CheckpointPlan, preview
from build_engine.compilers.quantized_checkpoint import COMPANIONS, MODEL, QuantizedCheckpoint
from build_engine.manifest import BundleWriter
from build_engine.memory_plan import max_image_tokens
from build_engine.parity import build_gate
from build_engine.request import BuildRequest
from build_engine.served_settings import with_rotary_of_4, write_pixel_budget
from build_engine.server_releases import SERVER_RELEASES
from build_engine.targets import Runtime, Target, tensorrt_llm_sm
from egm_edge.backends.text_runtime import HTTP, TENSORRT_LLM
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.files import write_json
from egm_edge.pixels import TILES
from egm_edge.reporting.progress import ProgressBar

PLAIN = "bf16"
NAME = "egm"
SETTINGS = (*COMPANIONS, "*.safetensors")
PROMPT_TOKENS = 1024  # chat template and expression


@dataclass(frozen=True, slots=True)
class ServerKind:
    """One server.

    Attributes:
        requirements: family that it serves -> what to install (`SERVER_RELEASES`).
        command: its command line for a plan, the bundle being the working directory.
    """

    requirements: Mapping[str, str]
    command: Callable[[CheckpointPlan], list[str]]

    @classmethod
    def of(cls, name: str, command: Callable[[CheckpointPlan], list[str]]) -> ServerKind:
        return cls({family: f"{name}{releases}" for family, releases in SERVER_RELEASES[name].items()}, command)


def compile_server(request: BuildRequest) -> Bundle:
    """Build a bundle for the table's server rows; the target's runtime and name decide which server.

    Raises:
        BuildError: the server does not serve this family, or quantization failed or costs too much.
    """
    name = server_name(request.target)
    kind = SERVERS[name]
    with Checkpoint(request.checkpoint) as checkpoint:
        if checkpoint.family not in kind.requirements:
            others = [server for server, other in SERVERS.items() if checkpoint.family in other.requirements]
            raise BuildError(
                f"a checkpoint of {', '.join(kind.requirements)} for {request.target.name}",
                checkpoint.family,
                f"pass --target {' or '.join(others)}",
            )
        plan = CheckpointPlan(checkpoint, request.max_pixels, request.max_new_tokens)
        longest = max_image_tokens(plan.pixel_spec) + PROMPT_TOKENS + plan.max_new_tokens
        plan.context_tokens = min(plan.context_tokens, longest)
        manifest = plan.manifest(name, request.precision, {"server": kind.requirements[checkpoint.family]})
        manifest["text_runtime"] = TENSORRT_LLM if request.target.runtime is Runtime.TENSORRT_LLM else HTTP
        manifest["model"] |= {"sm": list(_sm(request))} if request.target.sm else {}
        if request.precision == PLAIN:
            return _plain(request, plan, kind, manifest)
        served = QuantizedCheckpoint(plan, request)
        return served.build(manifest, lambda writer: _write_settings(writer, kind, plan, request), _golden_parity)


def server_name(target: Target) -> str:
    """The server of a row: TensorRT-LLM has one row a GPU generation, and one for whoever does not say."""
    return "tensorrt-llm" if target.runtime is Runtime.TENSORRT_LLM else target.name


def _sm(request: BuildRequest) -> tuple[str, ...]:
    """The row's compute capabilities that execute the precision."""
    return tuple(sm for sm in request.target.sm if sm in tensorrt_llm_sm(request.precision))


def _golden_parity(plan: CheckpointPlan, candidate: Bundle, gate: bool) -> dict[str, Any]:
    """The parity section of a bundle that a server answers for; its golden replies are written where that can be done here."""
    parity = build_gate.unverified("unverified on target: the server runs on its own GPU")
    if not gate:
        return parity
    checkpoint = plan.checkpoint
    lacking = build_gate.store_golden(candidate, checkpoint.directory, checkpoint.parameter_count())
    return parity | ({"golden": f"none: {lacking}"} if lacking else {"verify_with": "egm verify BUNDLE --url http://HOST:PORT"})


def _plain(request: BuildRequest, plan: CheckpointPlan, kind: ServerKind, manifest: dict[str, Any]) -> Bundle:
    """The checkpoint as it is."""
    with BundleWriter(request.out_dir, force=request.force) as writer:
        sources = sorted({path for pattern in SETTINGS for path in Path(request.checkpoint).glob(pattern)})
        writer.require_free(sum(path.stat().st_size for path in sources) + (1 << 20))
        bar = ProgressBar("build", request.progress_stream, len(sources))
        bar.stage("checkpoint")
        require_finite(plan.checkpoint)
        for path in sources:
            shutil.copyfile(path, writer.path(f"{MODEL}/{path.name}"))
            bar.advance(1)
        write_json(writer.path(f"{MODEL}/config.json"), with_rotary_of_4(plan.checkpoint.config))
        write_pixel_budget(writer.path(MODEL), plan.pixel_spec)
        _write_settings(writer, kind, plan, request)
        bar.stage("golden replies")
        return writer.commit(**manifest, parity=_golden_parity(plan, preview(writer, manifest), request.gate))


def _write_settings(writer: BundleWriter, kind: ServerKind, plan: CheckpointPlan, request: BuildRequest) -> None:
    """What lies beside the checkpoint: tokenizer, server settings, versions, the command that starts it."""
    shutil.copyfile(plan.checkpoint.directory / "tokenizer.json", writer.path("tokenizer.json"))
    if request.target.runtime is Runtime.TENSORRT_LLM:
        writer.path("llm_args.yaml").write_text(yaml.safe_dump(llm_args(plan, request.batch)), encoding="utf-8")
    writer.path("requirements.txt").write_text(kind.requirements[plan.checkpoint.family] + "\n", encoding="utf-8")
    command = shlex.join(kind.command(plan))
    script = f'#!/bin/sh\n# pip install -r requirements.txt\ncd "$(dirname "$0")" && exec {command} "$@"\n'
    writer.path("serve.sh").write_text(script, encoding="utf-8")


def llm_args(plan: CheckpointPlan, batch: int) -> dict[str, Any]:
    """TensorRT-LLM's LLM API arguments (`trtllm-serve --config`)."""
    return {
        "max_batch_size": batch,
        "max_num_tokens": max(8192, plan.context_tokens),  # holds the largest prompt in one piece
        "max_seq_len": plan.context_tokens,
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "xgrammar",
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.8, "dtype": "auto"},
        "cuda_graph_config": {"max_batch_size": batch, "enable_padding": True},
    }


def _vllm(plan: CheckpointPlan) -> list[str]:
    command = ["vllm", "serve", MODEL, "--served-model-name", NAME, "--max-model-len", str(plan.context_tokens)]
    command += ["--limit-mm-per-prompt", '{"image":1,"video":0}', "--gpu-memory-utilization", "0.9"]
    if plan.pixel_spec.rule != TILES:
        command += ["--mm-processor-kwargs", json.dumps({"size": plan.pixel_spec.area_limits}, separators=(",", ":"))]
    return command


def _sglang(plan: CheckpointPlan) -> list[str]:
    command = ["sglang", "serve", "--model-path", MODEL, "--served-model-name", NAME]
    command += ["--context-length", str(plan.context_tokens), "--mem-fraction-static", "0.8"]
    # SGLang's own InternVL class takes the original layout, not this one; said here, so that nobody finds it out from speed
    return command if plan.checkpoint.family == "qwen3_vl" else [*command, "--model-impl", "transformers"]


def _tensorrt_llm(plan: CheckpointPlan) -> list[str]:
    return ["trtllm-serve", MODEL, "--config", "llm_args.yaml"]


SERVERS: Mapping[str, ServerKind] = {
    "tensorrt-llm": ServerKind.of("tensorrt-llm", _tensorrt_llm),
    "vllm": ServerKind.of("vllm", _vllm),
    "sglang": ServerKind.of("sglang", _sglang),
}
