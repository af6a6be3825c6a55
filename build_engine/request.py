"""BuildRequest: everything that `egm build` was asked for, as one value that every compiler takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from build_engine.precisions import PRECISIONS
from build_engine.targets import TARGETS, Target
from egm_edge.errors import BuildError

MAX_NEW_TOKENS = 1024  # EGM-8B averages 101; a third-party run at 128 lost a third of its accuracy to truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build.

    Attributes:
        checkpoint: a local Hugging Face directory.
        out_dir: the bundle; appears complete or not at all.
        target: the row of the table. precision: one of `target.precisions`.
        max_pixels: area of the resized image at most; None keeps the checkpoint's own budget.
        max_new_tokens: generation limit of the bundle. batch: requests answered at once.
        quantize_vision: quantize the vision tower too, in FP8; it stays in high precision otherwise.
        calibration: grounding rows (JSON lines) that quantization is calibrated on; None renders scenes.
        force: replace a damaged bundle at `out_dir`.
        keep_graphs: leave the portable graphs that engines were made of in the bundle, for checks without their GPU.
        gate: compare the result with the checkpoint and refuse it when they differ too much.
        progress_stream: where progress goes; None keeps silent.
    """

    checkpoint: Path
    out_dir: Path
    target: Target
    precision: str
    max_pixels: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    batch: int = 1
    quantize_vision: bool = False
    calibration: Path | None = None
    force: bool = False
    keep_graphs: bool = True
    gate: bool = True
    progress_stream: TextIO | None = None

    def __post_init__(self) -> None:
        limits = {"max_pixels": self.max_pixels, "max_new_tokens": self.max_new_tokens, "batch": self.batch}
        for name, value in limits.items():
            if value is not None and value < 1:
                raise BuildError(f"{name} of at least 1", str(value), f"raise --{name.replace('_', '-')}")
        if self.quantize_vision:
            self._require_quantized_vision()

    def require_batch_of_one(self) -> None:
        """For runtimes that answer one request at a time.

        Raises:
            BuildError: more was asked.
        """
        if self.batch != 1:
            raise BuildError(f"--batch 1 for target {self.target.name}", str(self.batch), "leave --batch out")

    def _require_quantized_vision(self) -> None:
        """The runtime must have FP8 kernels for a vision tower there, and ModelOpt a decoder to quantize beside it."""
        target = self.target
        if not target.quantizes_vision:
            able = [row.name for row in TARGETS.values() if row.quantizes_vision]
            found = f"{target.name} ({target.runtime.value}, {', '.join(target.sm) or 'no GPU'})"
            hint = f"leave --quantize-vision out, or pass --target {able[0]}"
            raise BuildError(f"a target that runs a vision tower in FP8 ({', '.join(able)})", found, hint)
        if PRECISIONS[self.precision].bits > 8:
            below = [p for p in target.precisions if PRECISIONS[p].bits <= 8]
            raise BuildError(
                f"a quantized decoder beside a quantized vision tower ({', '.join(below)})",
                f"--precision {self.precision}",
                "leave --quantize-vision out, or pass --precision fp8",
            )
