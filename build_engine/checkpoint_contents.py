"""A checkpoint's tensors against its own config: every one known, none missing, all of the shapes that the config says, and finite.

What loading would otherwise pass over in silence is found here: unmerged adapters, a head that is not there, layers more or
fewer than stated. Each error names the key. Notation of patterns: canonical names (`build_engine.checkpoint`), N a layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from build_engine.checkpoint import ROWS_AT_ONCE, Checkpoint
from build_engine.checkpoint_settings import count, require_settings
from egm_edge.errors import CheckpointError

_WB = r"\.(weight|bias)"
_TEXT = (
    r"text\.(embed_tokens|norm)\.weight|head\.weight",
    r"text\.layers\.N\.(input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)\.weight",
    r"text\.layers\.N\.self_attn\.[qkvo]_proj" + _WB,
    r"text\.layers\.N\.mlp\.(gate|up|down)_proj\.weight",
    r".*rotary_emb\.inv_freq|.*\.inv_freq",
)
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "qwen3_vl": (
        *_TEXT,
        r"vision\.(patch_embed\.proj" + _WB + r"|pos_embed\.weight)",
        r"vision\.blocks\.N\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.linear_fc1|mlp\.linear_fc2)" + _WB,
        r"vision\.(merger|deepstack_merger_list\.N)\.(norm|linear_fc1|linear_fc2)" + _WB,
    ),
    "internvl3": (
        *_TEXT,
        r"vision\.embeddings\.(cls_token|mask_token|position_embeddings|patch_embeddings\.projection" + _WB + ")",
        r"vision\.encoder\.layer\.N\.lambda_[12]",
        r"vision\.encoder\.layer\.N\.(layernorm_(before|after)|mlp\.fc[12])" + _WB,
        r"vision\.encoder\.layer\.N\.attention\.([qkv]_proj|[qk]_norm|projection_layer)" + _WB,
        r"vision\.layernorm" + _WB + r"|projector\.(layer_norm|linear_1|linear_2)" + _WB,
    ),
}
_STACKS = ("text.layers.", "vision.blocks.", "vision.encoder.layer.")  # every tensor of these is expected by name
_AGAIN = "download the checkpoint again"


def require_contents(checkpoint: Checkpoint) -> None:
    """Check settings, names and shapes; reads no weight but a head that should be the embeddings.

    Raises:
        CheckpointError: it holds what its architecture does not have, or lacks or shapes otherwise what its config says.
    """
    require_settings(checkpoint)
    checkpoint.require_complete_layers()
    _require_merged(checkpoint)
    _require_known(checkpoint)
    used = set()
    for name, shape in _expected(checkpoint):
        used.add(name)
        if name not in checkpoint:
            raise CheckpointError(f"tensor {name}, as config.json says", "no such tensor", _AGAIN)
        if checkpoint.shape(name) != shape:
            stated = f"{name} of shape {list(shape)}, as config.json says"
            raise CheckpointError(
                stated, str(list(checkpoint.shape(name))), "copy config.json and weights from one checkpoint"
            )
    for name in checkpoint.names():
        if name.startswith(_STACKS) and name not in used and not name.endswith("inv_freq"):
            raise CheckpointError(f"no {name} in layers as config.json describes them", "one", _AGAIN)
    _require_one_head(checkpoint)


def require_finite(checkpoint: Checkpoint) -> None:
    """Read every weight once, for builds that copy them as they are.

    Raises:
        CheckpointError: a NaN or an infinity.
    """
    for name in checkpoint.names():
        shape = checkpoint.shape(name)
        for start in range(0, shape[0] if shape else 0, ROWS_AT_ONCE):
            checkpoint.rows_float32(name, start, min(start + ROWS_AT_ONCE, shape[0]))


def _require_merged(checkpoint: Checkpoint) -> None:
    adapters = sorted(name for name in checkpoint.names() if "lora_" in name or ".base_layer." in name)
    if adapters:
        merge = "merge them: PeftModel.from_pretrained(model, DIR).merge_and_unload().save_pretrained(OUT)"
        raise CheckpointError("merged weights", f"{adapters[0]} (of {len(adapters)} adapter tensors)", merge)


def _require_known(checkpoint: Checkpoint) -> None:
    pattern = re.compile("|".join(_KNOWN[checkpoint.family]).replace("N", r"\d+"))
    unknown = sorted(name for name in checkpoint.names() if not pattern.fullmatch(name))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise CheckpointError(
            f"tensors of a {checkpoint.family} model only", f"{unknown[0]}{more}", "use the released checkpoint"
        )


def _expected(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes that follow from the config alone."""
    text = checkpoint.text_config
    hidden, ffn, layers = (count(text, key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads = count(text, "num_attention_heads")
    kv_heads = count(text, "num_key_value_heads") if text.get("num_key_value_heads") is not None else heads
    width = count(text, "head_dim") if text.get("head_dim") is not None else hidden // heads
    if heads % kv_heads:
        raise CheckpointError(
            "num_attention_heads a multiple of num_key_value_heads", f"{heads} and {kv_heads}", _AGAIN
        )
    vocabulary = count(text, "vocab_size")
    yield "text.embed_tokens.weight", (vocabulary, hidden)
    yield "text.norm.weight", (hidden,)
    tied = checkpoint.config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    if not tied or "head.weight" in checkpoint:
        yield "head.weight", (vocabulary, hidden)
    _require_layers(checkpoint, "text.layers", layers, "num_hidden_layers")
    normed, biased = _attention_extras(checkpoint)
    for i in range(layers):
        base = f"text.layers.{i}"
        yield f"{base}.input_layernorm.weight", (hidden,)
        yield f"{base}.post_attention_layernorm.weight", (hidden,)
        for part, rows in (("q", heads * width), ("k", kv_heads * width), ("v", kv_heads * width)):
            yield f"{base}.self_attn.{part}_proj.weight", (rows, hidden)
            if part in biased:
                yield f"{base}.self_attn.{part}_proj.bias", (rows,)
            if part in normed:
                yield f"{base}.self_attn.{part}_norm.weight", (width,)
        yield f"{base}.self_attn.o_proj.weight", (hidden, heads * width)
        if "o" in biased:
            yield f"{base}.self_attn.o_proj.bias", (hidden,)
        yield f"{base}.mlp.gate_proj.weight", (ffn, hidden)
        yield f"{base}.mlp.up_proj.weight", (ffn, hidden)
        yield f"{base}.mlp.down_proj.weight", (hidden, ffn)
    yield from _expected_vision(checkpoint)


def _attention_extras(checkpoint: Checkpoint) -> tuple[str, str]:
    """Which projections of a decoder's attention have a norm behind them, and which a bias, as transformers builds them."""
    text = checkpoint.text_config
    if checkpoint.family == "qwen3_vl" or text.get("model_type") == "qwen3":
        return "qk", "qkvo" if text.get("attention_bias") else ""
    return "", "qkv"  # Qwen2.5


def _expected_vision(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    config = checkpoint.vision_config
    width, ffn = count(config, "hidden_size"), count(config, "intermediate_size")

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (rows, columns)
        if bias:
            yield f"{name}.bias", (rows,)

    def norm(name: str, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (width,)
        if bias:
            yield f"{name}.bias", (width,)

    if checkpoint.family == "qwen3_vl":
        depth = count(config, "depth")
        _require_layers(checkpoint, "vision.blocks", depth, "depth")
        mergers = len(config.get("deepstack_visual_indexes") or ())
        _require_layers(checkpoint, "vision.deepstack_merger_list", mergers, "deepstack_visual_indexes")
        yield "vision.pos_embed.weight", (count(config, "num_position_embeddings"), width)
        for i in range(depth):
            base = f"vision.blocks.{i}"
            yield from linear(f"{base}.attn.qkv", 3 * width, width)
            yield from linear(f"{base}.attn.proj", width, width)
            yield from linear(f"{base}.mlp.linear_fc1", ffn, width)
            yield from linear(f"{base}.mlp.linear_fc2", width, ffn)
            for name in ("norm1", "norm2"):
                yield from norm(f"{base}.{name}")
        return
    depth = count(config, "num_hidden_layers")
    _require_layers(checkpoint, "vision.encoder.layer", depth, "num_hidden_layers of vision_config")
    if config.get("use_absolute_position_embeddings", True):
        patches = math.prod(_sides(config["image_size"])) // math.prod(_sides(config["patch_size"]))
        yield "vision.embeddings.position_embeddings", (1, patches + 1, width)
    for i in range(depth):
        base = f"vision.encoder.layer.{i}"
        for part in "qkv":
            yield from linear(f"{base}.attention.{part}_proj", width, width, bias=bool(config.get("attention_bias")))
        yield from linear(f"{base}.attention.projection_layer", width, width)
        yield from linear(f"{base}.mlp.fc1", ffn, width)
        yield from linear(f"{base}.mlp.fc2", width, ffn)
        for name in ("q_norm", "k_norm") if config.get("use_qk_norm") else ():
            yield from norm(f"{base}.attention.{name}", bias=False)
        for name in ("layernorm_before", "layernorm_after"):
            yield from norm(f"{base}.{name}", bias=config.get("norm_type", "layer_norm") == "layer_norm")
        for name in ("lambda_1", "lambda_2"):
            yield f"{base}.{name}", (width,)


def _sides(size: int | list[int]) -> list[int]:
    return size if isinstance(size, list) else [size, size]


def _require_one_head(checkpoint: Checkpoint) -> None:
    """A head beside `tie_word_embeddings: true` is passed over by whoever ties, so that it has to be the table."""
    table, head = "text.embed_tokens.weight", "head.weight"
    tied = checkpoint.config.get("tie_word_embeddings", checkpoint.text_config.get("tie_word_embeddings", False))
    if not tied or head not in checkpoint:
        return
    rows = checkpoint.shape(table)[0]
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        if not np.array_equal(checkpoint.rows_float32(table, start, stop), checkpoint.rows_float32(head, start, stop)):
            hint = "set it to false, or remove the head"
            raise CheckpointError("head.weight equal to the embeddings, as tie_word_embeddings says", "another one", hint)


def _require_layers(checkpoint: Checkpoint, stack: str, stated: int, key: str) -> None:
    found = {int(match[1]) for name in checkpoint.names() if (match := re.match(re.escape(stack) + r"\.(\d+)\.", name))}
    if len(found) != stated or found != set(range(stated)):
        raise CheckpointError(f"{stated} layers in {stack}, as {key} says", str(len(found)), _AGAIN)
