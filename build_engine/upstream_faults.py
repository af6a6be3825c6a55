"""Faults of foreign runtimes that are open upstream and concern what this project builds. Facts only, each with its issue.

`egm targets NAME` shows them and `egm build` warns of those that concern the build.
"""

from __future__ import annotations

from dataclasses import dataclass

_THOR = ("jetson-thor", "igx-thor", "drive-thor")
_ORIN = ("jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin")
_EDGE = "TensorRT-Edge-LLM"


@dataclass(frozen=True, slots=True)
class UpstreamFault:
    """One fault.

    Attributes:
        issue: where it is told. seen: releases and devices that showed it.
        targets: names. precisions, families: that it concerns; empty for all.
        what: happens. advice: what to do.
    """

    issue: str
    seen: str
    targets: tuple[str, ...]
    what: str
    advice: str
    precisions: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def concerns(self, target: str, precision: str, family: str) -> bool:
        """Whether a build meets it."""
        return (
            target in self.targets
            and precision in (self.precisions or (precision,))
            and family in (self.families or (family,))
        )

    def line(self) -> str:
        """For people."""
        return f"{self.issue}: {self.what} (seen: {self.seen}); {self.advice}"


_VERIFY = "the build asks the golden replies on the device, and refuses an engine that answers otherwise"
FAULTS: tuple[UpstreamFault, ...] = (
    UpstreamFault(
        f"{_EDGE} #105", "0.8.0 to 0.9.1, Thor, JetPack 7.1 with TensorRT 10.13", _THOR,
        "unquantized Qwen3-VL builds and then writes nonsense; InternVL3 does not build",
        f"take nvfp4 or fp8, and JetPack 7.2 with TensorRT 10.16; {_VERIFY}",
        precisions=("fp16",),
    ),
    UpstreamFault(
        f"{_EDGE} #151", "0.9.1, Thor, JetPack 7.1 with TensorRT 10.13", _THOR,
        "the first layer's values are corrupted in the cache, and replies with them",
        f"take JetPack 7.2; {_VERIFY}",
    ),
    UpstreamFault(
        f"{_EDGE} #40", "Qwen3-VL-4B, February 2026", (*_THOR, *_ORIN),
        "hidden states leave the reference's from the middle layers on (cosine 0.9): other words, sometimes another box",
        _VERIFY, families=("qwen3_vl",),
    ),
    UpstreamFault(
        f"{_EDGE} #178", "0.10.0 built from source, Orin, JetPack 6.2", _ORIN,
        "the prebuilt sm87 kernels lack their attention modules and no engine builds",
        "take the 0.11.0 wheel on JetPack 7.2; a source build makes its kernels anew (kernelSrcs/build_cutedsl.py)",
    ),
)  # fmt: skip


def faults_of(target: str) -> tuple[UpstreamFault, ...]:
    """What is known of a target."""
    return tuple(fault for fault in FAULTS if target in fault.targets)
