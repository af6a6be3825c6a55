"""Random Qwen3-VL checkpoints of published widths, streamed to disk without ever holding a model in memory.

`python -m tests.support.large_checkpoints 2b DIR` writes one. For speed and memory checks only: bfloat16 shards with an
index, as the published checkpoints have them. Weights are normal (0.02), norms near one, biases near zero. Needs neither
torch nor transformers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import BinaryIO

import numpy as np

from egm_edge.files import write_json
from tests.support import chat_templates
from tests.support.qwen_tokenizer import byte_tokenizer, qwen_tokenizer, qwen_vocabulary_available
from tests.support.token_files import qwen_image_processor, save_tokenizer

SHARD_BYTES = 1 << 30
CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class Qwen3VLDims:
    """Widths of one published size; the vision tower of 2B and 4B is the same but for its output."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool = True
    head_dim: int = 128
    vocab: int = 151936
    vision_hidden: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vision_ffn: int = 4096
    positions: int = 2304
    deepstack: tuple[int, ...] = (5, 11, 17)


PRESETS = {
    "2b": Qwen3VLDims(hidden=2048, ffn=6144, layers=28, heads=16, kv_heads=8),
    "egm-4b-widths": Qwen3VLDims(hidden=2560, ffn=9728, layers=36, heads=32, kv_heads=8),
    "8b": Qwen3VLDims(
        hidden=4096, ffn=12288, layers=36, heads=32, kv_heads=8, tied=False,
        vision_hidden=1152, vision_layers=27, vision_ffn=4304, deepstack=(8, 16, 24),
    ),
}  # fmt: skip


def write_qwen3_vl_dims(
    directory: Path | str,
    preset: str = "egm-4b-widths",
    *,
    text_layers: int | None = None,
    vision_layers: int | None = None,
    seed: int = 0,
    min_pixels: int = 65536,
    max_pixels: int = 16777216,
) -> Path:
    """A random bfloat16 checkpoint directory of the widths of `preset`.

    Args:
        preset: "2b" (2.1 B parameters, 4.3 GB on disk), "egm-4b-widths" (4.4 B, 8.9 GB with all layers) or "8b" (17.5 GB).
        text_layers, vision_layers: fewer layers than the published size; deep-stack indexes shrink with the tower.

    Uses the true vocabulary where it is available, else the byte one (the embedding table keeps its 151,936 rows).
    """
    dims = PRESETS[preset]
    text_layers = dims.layers if text_layers is None else text_layers
    depth = dims.vision_layers if vision_layers is None else vision_layers
    deepstack = sorted({i * depth // dims.vision_layers for i in dims.deepstack})[:text_layers]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shapes = dict(_shapes(dims, text_layers, depth, len(deepstack)))
    _write_shards(directory, shapes, np.random.default_rng(seed))
    tokenizer = qwen_tokenizer() if qwen_vocabulary_available() else byte_tokenizer()
    save_tokenizer(directory, tokenizer, model_max_length=262144)
    ids = {t: tokenizer.token_to_id(f"<|{t}|>") for t in ("endoftext", "im_end", "image_pad", "video_pad")}
    vision_ids = [tokenizer.token_to_id(f"<|vision_{t}|>") for t in ("start", "end")]
    write_json(directory / "config.json", _config(dims, text_layers, depth, deepstack, ids, vision_ids))
    ends = [ids["im_end"], ids["endoftext"]]
    write_json(
        directory / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False}
    )
    (directory / "chat_template.jinja").write_text(chat_templates.QWEN3_VL_THINKING, encoding="utf-8")
    write_json(directory / "preprocessor_config.json", qwen_image_processor(min_pixels, max_pixels))
    return directory


def _shapes(dims: Qwen3VLDims, text_layers: int, depth: int, mergers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    text, visual = "model.language_model", "model.visual"
    d, q, kv = dims.hidden, dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    yield f"{text}.embed_tokens.weight", (dims.vocab, d)
    for i in range(text_layers):
        layer = f"{text}.layers.{i}"
        for name, rows, columns in (
            ("self_attn.q_proj", q, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, q),
            ("mlp.gate_proj", dims.ffn, d),
            ("mlp.up_proj", dims.ffn, d),
            ("mlp.down_proj", d, dims.ffn),
        ):
            yield f"{layer}.{name}.weight", (rows, columns)
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            yield f"{layer}.{name}.weight", (dims.head_dim,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{name}.weight", (d,)
    yield f"{text}.norm.weight", (d,)
    if not dims.tied:
        yield "lm_head.weight", (dims.vocab, d)

    def affine(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{visual}.{name}.weight", shape
        yield f"{visual}.{name}.bias", shape[:1]

    v, merged = dims.vision_hidden, dims.vision_hidden * 4
    yield from affine("patch_embed.proj", v, 3, 2, 16, 16)
    yield f"{visual}.pos_embed.weight", (dims.positions, v)
    for i in range(depth):
        for name, *shape in (
            ("norm1", v),
            ("norm2", v),
            ("attn.qkv", 3 * v, v),
            ("attn.proj", v, v),
            ("mlp.linear_fc1", dims.vision_ffn, v),
            ("mlp.linear_fc2", v, dims.vision_ffn),
        ):
            yield from affine(f"blocks.{i}.{name}", *shape)
    for name in ("merger", *(f"deepstack_merger_list.{i}" for i in range(mergers))):
        yield from affine(f"{name}.norm", v if name == "merger" else merged)
        yield from affine(f"{name}.linear_fc1", merged, merged)
        yield from affine(f"{name}.linear_fc2", d, merged)


def _write_shards(directory: Path, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    quantiles = _normal_quantiles_bf16()
    weight_map = {}
    for i, names in enumerate(shards):
        file_name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file_name)
        with open(directory / file_name, "wb") as file:
            _write_header(file, {name: shapes[name] for name in names})
            for name in names:
                _write_values(file, name, int(np.prod(shapes[name])), quantiles, rng)
    total = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / "model.safetensors.index.json", index)


def _write_header(file: BinaryIO, shapes: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _write_values(file: BinaryIO, name: str, count: int, quantiles: np.ndarray, rng: np.random.Generator) -> None:
    if "norm" in name and name.endswith("weight"):
        file.write(_to_bf16(1.0 + 0.1 * rng.standard_normal(count, np.float32)).tobytes())
        return
    for at in range(0, count, CHUNK_VALUES):
        n = min(CHUNK_VALUES, count - at)
        file.write(quantiles[np.frombuffer(rng.bytes(2 * n), np.uint16)].tobytes())


def _normal_quantiles_bf16() -> np.ndarray:
    """65,536 quantiles of N(0, 0.02): a random uint16 picks a normal value for the price of a table look-up."""
    normal = NormalDist(0.0, 0.02)
    return _to_bf16(np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32))


def _to_bf16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _config(
    dims: Qwen3VLDims, text_layers: int, depth: int, deepstack: list[int], ids: dict[str, int], vision_ids: list[int]
) -> dict[str, object]:
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": ids["image_pad"],
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": ids["endoftext"],
            "dtype": "bfloat16",
            "eos_token_id": ids["im_end"],
            "head_dim": dims.head_dim,
            "hidden_act": "silu",
            "hidden_size": dims.hidden,
            "initializer_range": 0.02,
            "intermediate_size": dims.ffn,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": dims.heads,
            "num_hidden_layers": text_layers,
            "num_key_value_heads": dims.kv_heads,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "tie_word_embeddings": dims.tied,
            "use_cache": True,
            "vocab_size": dims.vocab,
        },
        "tie_word_embeddings": dims.tied,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": ids["video_pad"],
        "vision_config": {
            "deepstack_visual_indexes": deepstack,
            "depth": depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": dims.vision_hidden,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": dims.vision_ffn,
            "model_type": "qwen3_vl",
            "num_heads": dims.vision_heads,
            "num_position_embeddings": dims.positions,
            "out_hidden_size": dims.hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_start_token_id": vision_ids[0],
        "vision_end_token_id": vision_ids[1],
    }


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in PRESETS:
        raise SystemExit(f"usage: python -m tests.support.large_checkpoints {{{','.join(PRESETS)}}} DIR")
    print(write_qwen3_vl_dims(sys.argv[2], sys.argv[1]))
