"""`egm recommend`: target, precision, memory and expected latency of EGM models on this machine or on a named device.

Arithmetic and published rows only: nothing is built, loaded or downloaded. Memory is the memory plan's own figure; every
latency names where it comes from, and is left out where nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from build_engine.memory_plan import ModelSize
from build_engine.memory_table import NVIDIA_ROWS, PUBLISHED, published_plan
from build_engine.precisions import PRECISIONS
from build_engine.targets import TARGETS, Runtime, Target, target_for
from egm_edge.machine import board_name, memory_gb, nvidia_gpus

MODELS = {"EGM-2B": "Qwen3-VL-2B", "EGM-4B": "EGM-4B", "EGM-8B": "EGM-8B"}  # name -> whose shapes it has
ANSWER_TOKENS = 100  # EGM-8B's replies average 101 (its model card)
# Measured with random weights at 2B dimensions, int4, 640x480, two AMD EPYC virtual CPUs (docs/cpu-engine.md).
CPU_2B_FIRST_TOKEN_S, CPU_2B_TOKENS_PER_S = 2.6, 26.0
CPU_SHARE = 0.8  # of a machine's memory that a model may take there; our assumption


class LatencySource(str, Enum):
    """Where an expected latency comes from."""

    MEASURED = "measured on 2 vCPUs at these dimensions"
    SCALED = "reckoned: the 2B measurement times the parameters"
    PUBLISHED = "NVIDIA's published rates of the same shapes"
    BANDWIDTH = "at least: the weights over the memory bandwidth"
    UNKNOWN = "not known: `egm measure` tells"


@dataclass(frozen=True, slots=True)
class Advice:
    """One model on one target.

    Attributes:
        model, target, precision: what to build.
        needed_gb: on the device while it answers (the memory plan); usable_gb: there, None where devices differ.
        latency_s: of a 640x480 frame and a reply of ANSWER_TOKENS; None where nothing is known. source: of that figure.
        commands: what to type, in order.
    """

    model: str
    target: str
    precision: str
    needed_gb: float
    usable_gb: float | None
    latency_s: float | None
    source: LatencySource
    commands: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.usable_gb is None or self.needed_gb <= self.usable_gb

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"source": self.source.value, "fits": self.fits, "commands": list(self.commands)}


def this_machine() -> tuple[Target, float | None]:
    """The target of the machine this runs on and the GB a model may take there: a Jetson, a GPU that a target knows, the CPU."""
    if board := board_name():
        for row in TARGETS.values():
            if row.name.startswith("jetson") and all(word in board.lower() for word in row.name.split("-")[1:]):
                return row, row.usable_gb
    for sm, total_gb in _gpus():
        for row in TARGETS.values():
            if sm in row.sm and row.runtime is Runtime.TENSORRT_RTX:
                return row, total_gb - 1.0
    return TARGETS["cpu"], memory_gb()[0] * CPU_SHARE


def advise(device: str | None = None) -> list[Advice]:
    """A row a model.

    Args:
        device: a target's name; None for this machine.

    Raises:
        InputError: no target of that name.
    """
    target, usable = (target_for(device), target_for(device).usable_gb) if device is not None else this_machine()
    return [_advice(model, target, usable) for model in MODELS]


def _advice(model: str, target: Target, usable_gb: float | None) -> Advice:
    plans = {p: published_plan(MODELS[model], target, p).device for p in _preferred(target)}
    fitting = [p for p, needed in plans.items() if usable_gb is None or needed <= usable_gb]
    precision = fitting[0] if fitting else min(plans, key=lambda p: plans[p])
    latency_s, source = _latency(model, target, precision)
    return Advice(
        model, target.name, precision, round(plans[precision], 1), usable_gb, latency_s, source, _commands(model, target, precision)
    )


def _preferred(target: Target) -> list[str]:
    """On a CPU memory decides the speed of a large model, so 4 bits come first; elsewhere the target's own order."""
    return sorted(target.precisions, key=lambda p: PRECISIONS[p].stored_bits) if target.name == "cpu" else list(target.precisions)


def _latency(model: str, target: Target, precision: str) -> tuple[float | None, LatencySource]:
    size = ModelSize.of(PUBLISHED[MODELS[model]])
    if target.name == "cpu":
        share = size.parameters / ModelSize.of(PUBLISHED[MODELS["EGM-2B"]]).parameters
        seconds = share * (CPU_2B_FIRST_TOKEN_S + ANSWER_TOKENS / CPU_2B_TOKENS_PER_S)
        return round(seconds, 1), LatencySource.MEASURED if model == "EGM-2B" else LatencySource.SCALED
    for row in NVIDIA_ROWS:
        if (row.target, row.model, row.precision) == (target.name, MODELS[model], precision):
            ms = row.vision_ms + row.prefill_ms + ANSWER_TOKENS / row.decode_tokens_s * 1e3
            return round(ms / 1e3, 2), LatencySource.PUBLISHED
    if target.bandwidth_gb_s:
        step_bytes = size.decoder * PRECISIONS[precision].stored_bits / 8 + size.table * 2
        return round(ANSWER_TOKENS * step_bytes / target.bandwidth_gb_s / 1e9, 2), LatencySource.BANDWIDTH
    return None, LatencySource.UNKNOWN


def _commands(model: str, target: Target, precision: str) -> tuple[str, ...]:
    out = f"out/{model.lower()}-{target.name}"
    checkpoint = f"nvidia/{model}" if model != "EGM-2B" else "/models/EGM-2B"
    build = f"egm build {checkpoint} --target {target.name} --precision {precision} -o {out}"
    if target.runtime is Runtime.EDGE_LLM:
        return (build, f"(copy {out} to the device, run the same command there)", f'egm ground photo.png "the mug" --bundle {out}')
    if target.runtime in (Runtime.OPENAI_SERVER, Runtime.TENSORRT_LLM):
        return (build, f"(start the server with the command in {out})", 'egm ground photo.png "the mug" --bundle http://HOST:8000')
    return (build, f'egm ground photo.png "the mug" --bundle {out}')


def _gpus() -> Iterator[tuple[str, float]]:
    """Compute capability ("sm86") and GB of each GPU that the driver shows."""
    for capability, memory in nvidia_gpus("compute_cap", "memory.total"):
        digits, mib = capability.replace(".", ""), memory.removesuffix(" MiB")
        if digits.isdigit() and mib.isdigit():
            yield f"sm{digits}", int(mib) * 1.048576 / 1e3
