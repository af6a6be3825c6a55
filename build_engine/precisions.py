"""Precisions, one row each: what a weight is stored in, how ModelOpt makes it, what it may cost. Facts only.

Which device executes which stands with the device (`build_engine.targets`). The quantized parity bounds lie above what the shipped
checkpoint and small random ones show (docs/parity.md has the measured values) and below what any of the mistakes in
tests/build_engine/parity causes. Those of ModelOpt's checkpoints lie above Gaussian weights, the hardest to round: a layer by
itself 0.08 in FP8, 0.24 in INT4, 0.27 in NVFP4 (tests/build_engine/modelopt), two layers' logits 0.08, 0.26 and 0.27; unrelated
logits give 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from build_engine.modelopt.recipe import Recipe
from build_engine.parity.bounds import EXACT, Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One row.

    Attributes:
        bits: of a weight; the nearest precision is the one nearest in this.
        stored_bits: with its scales: INT4 has an FP16 scale for 128, NVFP4 an FP8 scale for 16.
        spellings: other names that users type.
        bounds: how far a bundle may be from its checkpoint; NVFP4 has INT4's, no bundle of it has been compared.
        recipe: ModelOpt's; None for weights that are not quantized there.
        layer_bound: of what one decoder layer of ModelOpt's checkpoint adds to a token, the error over its length, median of
            all tokens. logits_bound: of its logits, over their spread.
        edge_llm_operator: that a decoder exported by Edge-LLM must hold.
    """

    bits: int
    stored_bits: float
    bounds: Bounds
    spellings: tuple[str, ...] = ()
    recipe: Recipe | None = None
    layer_bound: float = 0.0
    logits_bound: float = 0.0
    edge_llm_operator: str | None = None


_INT4_BOUNDS = Bounds(vision=0.08, kl_nats=0.20, logits=0.40)
PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision(bits=32, stored_bits=32, bounds=EXACT),
    "fp16": Precision(
        bits=16, stored_bits=16, bounds=Bounds(vision=1e-2, kl_nats=1e-3, logits=2e-2), spellings=("half",)
    ),
    "bf16": Precision(bits=16, stored_bits=16, bounds=Bounds(vision=5e-2, kl_nats=1e-2, logits=1e-1)),
    "fp8": Precision(
        bits=8,
        stored_bits=8,
        bounds=Bounds(vision=1e-2, kl_nats=0.05, logits=0.20),
        recipe=Recipe("fp8", "FP8", "F8_E4M3", ("weight_scale", "input_scale")),
        layer_bound=0.15,
        logits_bound=0.3,
        edge_llm_operator="DequantizeLinear",
    ),
    "int8": Precision(
        bits=8,
        stored_bits=8,
        bounds=Bounds(vision=0.08, kl_nats=0.05, logits=0.20),
        spellings=("int8-sq",),
        recipe=Recipe("int8_sq", "W8A8_SQ_PER_CHANNEL", "I8", ("weight_scale", "input_scale"), smoothed=True),
        layer_bound=0.4,
        logits_bound=0.5,
        edge_llm_operator="DequantizeLinear",
    ),
    "nvfp4": Precision(
        bits=4,
        stored_bits=4 + 8 / 16,
        bounds=_INT4_BOUNDS,
        spellings=("fp4",),
        recipe=Recipe("nvfp4", "NVFP4", "U8", ("weight_scale", "weight_scale_2", "input_scale"), 16),
        layer_bound=0.45,
        logits_bound=0.7,
        edge_llm_operator="TRT_FP4DynamicQuantize",
    ),
    "int4": Precision(
        bits=4,
        stored_bits=4 + 16 / 128,
        bounds=_INT4_BOUNDS,
        spellings=("int4-awq", "w4a16-awq", "awq"),
        recipe=Recipe("int4_awq", "W4A16_AWQ", "U8", ("weight_scale",), 128, smoothed=True),
        layer_bound=0.4,
        logits_bound=0.6,
        edge_llm_operator="Int4GroupwiseGemmPluginV2",
    ),
}


def plain_name(typed: str) -> str:
    """A precision in this table's spelling; what is not known comes back in lower case."""
    plain = typed.lower().replace("_", "-")
    return next((name for name, row in PRECISIONS.items() if plain in row.spellings), plain)
