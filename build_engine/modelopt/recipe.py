"""Recipe: a precision in ModelOpt's words (`build_engine.precisions` has one each). Numbers: what a runtime computes with."""

from __future__ import annotations

from dataclasses import dataclass

VISION_ALGORITHM = "FP8"  # the one format that ModelOpt's recipes have for a vision tower
MIXED = "MIXED_PRECISION"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One precision.

    Attributes:
        name: of ModelOpt's recipe.
        algorithm: `quant_algo` in hf_quant_config.json.
        stored: safetensors dtype of a packed weight. scales: tensors that belong to one.
        multiple: that a packed layer's inputs are of (a group that shares a scale).
        smoothed: layers may have a pre_quant_scale, which the runtime multiplies their inputs by.
    """

    name: str
    algorithm: str
    stored: str
    scales: tuple[str, ...]
    multiple: int = 1
    smoothed: bool = False

    def quant_algo(self, vision: bool) -> str:
        """What hf_quant_config.json says of the whole: one format, or a mixture."""
        return MIXED if vision and self.algorithm != VISION_ALGORITHM else self.algorithm


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a runtime computes with.

    Attributes:
        weights: torch dtype of what is not packed, and of its arithmetic. scales: of the scales it multiplies by.
        int4_tile: linear layers whose sides are no multiples of it stay unpacked in INT4.
    """

    weights: str
    scales: str
    int4_tile: int


# Int4GroupwiseGemmPluginV2 packs 64 x 64 blocks; other layers stay FP16, as upstream leaves them.
EDGE_LLM_NUMBERS = Numbers("float16", "float16", 64)
SERVER_NUMBERS = Numbers("bfloat16", "float32", 1)
