"""The decoder graphs of both families (Qwen3 with q/k norms, Qwen2.5 with q/k/v biases) and the head graph.

The decoder takes embeddings and gives every position's normed hidden state; embedding lookup and head stay outside, so
that prefill and decode graphs share one table and one head, and only asked-for positions pay for the head. Position
enters as a cos/sin table indexed by place in the sequence: M-RoPE and plain RoPE are the same graph.

Shapes: B sequences, n fed tokens of each, C cache capacity, H hidden size, kv key/value heads, d head size, V vocabulary size.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from build_engine.checkpoint import Checkpoint
from build_engine.exporters.graph import GraphWriter, WeightFormat, write_linear
from egm_edge.backends.onnx_runtime.config import kernel_head_dim
from egm_edge.families.decoder_shape import DecoderShape


def decoder_shape(checkpoint: Checkpoint) -> DecoderShape:
    """Of a checkpoint."""
    return DecoderShape.of(
        checkpoint.text_config,
        str(checkpoint.config["model_type"]),
        query_rows=checkpoint.shape("text.layers.0.self_attn.q_proj.weight")[0],
        vocab=checkpoint.shape("text.embed_tokens.weight")[0],
        tied_head="head.weight" not in checkpoint,
    )


def write_decoder(
    checkpoint: Checkpoint, shape: DecoderShape, path: Path, fmt: WeightFormat, *, block_size: int, deepstack: int
) -> None:
    """Write the decoder graph.

    Inputs: embeds f32 [B, n, H]; deepstack_i f32 [B, n, H], zero on text tokens (only with `deepstack`); seqlens_k i32 [B]
    (tokens in the cache after this call, minus one, by sequence); total_length i32 [1], the longest; cos, sin f32 [C, d/2],
    row i for place i; past_key_i, past_value_i f32 [B, kv, C, D] with D the kernel's head size (`kernel_head_dim`), d padded
    with zeros. Outputs: hidden f32 [B, n, H] after the final norm; present_key_i, present_value_i, to be bound to the
    past's buffers. Attention takes several new tokens of one sequence, or one new token of each of several (B or n is 1).

    Args:
        deepstack: how many deep-stack features are added, after layers 0, 1, …
    """
    with GraphWriter(path, block_size=block_size) as graph:
        layer = _LayerWriter(checkpoint, shape, graph, fmt)
        x = graph.input("embeds", np.float32, ["batch", "n", shape.hidden])
        extras = [graph.input(f"deepstack_{i}", np.float32, ["batch", "n", shape.hidden]) for i in range(deepstack)]
        shared = (
            graph.input("seqlens_k", np.int32, ["batch"]),
            graph.input("total_length", np.int32, [1]),
            *(
                layer.padded_table(graph.input(name, np.float32, ["capacity", shape.head_dim // 2]))
                for name in ("cos", "sin")
            ),
        )
        update: str | None = None
        for i in range(shape.layers):
            x, normed = layer.add_and_norm(x, update, f"text.layers.{i}.input_layernorm.weight")
            x, normed = layer.add_and_norm(
                x, layer.attention(normed, i, shared), f"text.layers.{i}.post_attention_layernorm.weight"
            )
            update = layer.feed_forward(normed, i)
            if i < deepstack:
                update = graph.op("Add", update, extras[i])
        _, hidden = layer.add_and_norm(x, update, "text.norm.weight")
        graph.output(hidden, np.float32, ["batch", "n", shape.hidden], name="hidden")


def write_head(checkpoint: Checkpoint, shape: DecoderShape, graph: GraphWriter, fmt: WeightFormat) -> None:
    """Write the head graph of any runtime: hidden f32 [1, n, H] to logits f32 [1, n, V]."""
    name = "text.embed_tokens.weight" if shape.tied_head else "head.weight"
    with graph:
        hidden = graph.input("hidden", np.float32, [1, "n", shape.hidden])
        rows = partial(checkpoint.rows_float32, name)
        logits = graph.linear(hidden, "head", (shape.vocab, shape.hidden), rows, fmt)
        graph.output(logits, np.float32, [1, "n", shape.vocab], name="logits")


class _LayerWriter:
    """The parts of one decoder layer."""

    def __init__(self, checkpoint: Checkpoint, shape: DecoderShape, graph: GraphWriter, fmt: WeightFormat) -> None:
        self.checkpoint, self.shape, self.graph, self.fmt = checkpoint, shape, graph, fmt

    def add_and_norm(self, x: str, update: str | None, name: str) -> tuple[str, str]:
        """(x + update, its RMS norm)."""
        weight = self.checkpoint.float32(name)
        if update is None:
            return x, self.graph.rms_norm(x, name, weight, self.shape.rms_epsilon)
        gamma = self.graph.weight(name, weight)
        normed, total = f"{name}.normed", f"{name}.sum"
        self.graph.contrib(
            "SkipSimplifiedLayerNormalization",
            x,
            update,
            gamma,
            names=[normed, "", "", total],
            epsilon=self.shape.rms_epsilon,
        )
        return total, normed

    def linears(self, x: str, *names: str) -> list[str]:
        """Several linear layers of one input. Block formats run them as one product and split the result: a decode step is
        a chain of small parallel regions, and waking the threads costs as much as a small product."""
        checkpoint = self.checkpoint
        if self.fmt is WeightFormat.W8A8 or len(names) == 1:
            return [write_linear(self.graph, checkpoint, x, name, self.fmt) for name in names]
        weights, biases = [f"{name}.weight" for name in names], [f"{name}.bias" for name in names]
        sizes = [checkpoint.shape(weight)[0] for weight in weights]
        fused = (sum(sizes), checkpoint.shape(weights[0])[1])
        biased = all(name in checkpoint for name in biases)
        bias = np.concatenate([checkpoint.float32(name) for name in biases]) if biased else None
        y = self.graph.linear(
            x, "+".join(names), fused, partial(checkpoint.joined_rows_float32, weights), self.fmt, bias
        )
        return list(self.graph.op("Split", y, self.graph.constant(sizes, np.int64), outputs=len(names), axis=-1))

    def linear(self, x: str, name: str) -> str:
        return self.linears(x, name)[0]

    def attention(self, x: str, i: int, shared: tuple[str, ...]) -> str:
        base, shape, graph = f"text.layers.{i}.self_attn", self.shape, self.graph
        query, key, value = self.linears(x, *(f"{base}.{part}_proj" for part in "qkv"))
        if f"{base}.q_norm.weight" in self.checkpoint:
            query = self._head_norm(query, f"{base}.q_norm.weight", shape.heads)
            key = self._head_norm(key, f"{base}.k_norm.weight", shape.kv_heads)
        query, key, value = (
            self._padded(part, heads)
            for part, heads in ((query, shape.heads), (key, shape.kv_heads), (value, shape.kv_heads))
        )
        cache_shape: list[int | str] = ["batch", shape.kv_heads, "capacity", kernel_head_dim(shape.head_dim)]
        past = [graph.input(f"past_{part}_{i}", np.float32, cache_shape) for part in ("key", "value")]
        present = [f"present_{part}_{i}" for part in ("key", "value")]
        attended, *_ = graph.contrib(
            "GroupQueryAttention",
            *(query, key, value, *past, *shared),
            names=[f"{base}.attended", *present],
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=1,
            scale=shape.head_dim**-0.5,
        )
        for name in present:
            graph.output(name, np.float32, cache_shape)
        return self.linear(self._unpadded(attended), f"{base}.o_proj")

    def feed_forward(self, x: str, i: int) -> str:
        base, graph = f"text.layers.{i}.mlp", self.graph
        gate, up = self.linears(x, f"{base}.gate_proj", f"{base}.up_proj")
        activated = graph.op("Mul", graph.contrib("QuickGelu", gate, alpha=1.0), up)  # alpha 1 is SiLU
        return self.linear(activated, f"{base}.down_proj")

    def padded_table(self, table: str) -> str:
        """A rotary table [C, d/2] at the kernel's head size."""
        extra = kernel_head_dim(self.shape.head_dim) // 2 - self.shape.head_dim // 2
        return str(self.graph.op("Pad", table, self.graph.constant([0, 0, 0, extra], np.int64))) if extra else table

    def _padded(self, x: str, heads: int) -> str:
        """[B, n, heads * d] at the kernel's head size: zeros behind both halves of a head, which rotary angles pair up."""
        graph, half, kernel = self.graph, self.shape.head_dim // 2, kernel_head_dim(self.shape.head_dim)
        if kernel == 2 * half:
            return x
        halves = graph.op("Reshape", x, graph.constant([0, 0, heads, 2, half], np.int64))
        padded = graph.op("Pad", halves, graph.constant([0] * 9 + [kernel // 2 - half], np.int64))
        return str(graph.op("Reshape", padded, graph.constant([0, 0, heads * kernel], np.int64)))

    def _unpadded(self, x: str) -> str:
        """Inverse of `_padded` for all query heads."""
        graph, heads, half = self.graph, self.shape.heads, self.shape.head_dim // 2
        kernel = kernel_head_dim(self.shape.head_dim)
        if kernel == 2 * half:
            return x
        halves = graph.op("Reshape", x, graph.constant([0, 0, heads, 2, kernel // 2], np.int64))
        starts, stops, axes = (graph.constant([value], np.int64) for value in (0, half, 4))
        return str(
            graph.op(
                "Reshape",
                graph.op("Slice", halves, starts, stops, axes),
                graph.constant([0, 0, heads * 2 * half], np.int64),
            )
        )

    def _head_norm(self, x: str, name: str, heads: int) -> str:
        graph, d = self.graph, self.shape.head_dim
        split = graph.op("Reshape", x, graph.constant([0, 0, heads, d], np.int64))
        normed = graph.rms_norm(split, name, self.checkpoint.float32(name), self.shape.rms_epsilon)
        return str(graph.op("Reshape", normed, graph.constant([0, 0, heads * d], np.int64)))


def engine_section(shape: DecoderShape) -> dict[str, Any]:
    """The decoder's part of a manifest's `model` section."""
    return {
        "hidden_size": shape.hidden,
        "layers": shape.layers,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "rope_theta": shape.rope_theta,
        "mrope_section": list(shape.mrope_section) if shape.mrope_section else None,
        "max_positions": shape.max_positions,
    }
