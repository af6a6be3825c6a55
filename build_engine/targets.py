"""The table of targets: which device, which runtime, which precisions, how much memory, and how much of it was ever run.

Facts only. What is done with a row belongs to its compiler (`build_engine.compilers`, `build_engine.edge_llm`), which is
named here and loaded when a bundle is built. GB are 10^9 bytes.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from build_engine.precisions import PRECISIONS, plain_name
from build_engine.server_releases import READ_ON, SERVER_RELEASES
from egm_edge.errors import BuildError, InputError
from egm_edge.releases import EDGE_LLM

if TYPE_CHECKING:
    from build_engine.request import BuildRequest
    from egm_edge.bundle import Bundle

    Compiler = Callable[[BuildRequest], Bundle]


class Runtime(str, Enum):
    """What executes the bundle."""

    ONNX_RUNTIME = "onnxruntime"
    EDGE_LLM = "tensorrt-edge-llm"
    TENSORRT_RTX = "tensorrt-rtx"
    TENSORRT_LLM = "tensorrt-llm"
    OPENAI_SERVER = "openai-server"
    PYTORCH = "pytorch"


class Support(str, Enum):
    """How much of a target was run, and where. Nothing else in this project claims more."""

    TESTED = "tested"
    HOST_HALF = "host half tested"
    NOT_RUN = "not run on hardware"



@dataclass(frozen=True, slots=True)
class Target:
    """One row.

    Attributes:
        name: what `--target` takes.
        devices: the machines that it stands for.
        runtime: what executes the bundle there.
        sm: CUDA compute capabilities times ten ("sm87"); empty for a CPU.
        precisions: weight precisions that the runtime executes there, the default first.
        compiler: "module:function" of a `Compiler`.
        memory_gb: of the device; None where devices differ (a CPU host, a class of GPUs).
        reserved_gb: kept for the operating system, the desktop and the camera pipeline. Our assumption, not a measurement.
        shared_memory: CPU and GPU use the same memory, so that the engine build competes with the system.
        bandwidth_gb_s: memory bandwidth from the maker's data sheet; None where devices differ.
        versions: what has to be installed there (JetPack, driver, CUDA, TensorRT, the runtime).
        steps: step -> where it runs ("host", "device", or "host or device").
        support: how much of it was run.
        notes: limits that a user should know before building.
    """

    name: str
    devices: tuple[str, ...]
    runtime: Runtime
    precisions: tuple[str, ...]
    compiler: str
    support: Support
    sm: tuple[str, ...] = ()
    memory_gb: float | None = None
    reserved_gb: float = 0.0
    shared_memory: bool = False
    bandwidth_gb_s: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [p for p in self.precisions if p not in PRECISIONS]
        if unknown or not self.precisions:
            raise ValueError(f"target {self.name}: precisions {self.precisions} are not of {', '.join(PRECISIONS)}")

    @property
    def usable_gb(self) -> float | None:
        """Memory left for the model; None where devices differ."""
        return None if self.memory_gb is None else self.memory_gb - self.reserved_gb

    @property
    def default_precision(self) -> str:
        return self.precisions[0]

    @property
    def quantizes_vision(self) -> bool:
        """Whether the runtime executes a vision tower in FP8 there (Edge-LLM, sm89 and later)."""
        return self.runtime is Runtime.EDGE_LLM and "fp8" in self.precisions

    def precision(self, asked: str | None) -> str:
        """The precision to build: `asked` in this table's spelling, or the default.

        Raises:
            BuildError: the runtime does not execute it there; the nearest that it does is named.
        """
        if asked is None:
            return self.default_precision
        plain = plain_name(asked)
        if plain in self.precisions:
            return plain
        raise BuildError(
            f"a precision that {self.runtime.value} executes on {self.name} ({', '.join(self.precisions)})",
            repr(asked),
            f"pass --precision {self._nearest(plain)}",
        )

    def load_compiler(self) -> Compiler:
        """Import the function that builds bundles for this target."""
        module, _, function = self.compiler.partition(":")
        compiler: Compiler = getattr(importlib.import_module(module), function)
        return compiler

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = asdict(self) | {"runtime": self.runtime.value, "support": self.support.value}
        return values | {"usable_gb": self.usable_gb, "default_precision": self.default_precision}

    def _nearest(self, asked: str) -> str:
        if asked not in PRECISIONS:
            return (difflib.get_close_matches(asked, self.precisions, n=1, cutoff=0.5) or [self.default_precision])[0]
        return min(self.precisions, key=lambda known: abs(PRECISIONS[known].bits - PRECISIONS[asked].bits))


_EDGE_LLM_STEPS = {"memory plan": "host", "quantize": "host", "export": "host", "check graphs": "host", "engine": "device"}
_EDGE_LLM = "build_engine.edge_llm.compiler:compile_edge_llm"
# NVIDIA's support matrix of Edge-LLM 0.11.0 and 0.11.1, and the variants in its wheels; JetPack brings its own TensorRT.
_JETPACK_72 = {"JetPack": "7.2 (L4T R39.2)", "CUDA": "13.2", "TensorRT": "JetPack's own (10.16)", "tensorrt-edgellm": EDGE_LLM}
_X86_TENSORRT = {"CUDA": "13", "TensorRT": "10.16.0.72 or 11.0.0.114", "tensorrt-edgellm": EDGE_LLM, "OS": "Ubuntu 24.04"}
_JETPACK_722 = "JetPack 7.2.2: NVIDIA names Edge-LLM 0.11.1 for it, which this egm-edge refuses; stay on 7.2 until it was tried"
# TensorRT Edge-LLM 0.11: no FP8, NVFP4 or FP8-KV engines on sm87; NVFP4 from Blackwell on; FP8 needs sm89.
_JETPACK_6 = (
    "JetPack 6 (L4T R36, Python 3.10, CUDA 12.6, TensorRT 10.3): no wheel; --target cpu runs there with onnxruntime 1.23.2 and "
    "pillow 12.3, the last for Python 3.10"
)
_AMPERE = ("int4", "fp16", "int8")
_BLACKWELL = ("nvfp4", "fp8", "int4", "fp16")


# TensorRT-LLM's table of quantized formats: W4A16-AWQ on Ampere, Ada and Hopper, not on Blackwell; FP8 from Ada on; NVFP4 on
# Blackwell alone. A row's first precision is its default.
_TENSORRT_LLM_GPUS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "sm80": (("A100",), ("sm80",), ("bf16", "int4")),
    "sm89": (("L40S", "L40", "L20"), ("sm89",), ("bf16", "fp8", "int4")),
    "sm90": (("H100", "H200", "GH200"), ("sm90",), ("bf16", "fp8", "int4")),
    "sm100": (("B200", "GB200", "B300", "GB300"), ("sm100", "sm103"), ("bf16", "fp8", "nvfp4")),
    "sm121": (("DGX Spark (beta)",), ("sm121",), ("bf16", "fp8", "nvfp4")),
}
_SERVER: Mapping[str, Any] = {
    "compiler": "build_engine.compilers.serving:compile_server",
    "support": Support.NOT_RUN,
}
_SERVER_STEPS = {"quantize": "host", "checkpoint and settings": "host", "serve": "device"}
_PYTORCH_RUNTIME = "a deployment bundle for the PyTorch runtime: upstream removed its engine files; Qwen3-VL only"
_MODELOPT_FP8 = "fp8 is a ModelOpt checkpoint, for sm89 and later; which releases load one of these models was not tried"


def _tensorrt_llm(name: str, devices: tuple[str, ...], sm: tuple[str, ...], precisions: tuple[str, ...], *notes: str) -> Target:
    return Target(
        name=name,
        devices=devices,
        runtime=Runtime.TENSORRT_LLM,
        precisions=precisions,
        sm=sm,
        versions={"tensorrt-llm": SERVER_RELEASES["tensorrt-llm"]["qwen3_vl"]},
        steps=_SERVER_STEPS,
        notes=(_PYTORCH_RUNTIME, *notes),
        **_SERVER,
    )


def tensorrt_llm_sm(precision: str) -> tuple[str, ...]:
    """The compute capabilities that TensorRT-LLM executes `precision` on."""
    return tuple(sm for _, each, precisions in _TENSORRT_LLM_GPUS.values() for sm in each if precision in precisions)


def _any_tensorrt_llm() -> Target:
    """The row for whoever does not say which GPU: every precision, and a note on where each runs."""
    precisions = ("bf16", "fp8", "nvfp4", "int4")
    where = "; ".join(f"{precision} on {', '.join(tensorrt_llm_sm(precision))}" for precision in precisions[1:])
    note = f"{where}: name the GPU (--target tensorrt-llm-sm90) to have the precision checked"
    devices, sm = (tuple(x for row in _TENSORRT_LLM_GPUS.values() for x in row[i]) for i in (0, 1))
    return _tensorrt_llm("tensorrt-llm", devices, sm, precisions, note)


def _edge_llm(
    name: str,
    devices: tuple[str, ...],
    sm: tuple[str, ...],
    precisions: tuple[str, ...],
    memory: tuple[float, float, float],
    versions: Mapping[str, str],
    *notes: str,
    shared: bool = False,
) -> Target:
    """A row of Edge-LLM's; memory: GB, of it reserved, and GB/s."""
    size, reserved, bandwidth = memory
    return Target(
        name=name, devices=devices, runtime=Runtime.EDGE_LLM, precisions=precisions, compiler=_EDGE_LLM, support=Support.HOST_HALF,
        sm=sm, memory_gb=size, reserved_gb=reserved, shared_memory=shared, bandwidth_gb_s=bandwidth, versions=versions,
        steps=_EDGE_LLM_STEPS, notes=notes,
    )  # fmt: skip


def _orin(name: str, device: str, memory: tuple[float, float, float], *notes: str) -> Target:
    notes = (*notes, _JETPACK_722, _JETPACK_6)
    return _edge_llm(name, (device,), ("sm87",), _AMPERE, memory, _JETPACK_72, *notes, shared=True)


_ROWS = (
    Target(
        name="cpu",
        devices=("x86-64 Linux", "ARM64 Linux (not run)"),
        runtime=Runtime.ONNX_RUNTIME,
        precisions=("int8", "int4", "fp32"),
        compiler="build_engine.compilers.cpu:compile_cpu",
        support=Support.TESTED,
        versions={"onnxruntime": ">=1.22"},
        steps={"quantize": "host", "graphs": "host", "parity": "host"},
    ),
    _orin("jetson-orin-nano", "Jetson Orin Nano 8 GB", (8.0, 2.0, 102.0), "image tokens at most 2048; close the desktop"),
    _orin("jetson-orin-nx", "Jetson Orin NX 16 GB", (16.0, 2.5, 102.4), "image tokens at most 2048"),
    _orin("jetson-agx-orin", "Jetson AGX Orin 64 GB", (64.0, 4.0, 204.8)),
    _edge_llm(
        "jetson-thor", ("Jetson AGX Thor (T5000)",), ("sm110",), _BLACKWELL, (128.0, 6.0, 273.0),
        _JETPACK_72 | {"JetPack": "7.2 (L4T R39.2); 7.0 and 7.1 (R38.2, R38.4) with CUDA 13.0, TensorRT 10.13"},
        _JETPACK_722, shared=True,
    ),
    _edge_llm(
        "igx-thor", ("IGX Thor (T7000)",), ("sm110", "sm120"), _BLACKWELL, (128.0, 6.0, 273.0),
        {"CUDA": "13.0", "TensorRT": "10.13.3.9", "tensorrt-edgellm": EDGE_LLM},
        "with a discrete GPU (sm120), set CUDA_VISIBLE_DEVICES: all visible GPUs must share one SM", shared=True,
    ),
    _edge_llm(
        "drive-thor", ("DRIVE AGX Thor",), ("sm110",), _BLACKWELL, (64.0, 6.0, 273.0),
        {"DriveOS": "7.2", "CUDA": "13.3", "TensorRT": "DriveOS's own", "tensorrt-edgellm": EDGE_LLM}, shared=True,
    ),
    _edge_llm(
        "dgx-spark", ("DGX Spark (GB10)",), ("sm121",), _BLACKWELL, (128.0, 6.0, 273.0),
        {"CUDA": "13.0", "TensorRT": "10.16.1.11", "tensorrt-edgellm": EDGE_LLM}, shared=True,
    ),
    _edge_llm(
        "edge-llm-sm80", ("A100", "A30"), ("sm80",), _AMPERE, (80.0, 1.0, 2039.0),
        _X86_TENSORRT | {"OS": "Ubuntu 22.04 or 24.04"}, "memory and bandwidth are those of an A100 80 GB SXM",
    ),
    _edge_llm(
        "edge-llm-sm86", ("RTX A6000", "A10", "RTX 3090"), ("sm86",), _AMPERE, (24.0, 1.0, 600.0), _X86_TENSORRT,
        "memory and bandwidth are those of an A10",
    ),
    _edge_llm("edge-llm-sm100", ("B200",), ("sm100",), _BLACKWELL, (180.0, 2.0, 8000.0), _X86_TENSORRT),
    _edge_llm(
        "edge-llm-sm120", ("RTX PRO 6000 Blackwell", "RTX 5090"), ("sm120",), _BLACKWELL, (32.0, 1.0, 1792.0), _X86_TENSORRT,
        "memory and bandwidth are those of an RTX 5090",
    ),
    Target(
        name="rtx",
        devices=("RTX 30 series", "RTX 40 series", "RTX 50 series", "their workstation cards"),
        runtime=Runtime.TENSORRT_RTX,
        precisions=("fp16", "int4", "fp8", "bf16"),
        compiler="build_engine.compilers.tensorrt_rtx:compile_rtx",
        support=Support.HOST_HALF,
        sm=("sm86", "sm89", "sm120"),
        versions={"tensorrt-rtx": "1.7.1.116, the same on host and device"},
        steps={"graphs": "host", "check graphs": "host", "engine": "host", "kernels": "device, on first load"},
        notes=(
            "engines are built without a GPU and are not portable across TensorRT-RTX releases",
            "fp8 engines are for sm89 and sm120 alone: RTX 30 has no FP8",
        ),
    ),
    Target(
        name="torch",
        devices=("datacenter GPUs (A100, H100, H200, B200)", "RTX 20 series and newer", "Jetson with JetPack's torch"),
        runtime=Runtime.PYTORCH,
        precisions=("bf16", "fp16"),
        compiler="build_engine.compilers.torch_checkpoint:compile_torch",
        support=Support.HOST_HALF,
        sm=("sm75", "sm80", "sm86", "sm87", "sm89", "sm90", "sm100", "sm110", "sm120", "sm121"),
        versions={"torch": ">=2.5 with CUDA"},
        steps={"checkpoint": "host", "check engine": "host", "CUDA graphs": "device, at first use"},
        notes=(
            "the bundle holds the checkpoint's own weights; the engine's code is checked on a CPU in float32; no GPU has run it",
            "bf16 is run as fp16 before sm80",
        ),
    ),
    _any_tensorrt_llm(),
    *(_tensorrt_llm(f"tensorrt-llm-{name}", *gpus) for name, gpus in _TENSORRT_LLM_GPUS.items()),
    Target(
        name="vllm",
        devices=("any GPU that vLLM serves",),
        runtime=Runtime.OPENAI_SERVER,
        precisions=("bf16", "fp8"),
        versions={"vllm": SERVER_RELEASES["vllm"]["qwen3_vl"]},
        steps=_SERVER_STEPS,
        notes=(READ_ON, _MODELOPT_FP8),
        **_SERVER,
    ),
    Target(
        name="sglang",
        devices=("any GPU that SGLang serves",),
        runtime=Runtime.OPENAI_SERVER,
        precisions=("bf16", "fp8"),
        versions={"sglang": SERVER_RELEASES["sglang"]["qwen3_vl"]},
        steps=_SERVER_STEPS,
        notes=(
            READ_ON,
            "InternVL3 runs through SGLang's transformers fallback (--model-impl transformers, sglang"
            f"{SERVER_RELEASES['sglang']['internvl3']}), not a class of its own: slower, and no box of it was ever compared",
            _MODELOPT_FP8,
        ),
        **_SERVER,
    ),
)  # fmt: skip
TARGETS: Mapping[str, Target] = {row.name: row for row in _ROWS}


def target_for(name: str) -> Target:
    """The row of a target.

    Raises:
        InputError: unknown; the nearest name is told.
    """
    if name in TARGETS:
        return TARGETS[name]
    plain = name.lower().replace("_", "-").replace(" ", "-")
    family = [known for known in TARGETS if known.startswith(f"{plain}-")]
    nearest = family or difflib.get_close_matches(plain, TARGETS, n=1, cutoff=0.4)
    hint = f"pass --target {' or '.join(nearest)}, or see them all with `egm targets`" if nearest else "see `egm targets`"
    raise InputError(f"a target ({', '.join(TARGETS)})", repr(name), hint)
