"""The decoder of both families (Qwen3 with q/k norms, Qwen2.5 with q/k/v biases) over a KV cache that is written in place.

Plain functions over plain tensors, nothing allocated that a CUDA graph could not replay.

Notation: B sequences, n fed tokens of each, C cache places, H hidden size, h heads, k key/value heads, d head size,
V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from egm_edge.backends.torch_gpu.weights import Weights

QWEN3_VL_MROPE_SECTION = (24, 20, 20)  # where the config is silent, as transformers' Qwen3VLTextRotaryEmbedding


@dataclass(frozen=True, slots=True)
class TextShape:
    """Dimensions of a decoder, from config.json's text_config."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    theta: float
    section: tuple[int, ...] | None
    max_positions: int

    @classmethod
    def of(cls, config: Mapping[str, Any], head_dim: int) -> TextShape:
        text = config["text_config"]
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        section = rope.get("mrope_section") or (QWEN3_VL_MROPE_SECTION if config["model_type"] == "qwen3_vl" else None)
        heads = int(text["num_attention_heads"])
        return cls(
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            epsilon=float(text.get("rms_norm_eps", 1e-6)),
            theta=float(rope.get("rope_theta", text.get("rope_theta", 10000.0))),
            section=tuple(int(n) for n in section) if section else None,
            max_positions=int(text["max_position_embeddings"]),
        )


class KvCache(NamedTuple):
    """Keys and values of all layers: [layers, B, C, k, d] each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, shape: TextShape, rows: int, places: int, like: Tensor) -> KvCache:
        size = (shape.layers, rows, places, shape.kv_heads, shape.head_dim)
        return cls(*(torch.zeros(size, dtype=like.dtype, device=like.device) for _ in range(2)))

    @property
    def places(self) -> int:
        return self.keys.shape[2]

    def row(self, row: int) -> KvCache:
        """One sequence of several, the same memory."""
        return KvCache(self.keys[:, row : row + 1], self.values[:, row : row + 1])

    def copy_from(self, other: KvCache, length: int) -> None:
        """Take the first `length` places of another cache; one row spreads over all of these."""
        for mine, theirs in zip(self, other, strict=True):
            mine[:, :, :length] = theirs[:, :, :length]


class _Layer(NamedTuple):
    norm_1: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    norm_2: Tensor
    gate_up: Tensor
    down: Tensor


class TextDecoder:
    """Embedding, layers, final norm and head.

    Attributes:
        shape: its dimensions. embedding: [V, H].
    """

    def __init__(self, weights: Weights, config: Mapping[str, Any]) -> None:
        self.embedding = weights.take("text.embed_tokens.weight")
        first = weights.take("text.layers.0.self_attn.q_proj.weight")
        heads = int(config["text_config"]["num_attention_heads"])
        self.shape = TextShape.of(config, first.shape[0] // heads)
        self._layers = [_layer(weights, f"text.layers.{i}") for i in range(self.shape.layers)]
        self._norm = weights.take("text.norm.weight")
        self._head = weights.take("head.weight") if "head.weight" in weights else self.embedding
        half, device = self.shape.head_dim // 2, weights.device
        steps = torch.arange(half, dtype=torch.float32, device=device) * 2 / self.shape.head_dim
        self._frequencies = 1.0 / self.shape.theta**steps  # [d/2]
        axis = torch.zeros(half, dtype=torch.int64)
        for i in (1, 2) if self.shape.section else ():  # interleaved M-RoPE: time, height, width in turn
            axis[i : self.shape.section[i] * 3 : 3] = i  # type: ignore[index]
        self._axis = axis.to(device)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and sin, [..., n, d], of positions [3, ..., n] on the three axes, float32."""
        angles = positions.float().movedim(0, -1)[..., self._axis] * self._frequencies
        both = torch.cat([angles, angles], -1)
        return both.cos(), both.sin()

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
        """Feed embeddings, write their keys and values into the cache, and give the normed hidden states.

        Args:
            x: [B, n, H]. rotary: of these tokens, [B, n, d] or [n, d] each.
            places: [B, n] int64, where each token stands in its sequence; it sees every place up to its own.
            seen: places of the cache that are looked at; all of `places` lie below it.
            deepstack: [B, n, H] each, added after the first layers.
            check: called between layers; what it raises ends the call.

        Returns:
            [B, n, H].
        """
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        mask = torch.arange(seen, device=x.device) <= places[..., None]  # [B, n, seen]
        for i, layer in enumerate(self._layers):
            if check is not None:
                check()
            own = KvCache(cache.keys[i], cache.values[i])
            x = x + self._attention(self._rms(x, layer.norm_1), layer, rotary, own, rows, places, mask)
            gate, up = F.linear(self._rms(x, layer.norm_2), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
            if i < len(deepstack):
                x = x + deepstack[i]
        return self._rms(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., V] in float32."""
        return F.linear(hidden, self._head).float()

    def _attention(
        self, x: Tensor, layer: _Layer, rotary: tuple[Tensor, Tensor], cache: KvCache, rows: Tensor, places: Tensor, mask: Tensor
    ) -> Tensor:
        shape = self.shape
        batch, count, _ = x.shape
        sizes = [shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim]
        split = F.linear(x, layer.qkv, layer.qkv_bias).split(sizes, -1)
        query, key, value = (part.view(batch, count, -1, shape.head_dim) for part in split)  # [B, n, heads, d]
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = self._rms(query, layer.q_norm), self._rms(key, layer.k_norm)
        cache.keys[rows, places] = rotated(key, rotary)
        cache.values[rows, places] = value
        seen = mask.shape[-1]
        attended = F.scaled_dot_product_attention(
            rotated(query, rotary).transpose(1, 2),
            cache.keys[:, :seen].transpose(1, 2),
            cache.values[:, :seen].transpose(1, 2),
            attn_mask=mask[:, None],
            enable_gqa=shape.heads != shape.kv_heads,
        )  # [B, h, n, d]
        return F.linear(attended.transpose(1, 2).reshape(batch, count, -1), layer.out)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm in float32, as transformers has it."""
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.shape.epsilon)).to(x.dtype)


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [..., n, heads, d] by cos and sin [..., n, d]: the second half of a head is the first one's partner."""
    cos, sin = (table.unsqueeze(-2) for table in rotary)
    first, second = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def _layer(weights: Weights, base: str) -> _Layer:
    attention, mlp = f"{base}.self_attn", f"{base}.mlp"
    qkv = weights.stacked(*(f"{attention}.{part}_proj.weight" for part in "qkv"))
    gate_up = weights.stacked(f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
    assert qkv is not None and gate_up is not None
    return _Layer(
        norm_1=weights.take(f"{base}.input_layernorm.weight"),
        qkv=qkv,
        qkv_bias=weights.stacked(*(f"{attention}.{part}_proj.bias" for part in "qkv")),
        q_norm=weights.maybe(f"{attention}.q_norm.weight"),
        k_norm=weights.maybe(f"{attention}.k_norm.weight"),
        out=weights.take(f"{attention}.o_proj.weight"),
        norm_2=weights.take(f"{base}.post_attention_layernorm.weight"),
        gate_up=gate_up,
        down=weights.take(f"{mlp}.down_proj.weight"),
    )
