"""The decoder in standard ONNX operators: keys and values in and out, one sequence.

The cache is laid out by token, [P, kv, d], so that the runtime forgets tokens by handing in a shorter view of the same
memory. Angles, mask and deep-stack features come from the host, which knows positions; the graph knows none.

Shapes: n fed tokens, P tokens in the cache, H hidden size, kv key/value heads, g query heads of each, d head size.
"""

from __future__ import annotations

import numpy as np

from build_engine.checkpoint import Checkpoint
from build_engine.exporters.graph import WeightFormat, write_linear
from build_engine.exporters.portable_graph import PortableGraphWriter
from egm_edge.families.decoder_shape import DecoderShape


def write_portable_decoder(
    checkpoint: Checkpoint, shape: DecoderShape, graph: PortableGraphWriter, fmt: WeightFormat, *, deepstack: int
) -> None:
    """Write the decoder graph, its linear layers in `fmt`.

    Inputs: embeds f32 [1, n, H]; deepstack_i f32 [1, n, H], zero on text tokens; cos, sin f32 [n, d/2] of the fed tokens;
    mask f32 [n, P + n], added to attention scores; past_key_i, past_value_i [P, kv, d] in the graph's precision.
    Outputs: hidden f32 [1, n, H] after the final norm; present_key_i, present_value_i [P + n, kv, d].
    """
    with graph:
        layers = _Layers(checkpoint, shape, graph, fmt)
        x = graph.input("embeds", np.float32, [1, "n", shape.hidden])
        extras = [graph.input(f"deepstack_{i}", np.float32, [1, "n", shape.hidden]) for i in range(deepstack)]
        angles = [graph.input(name, np.float32, ["n", shape.head_dim // 2]) for name in ("cos", "sin")]
        mask = graph.input("mask", np.float32, ["n", "total"])
        for i in range(shape.layers):
            base = f"text.layers.{i}"
            x = graph.op("Add", x, layers.attention(layers.norm(x, f"{base}.input_layernorm"), i, angles, mask))
            x = graph.op("Add", x, layers.feed_forward(layers.norm(x, f"{base}.post_attention_layernorm"), i))
            if i < deepstack:
                x = graph.op("Add", x, extras[i])
        graph.output(layers.norm(x, "text.norm"), np.float32, [1, "n", shape.hidden], name="hidden")


class _Layers:
    """The parts of a decoder layer."""

    def __init__(
        self, checkpoint: Checkpoint, shape: DecoderShape, graph: PortableGraphWriter, fmt: WeightFormat
    ) -> None:
        self.checkpoint, self.shape, self.graph, self.fmt = checkpoint, shape, graph, fmt

    def norm(self, x: str, name: str) -> str:
        weight = self.checkpoint.float32(f"{name}.weight")
        return self.graph.rms_norm(x, f"{name}.weight", weight, self.shape.rms_epsilon)

    def linear(self, x: str, name: str) -> str:
        return write_linear(self.graph, self.checkpoint, x, name, self.fmt)

    def attention(self, x: str, i: int, angles: list[str], mask: str) -> str:
        base, shape, graph = f"text.layers.{i}.self_attn", self.shape, self.graph
        kv, groups, d = shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim
        query, key = (
            self._turned(x, f"{base}.{part}", heads, angles) for part, heads in (("q", shape.heads), ("k", kv))
        )
        value = self.linear(x, f"{base}.v_proj")
        keys, values = (self._remembered(part, name, i) for part, name in ((key, "key"), (value, "value")))
        query_heads = graph.op("Transpose", graph.reshaped(query, 0, -1, kv, groups, d), perm=[0, 2, 3, 1, 4])
        key_heads = graph.op("Unsqueeze", graph.op("Transpose", keys, perm=[1, 2, 0]), graph.constant([0, 2], np.int64))
        value_heads = graph.op(
            "Unsqueeze", graph.op("Transpose", values, perm=[1, 0, 2]), graph.constant([0, 2], np.int64)
        )
        attended = graph.attention(query_heads, key_heads, value_heads, d**-0.5, mask)  # [1, kv, g, n, d]
        by_token = graph.op("Transpose", attended, perm=[0, 3, 1, 2, 4])
        return self.linear(graph.reshaped(by_token, 0, -1, shape.heads * d), f"{base}.o_proj")

    def feed_forward(self, x: str, i: int) -> str:
        base, graph = f"text.layers.{i}.mlp", self.graph
        gate, up = (self.linear(x, f"{base}.{part}_proj") for part in ("gate", "up"))
        silu = graph.op("Mul", gate, graph.op("Sigmoid", gate))
        return self.linear(graph.op("Mul", silu, up), f"{base}.down_proj")

    def _turned(self, x: str, base: str, heads: int, angles: list[str]) -> str:
        """Query or key [1, n, heads * d], normed where the architecture does, at its rotary position."""
        graph, name = self.graph, f"{base}_norm.weight"
        part = self.linear(x, f"{base}_proj")
        if name in self.checkpoint:
            by_head = graph.reshaped(part, 0, -1, heads, self.shape.head_dim)
            normed = graph.rms_norm(by_head, name, self.checkpoint.float32(name), self.shape.rms_epsilon)
            part = graph.reshaped(normed, 0, -1, heads * self.shape.head_dim)
        return graph.rotary(part, angles[0], angles[1], heads)

    def _remembered(self, part: str, name: str, i: int) -> str:
        """The cache with the fed tokens [1, n, kv * d] behind it: [P + n, kv, d]."""
        graph, kv, d = self.graph, self.shape.kv_heads, self.shape.head_dim
        past = graph.native_input(f"past_{name}_{i}", ["past", kv, d])
        present = str(graph.op("Concat", past, graph.reshaped(part, -1, kv, d), axis=0))
        graph.native_output(present, ["total", kv, d], f"present_{name}_{i}")
        return present
