"""Which tensors a checkpoint has and of what shape, from its config.json alone; names as `build_engine.checkpoint` gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TensorKind:
    """Tensors of one shape.

    Attributes:
        name: canonical; ".N." stands for the number of each layer.
        layers: how many of them there are. stated_by: the key of config.json that says so, "" for a single tensor.
    """

    name: str
    shape: tuple[int, ...]
    layers: int = 1
    stated_by: str = ""

    @property
    def parameters(self) -> int:
        return self.layers * math.prod(self.shape)


def tensors_of(config: Mapping[str, Any]) -> Iterator[TensorKind]:
    """From config.json of a Qwen3-VL or InternVL3 (-hf) model; a tied head is not there."""
    yield from _decoder(config)
    tower = _qwen3_vl_tower if config["model_type"] == "qwen3_vl" else _internvl3_tower
    yield from tower(config["vision_config"], int(config["text_config"]["hidden_size"]))


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the embedding table serves as the head."""
    return bool(config.get("tie_word_embeddings", config["text_config"].get("tie_word_embeddings", False)))


def _decoder(config: Mapping[str, Any]) -> Iterator[TensorKind]:
    text, base = config["text_config"], "text.layers.N"
    hidden, wide, heads = (int(text[k]) for k in ("hidden_size", "intermediate_size", "num_attention_heads"))
    width = int(text.get("head_dim") or hidden // heads)
    queries, keys = heads * width, int(text.get("num_key_value_heads") or heads) * width
    layers = (int(text["num_hidden_layers"]), "num_hidden_layers")
    # Which projections have a norm behind them, and which a bias, as transformers builds Qwen3 and Qwen2.5.
    qwen3 = config["model_type"] == "qwen3_vl" or text.get("model_type") == "qwen3"
    normed, biased = ("qk", "qkvo" if text.get("attention_bias") else "") if qwen3 else ("", "qkv")
    yield TensorKind("text.embed_tokens.weight", (int(text["vocab_size"]), hidden))
    yield TensorKind("text.norm.weight", (hidden,))
    if not is_tied(config):
        yield TensorKind("head.weight", (int(text["vocab_size"]), hidden))
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield TensorKind(f"{base}.{name}.weight", (hidden,), *layers)
    for part, rows, columns in (("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, queries)):
        yield from _biased(f"{base}.self_attn.{part}_proj", (rows, columns), layers, part in biased)
    for part in normed:
        yield TensorKind(f"{base}.self_attn.{part}_norm.weight", (width,), *layers)
    for part, shape in (("gate", (wide, hidden)), ("up", (wide, hidden)), ("down", (hidden, wide))):
        yield TensorKind(f"{base}.mlp.{part}_proj.weight", shape, *layers)


def _qwen3_vl_tower(vision: Mapping[str, Any], out: int) -> Iterator[TensorKind]:
    width, wide, side = (int(vision[k]) for k in ("hidden_size", "intermediate_size", "patch_size"))
    merged = width * int(vision.get("spatial_merge_size", 2)) ** 2
    yield from _biased("vision.patch_embed.proj", (width, 3, int(vision["temporal_patch_size"]), side, side))
    yield TensorKind("vision.pos_embed.weight", (int(vision["num_position_embeddings"]), width))
    block, layers = "vision.blocks.N", (int(vision["depth"]), "depth")
    for name in ("norm1", "norm2"):
        yield from _biased(f"{block}.{name}", (width,), layers)
    yield from _biased(f"{block}.attn.qkv", (3 * width, width), layers)
    yield from _biased(f"{block}.attn.proj", (width, width), layers)
    yield from _biased(f"{block}.mlp.linear_fc1", (wide, width), layers)
    yield from _biased(f"{block}.mlp.linear_fc2", (width, wide), layers)
    deepstack = (len(vision.get("deepstack_visual_indexes") or ()), "deepstack_visual_indexes")
    for merger, normed, layers in (("merger", width, (1, "")), ("deepstack_merger_list.N", merged, deepstack)):
        yield from _biased(f"vision.{merger}.norm", (normed,), layers)
        yield from _biased(f"vision.{merger}.linear_fc1", (merged, merged), layers)
        yield from _biased(f"vision.{merger}.linear_fc2", (out, merged), layers)


def _internvl3_tower(vision: Mapping[str, Any], out: int) -> Iterator[TensorKind]:
    width, wide = int(vision["hidden_size"]), int(vision["intermediate_size"])
    image, patch = (v if isinstance(v, list) else [v, v] for v in (vision["image_size"], vision["patch_size"]))
    yield TensorKind("vision.embeddings.cls_token", (1, 1, width))
    yield from _biased("vision.embeddings.patch_embeddings.projection", (width, 3, *patch))
    if vision.get("use_absolute_position_embeddings", True):
        yield TensorKind("vision.embeddings.position_embeddings", (1, math.prod(image) // math.prod(patch) + 1, width))
    if not vision.get("use_mean_pooling", True):
        yield from _biased("vision.layernorm", (width,))
    layer, layers = "vision.encoder.layer.N", (int(vision["num_hidden_layers"]), "num_hidden_layers of vision_config")
    for part in "qkv":
        yield from _biased(f"{layer}.attention.{part}_proj", (width, width), layers, bool(vision.get("attention_bias")))
    yield from _biased(f"{layer}.attention.projection_layer", (width, width), layers)
    yield from _biased(f"{layer}.mlp.fc1", (wide, width), layers)
    yield from _biased(f"{layer}.mlp.fc2", (width, wide), layers)
    for name in ("q_norm", "k_norm") if vision.get("use_qk_norm") else ():
        yield TensorKind(f"{layer}.attention.{name}.weight", (width,), *layers)
    for name in ("layernorm_before", "layernorm_after"):
        yield from _biased(f"{layer}.{name}", (width,), layers, vision.get("norm_type", "layer_norm") == "layer_norm")
    for name in ("lambda_1", "lambda_2"):
        yield TensorKind(f"{layer}.{name}", (width,), *layers)
    yield from _biased("projector.layer_norm", (4 * width,))
    yield from _biased("projector.linear_1", (out, 4 * width))
    yield from _biased("projector.linear_2", (out, out))


def _biased(
    name: str, shape: tuple[int, ...], layers: tuple[int, str] = (1, ""), bias: bool = True
) -> Iterator[TensorKind]:
    yield TensorKind(f"{name}.weight", shape, *layers)
    if bias:
        yield TensorKind(f"{name}.bias", shape[:1], *layers)
