"""The decoder of both families (Qwen3 with q/k norms, Qwen2.5 with q/k/v biases) over a KV cache that is written in place.

Plain functions over plain tensors, nothing allocated that a CUDA graph could not replay.

Notation: B sequences, n fed tokens of each, C cache places, H hidden size, h heads, k key/value heads, d head size,
V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from egm_edge.backends.onnx_runtime.positions import rotary_axes
from egm_edge.backends.torch_gpu.attention import Attention, without_cudnn
from egm_edge.backends.torch_gpu.weights import Weights
from egm_edge.families.decoder_shape import DecoderShape

SEEN_STEP = 8  # attention kernels want rows of masks at multiples of 16 bytes


class KvCache(NamedTuple):
    """Keys and values of all layers: [layers, B, C, k, d] each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, shape: DecoderShape, rows: int, places: int, like: Tensor) -> KvCache:
        size = (shape.layers, rows, places, shape.kv_heads, shape.head_dim)
        return cls(*(torch.zeros(size, dtype=like.dtype, device=like.device) for _ in range(2)))

    @property
    def places(self) -> int:
        return self.keys.shape[2]

    def rows(self, start: int, stop: int) -> KvCache:
        """Some sequences of several, the same memory."""
        return KvCache(self.keys[:, start:stop], self.values[:, start:stop])

    def copy_from(self, other: KvCache, length: int) -> None:
        """Take the first `length` places of another cache; one row spreads over all of these."""
        for mine, theirs in zip(self, other, strict=True):
            mine[:, :, :length] = theirs[:, :, :length]


class _Layer(NamedTuple):
    norm_1: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [h + k, d], one row a head
    out: Tensor
    norm_2: Tensor
    gate_up: Tensor
    down: Tensor


class TextDecoder:
    """Embedding, layers, final norm and head.

    Attributes:
        shape: its dimensions. embedding: [V, H]. attention: how it looks into the cache.
    """

    def __init__(self, weights: Weights, config: Mapping[str, Any], attention: Attention) -> None:
        self.attention = attention
        self.embedding = weights.take("text.embed_tokens.weight")
        self.shape = DecoderShape.of(
            config["text_config"],
            config["model_type"],
            query_rows=len(weights.take("text.layers.0.self_attn.q_proj.weight")),
            vocab=len(self.embedding),
            tied_head="head.weight" not in weights,
        )
        self._layers = [_layer(weights, f"text.layers.{i}", self.shape) for i in range(self.shape.layers)]
        self._norm = weights.take("text.norm.weight")
        self._head = self.embedding if self.shape.tied_head else weights.take("head.weight")
        half, device = self.shape.head_dim // 2, weights.device
        steps = torch.arange(half, dtype=torch.float32, device=device) * 2 / self.shape.head_dim
        self._frequencies = 1.0 / self.shape.rope_theta**steps  # [d/2]
        self._axis = torch.from_numpy(rotary_axes(half, self.shape.mrope_section)).to(device)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and signed sin, [..., n, d], of positions [3, ..., n] on the three axes, float32: what `rotated` takes."""
        angles = positions.float().movedim(0, -1)[..., self._axis] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    @without_cudnn
    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: KvCache,
        places: Tensor,
        seen: int,
        *,
        deepstack: Sequence[Tensor] = (),
        check: Callable[[], None] | None = None,
    ) -> Tensor:
        """Feed embeddings, write their keys and values into the cache, and give the normed hidden states [B, n, H].

        Args:
            x: [B, n, H]. rotary: of these tokens, from `rotary`, [B, n, d] or [n, d] each.
            places: [B, n] int64, where each token stands in its sequence; it sees every place up to its own.
            seen: places of the cache that are looked at, at least; all of `places` lie below it.
            deepstack: [B, n, H] each, added after the first layers.
            check: called between layers; what it raises ends the call.
        """
        heads, kv_heads, size = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        seen = min(-(-seen // SEEN_STEP) * SEEN_STEP, cache.places)
        bounds = self.attention.bounds(places, seen, heads // kv_heads, x.dtype)
        for i, (layer, keys, values) in enumerate(zip(self._layers, cache.keys, cache.values, strict=True)):
            if check is not None:
                check()
            qkv = F.linear(self._rms(x, layer.norm_1), layer.qkv, layer.qkv_bias).view(*x.shape[:2], -1, size)
            both = qkv[:, :, :-kv_heads]  # [B, n, h + k, d]
            if layer.qk_norm is not None:
                both = F.rms_norm(both, (size,), None, self.shape.rms_epsilon) * layer.qk_norm
            both = rotated(both, rotary)
            keys[rows, places] = both[:, :, heads:]
            values[rows, places] = qkv[:, :, -kv_heads:]
            x = x + F.linear(self.attention(both[:, :, :heads], keys[:, :seen], values[:, :seen], bounds), layer.out)
            gate, up = F.linear(self._rms(x, layer.norm_2), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
            if i < len(deepstack):
                x = x + deepstack[i]
        return self._rms(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., V] in float32."""
        return F.linear(hidden, self._head).float()

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.shape.rms_epsilon)


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [..., n, heads, d] by cos and signed sin [..., n, d]: one half of a head is the other's partner."""
    cos, sin = (table.unsqueeze(-2) for table in rotary)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def _layer(weights: Weights, base: str, shape: DecoderShape) -> _Layer:
    attention, mlp = f"{base}.self_attn", f"{base}.mlp"
    qkv_bias = qk_norm = None
    if f"{attention}.q_proj.bias" in weights:
        qkv_bias = weights.stacked(*(f"{attention}.{part}_proj.bias" for part in "qkv"))
    if f"{attention}.q_norm.weight" in weights:
        heads = (("q", shape.heads), ("k", shape.kv_heads))
        qk_norm = torch.cat([weights.take(f"{attention}.{part}_norm.weight").expand(count, -1) for part, count in heads])
    return _Layer(
        norm_1=weights.take(f"{base}.input_layernorm.weight"),
        qkv=weights.stacked(*(f"{attention}.{part}_proj.weight" for part in "qkv")),
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        out=weights.take(f"{attention}.o_proj.weight"),
        norm_2=weights.take(f"{base}.post_attention_layernorm.weight"),
        gate_up=weights.stacked(f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"),
        down=weights.take(f"{mlp}.down_proj.weight"),
    )
