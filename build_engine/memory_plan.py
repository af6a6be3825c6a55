"""The memory plan: what a model needs on a device and on the host, from config.json alone, before any work is done.

Pure arithmetic over published shapes. Weights and KV cache are exact; activations are estimates of the largest tensors alive
at once; the runtime's own share is what NVIDIA's published totals leave over (docs/targets.md shows both side by side).
GB are 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from build_engine.checkpoint_tensors import is_tied, tensors_of
from build_engine.precisions import PRECISIONS
from build_engine.targets import Runtime, Target
from egm_edge.errors import BuildError
from egm_edge.pixels import TILES, PixelSpec

GB = 1e9
PROMPT_TEXT_TOKENS = 256  # chat template, task text and a long expression
PAGE_TOKENS = 128
# CUDA context, plugins, engine workspace. Edge-LLM: what is left of the published totals of Qwen3-VL 2B, 4B and 8B on AGX
# Orin after weights and cache. The others are assumptions.
RUNTIME_GB: Mapping[Runtime, float] = {
    Runtime.EDGE_LLM: 1.5, Runtime.TENSORRT_RTX: 1.0, Runtime.TENSORRT_LLM: 3.0, Runtime.OPENAI_SERVER: 3.0,
    Runtime.PYTORCH: 1.5,
}  # fmt: skip
ENGINE_BUILD_FACTOR = 3.5  # host memory over parameter bytes, users' reports (TensorRT-Edge-LLM issue 30: 3 to 4)
EXPORT_FACTOR = 2.0  # host memory over checkpoint bytes: 1.9 measured with EGM-4B widths


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters of a model by part, and what its caches and activations depend on.

    Attributes:
        decoder: parameters of all decoder layers. table: of the embedding table; the head is as large again, tied or not,
            for every runtime here stores both. vision: of the vision tower and its mergers.
        kv_values: key and value numbers that one token leaves in the cache, all layers together.
    """

    decoder: int
    table: int
    vision: int
    kv_values: int
    hidden: int
    feed_forward: int
    vocab: int
    vision_hidden: int
    vision_feed_forward: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelSize:
        """From config.json of a Qwen3-VL or InternVL3 (-hf) model."""
        text, vision = config["text_config"], config["vision_config"]
        tensors = list(tensors_of(config))

        def parameters(*parts: str) -> int:
            return sum(tensor.parameters for tensor in tensors if tensor.name.startswith(parts))

        cached = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
        return cls(
            decoder=parameters("text.layers.", "text.norm."),
            table=parameters("text.embed_tokens."),
            vision=parameters("vision.", "projector."),
            kv_values=sum(tensor.layers * tensor.shape[0] for tensor in tensors if tensor.name.endswith(cached)),
            hidden=int(text["hidden_size"]),
            feed_forward=int(text["intermediate_size"]),
            vocab=int(text["vocab_size"]),
            vision_hidden=int(vision["hidden_size"]),
            vision_feed_forward=int(vision["intermediate_size"]),
            tied=is_tied(config),
        )

    @property
    def parameters(self) -> int:
        """As the checkpoint counts them: a tied head once."""
        return self.decoder + self.vision + self.table * (1 if self.tied else 2)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine is sized for.

    Attributes:
        image_tokens: of the largest picture; patches: vision patches behind them.
    """

    image_tokens: int
    patches: int
    max_new_tokens: int
    batch: int

    @classmethod
    def of(cls, spec: PixelSpec, max_new_tokens: int, batch: int) -> EngineLimits:
        tokens = max_image_tokens(spec)
        per_token = spec.merge_size**2 if spec.rule != TILES else 4
        return cls(tokens, tokens * per_token, max_new_tokens, batch)

    @property
    def input_tokens(self) -> int:
        return self.image_tokens + PROMPT_TEXT_TOKENS

    @property
    def kv_tokens(self) -> int:
        """Cache places of one sequence, whole pages."""
        return -(-(self.input_tokens + self.max_new_tokens) // PAGE_TOKENS) * PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """GB by use. `weights` to `runtime` are needed on the device at once; the last two are peaks of their own.

    Attributes:
        engine_build: while the engine is built on the device.
        host_export: on the host that quantizes and exports.
    """

    weights: float
    kv_cache: float
    vision_activations: float
    decoder_activations: float
    runtime: float
    engine_build: float
    host_export: float

    @property
    def device(self) -> float:
        """Needed on the device while it answers."""
        return self.weights + self.kv_cache + self.vision_activations + self.decoder_activations + self.runtime

    def to_dict(self) -> dict[str, float]:
        """JSON-ready, rounded to MB."""
        return {name: round(value, 3) for name, value in (asdict(self) | {"device": self.device}).items()}

    def swap(self, target: Target) -> float:
        """Swap that the engine build needs on the device, 0 where memory suffices."""
        if target.usable_gb is None or not target.shared_memory:
            return 0.0
        return max(0.0, self.engine_build - target.usable_gb)


def max_image_tokens(spec: PixelSpec) -> int:
    """Image tokens of the largest picture that the spec lets through."""
    if spec.rule == TILES:
        return (spec.max_tiles + (spec.max_tiles > 1)) * spec.tokens_per_tile
    return max(1, spec.max_pixels // (spec.patch_size * spec.merge_size) ** 2)


def plan(
    size: ModelSize, limits: EngineLimits, precision: str, runtime: Runtime, vision_precision: str | None = None
) -> MemoryPlan:
    """What `size` needs at `precision` within `limits`; the vision tower in 16 bits unless told otherwise."""
    decoder_bytes = size.decoder * PRECISIONS[precision].stored_bits / 8
    head_bytes = table_bytes = size.table * 2
    vision_bytes = size.vision * PRECISIONS[vision_precision or "fp16"].stored_bits / 8
    # Residual, Q, K, V, attention output and the feed-forward's middle are alive together; attention itself is fused.
    vision_live = limits.patches * (5 * size.vision_hidden + size.vision_feed_forward) * 2
    decoder_live = limits.input_tokens * (4 * size.hidden + 3 * size.feed_forward) * 2 + size.vocab * 4
    return MemoryPlan(
        weights=(decoder_bytes + head_bytes + table_bytes + vision_bytes) / GB,
        kv_cache=size.kv_values * 2 * limits.kv_tokens * limits.batch / GB,
        vision_activations=vision_live * limits.batch / GB,
        decoder_activations=decoder_live * limits.batch / GB,
        runtime=RUNTIME_GB.get(runtime, 0.5),
        engine_build=ENGINE_BUILD_FACTOR * (decoder_bytes + head_bytes) / GB,
        host_export=EXPORT_FACTOR * size.parameters * 2 / GB,
    )


def require_fit(
    config: Mapping[str, Any],
    spec: PixelSpec,
    target: Target,
    precision: str,
    *,
    max_new_tokens: int,
    batch: int,
    vision_precision: str | None = None,
) -> MemoryPlan:
    """The plan, when it fits the target's usable memory.

    Raises:
        BuildError: it does not; the message names the nearest setting that does.
    """
    size = ModelSize.of(config)
    wanted = plan(size, EngineLimits.of(spec, max_new_tokens, batch), precision, target.runtime, vision_precision)
    usable = target.usable_gb
    if usable is None or wanted.device <= usable:
        return wanted
    parts = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in list(asdict(wanted).items())[:5])
    hint = nearest_fit(size, spec, target, precision, max_new_tokens=max_new_tokens, batch=batch)
    raise BuildError(
        f"a model that fits the {usable:g} GB assumed usable on {target.name}",
        f"{wanted.device:.1f} GB ({parts})",
        f"pass {hint}" if hint else "choose a smaller model or a larger device (`egm targets`)",
    )


def nearest_fit(
    size: ModelSize, spec: PixelSpec, target: Target, precision: str, *, max_new_tokens: int, batch: int
) -> str | None:
    """The flags of the mildest change that fits: fewer requests at once, smaller pictures, shorter replies, fewer bits; then
    all of them together. None when nothing does."""
    usable = target.usable_gb or float("inf")
    lower = [p for p in target.precisions if PRECISIONS[p].stored_bits < PRECISIONS[precision].stored_bits]
    lower.sort(key=lambda p: -PRECISIONS[p].stored_bits)
    areas = [area for area in (2_097_152, 1_048_576, 786_432, 524_288, 262_144) if area < spec.area]
    batches = [n for n in (8, 4, 2, 1) if n < batch]
    replies = [n for n in (512, 256) if n < max_new_tokens]
    changes: list[tuple[int, int | None, int, str]] = [(n, None, max_new_tokens, precision) for n in batches]
    changes += [(batch, area, max_new_tokens, precision) for area in areas]
    changes += [(batch, None, n, precision) for n in replies]
    changes += [(batch, None, max_new_tokens, p) for p in lower]
    changes += [
        (1, area, n, p) for p in (precision, *lower) for n in (max_new_tokens, *replies) for area in (None, *areas)
    ]
    for n, area, tokens, p in changes:
        changed = spec if area is None else spec.with_max_pixels(area)
        if plan(size, EngineLimits.of(changed, tokens, n), p, target.runtime).device <= usable:
            flags = [f"--batch {n}"] if n != batch else []
            flags += [f"--max-pixels {area}"] if area else []
            flags += [f"--max-new-tokens {tokens}"] if tokens != max_new_tokens else []
            flags += [f"--precision {p}"] if p != precision else []
            return " ".join(flags)
    return None
