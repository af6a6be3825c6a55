"""A hub id -> a bundle for this machine, in the user's cache: `egm ground photo.png "…" --bundle nvidia/EGM-4B`.

The memory plan comes first, from the model's config alone: what does not fit is refused before gigabytes are fetched.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from build_engine.checkpoint import Checkpoint
from build_engine.checkpoint_settings import require_settings, require_unquantized
from build_engine.hub import resolve_checkpoint
from build_engine.memory_plan import require_fit
from build_engine.recommend import CPU_SHARE, this_machine
from build_engine.request import MAX_NEW_TOKENS, BuildRequest
from build_engine.targets import TARGETS, Target
from egm_edge.bundle import MANIFEST_NAME
from egm_edge.files import user_cache
from egm_edge.machine import memory_gb
from egm_edge.pixels import PixelSpec

CPU_PRECISION = "int4"  # a large model's speed on a CPU is its memory's


def bundle_of_hub_id(text: str) -> Path:
    """The bundle of `text` for this machine; downloaded and built the first time, with progress on stderr.

    Raises:
        CheckpointError: the hub has no such model or cannot be reached.
        BuildError: it does not fit this machine, or cannot be built.
    """
    target, precision = _local_target()
    out_dir = user_cache() / f"{text.replace('/', '--').replace('@', '--')}-{target.name}-{precision}"
    if (out_dir / MANIFEST_NAME).is_file():
        return out_dir
    settings = resolve_checkpoint(text, weights=False)
    with Checkpoint(settings, weights=False) as stated:
        require_settings(stated)
        require_unquantized(stated)
        spec = PixelSpec.from_checkpoint(settings)
        plan = require_fit(stated.config, spec, target, precision, max_new_tokens=MAX_NEW_TOKENS, batch=1)
    sys.stderr.write(
        f"egm: {text} at {precision} for {target.name} takes {plan.device:.1f} GB of {target.memory_gb:.1f} GB; "
        f"downloading it, then building {out_dir}\n"
    )
    checkpoint = resolve_checkpoint(text)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    request = BuildRequest(
        checkpoint=checkpoint, out_dir=out_dir, target=target, precision=precision, progress_stream=sys.stderr
    )
    return target.load_compiler()(request).root


def _local_target() -> tuple[Target, str]:
    """This machine's row, with its own memory in it: an RTX GPU where TensorRT for RTX is installed, else the CPU. (A Jetson's
    first half is built on a host.)"""
    row, usable_gb = this_machine()
    if row.name != "rtx" or find_spec("tensorrt_rtx") is None:
        row, usable_gb = TARGETS["cpu"], memory_gb()[0] * CPU_SHARE
    precision = CPU_PRECISION if row.name == "cpu" else row.default_precision
    return replace(row, memory_gb=usable_gb, reserved_gb=0.0), precision
