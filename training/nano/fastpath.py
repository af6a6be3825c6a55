"""FastNano: the forward pass of a Qwen3-VL checkpoint for many equal-shaped images and several queries each.

Weight-identical to transformers (a test compares logits): it holds no parameters of its own. The image prefix runs once
per image and every query continues from its keys and values; the temporal patch axis is folded; q/k/v and gate/up are one
product each. Knows nothing of tokenization or losses.

Notation: B images, N patches, M = N/4 image tokens, P prefix tokens, R query rows, T row tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from egm_edge.machine import cpu_flags

Cache = list[tuple[Tensor, Tensor]]


def learning_arithmetic(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on a GPU and on processors that multiply it (`avx512_bf16`); float32 on the others, where
    bfloat16 products are emulated: on one with AVX2 alone they took nine times as long."""
    multiplies = device.type != "cpu" or "avx512_bf16" in cpu_flags()
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies)


class KvBuffer:
    """Keys and values of R rows with room for `size` positions: generation writes in place instead of copying.

    Args:
        cache: per layer keys and values, each [R, kv_heads, L, head_dim], copied to the front.
        size: positions in all.
    """

    def __init__(self, cache: Cache, size: int) -> None:
        self.length = cache[0][0].shape[2]
        self._layers = [tuple(self._room(part, size) for part in layer) for layer in cache]

    def _room(self, part: Tensor, size: int) -> Tensor:
        room = part.new_zeros(part.shape[0], part.shape[1], size, part.shape[3])
        room[:, :, : self.length] = part
        return room

    def write(self, depth: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put [R, kv_heads, T, head_dim] behind what is there; returns all keys and values so far. `length` stays."""
        end = self.length + k.shape[2]
        keys, values = self._layers[depth]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, count: int) -> None:
        """Every layer has written `count` positions."""
        self.length += count

    def take(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, int64."""
        self._layers = [tuple(part[rows] for part in layer) for layer in self._layers]


@dataclass(frozen=True, slots=True)
class Vision:
    """What the vision tower gives.

    Attributes:
        patches: [B, N, Dv] last hidden states, merge-block order.
        tokens: [B, M, D] image embeddings.
        deepstack: one [B, M, D] per deep-stack layer.
    """

    patches: Tensor
    tokens: Tensor
    deepstack: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The image prefix inside the decoder.

    Attributes:
        cache: per layer keys and values, each [B, kv_heads, P, head_dim].
        next_position: rotary position of the token that follows.
    """

    cache: Cache
    next_position: int


class FastNano:
    """Runs `model` fast; `head_ids` and `tail_id` are the tokens before and after the image pads."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, head_ids: list[int], tail_id: int) -> None:
        self.model = model
        self.visual, self.text = model.model.visual, model.model.language_model
        self.head_ids, self.tail_id = head_ids, tail_id
        self._vision_tables: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._prefix_tables: dict[tuple[int, int], tuple[Tensor, Tensor, int]] = {}
        self.device = self.text.embed_tokens.weight.device
        self._row_cos, self._row_sin = self._rotary(torch.arange(1024, device=self.device).expand(3, 1, -1))

    def vision(self, patches: Tensor, grid_hw: tuple[int, int]) -> Vision:
        """Patches [B, N, 768] (channel-major, merge-block order, normalised to -1..1) through the tower."""
        tower = self.visual
        indices, weights, cos, sin = self._vision_table(grid_hw)
        projection = tower.patch_embed.proj
        kernel = projection.weight.sum(2).flatten(1)
        hidden = F.linear(patches, kernel, projection.bias) + (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
        batch, count, width = hidden.shape
        heads = tower.config.num_heads
        deepstack = []
        for depth, block in enumerate(tower.blocks):
            qkv = (
                block.attn.qkv(block.norm1(hidden)).view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            )
            q, k, v = qkv.unbind(0)
            mixed = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, None)
            hidden = hidden + block.attn.proj(mixed.transpose(1, 2).reshape(batch, count, width))
            hidden = hidden + block.mlp(block.norm2(hidden))
            if depth in tower.deepstack_visual_indexes:
                merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(depth)]
                deepstack.append(merger(hidden).view(batch, count // 4, -1))
        return Vision(hidden, tower.merger(hidden).view(batch, count // 4, -1), tuple(deepstack))

    def prefix(self, seen: Vision, grid_hw: tuple[int, int]) -> Prefix:
        """Run `<|im_start|>user\\n<|vision_start|>`, the image, `<|vision_end|>` through the decoder."""
        cos, sin, next_position = self._prefix_table(grid_hw)
        batch = seen.tokens.shape[0]
        table = self.text.embed_tokens.weight
        head = table[self.head_ids].expand(batch, -1, -1)
        tail = table[self.tail_id].expand(batch, 1, -1)
        hidden = torch.cat([head, seen.tokens.to(head.dtype), tail], 1)
        _, cache = self._decode(hidden, cos, sin, None, None, (len(self.head_ids), seen.deepstack))
        return Prefix(cache, next_position)

    def rows(self, prefix: Prefix, image_index: Tensor, ids: Tensor) -> Tensor:
        """Query rows on their image's prefix.

        Args:
            prefix: of B images.
            image_index: [R] int64, the image of every row.
            ids: [R, T] int64, padded on the right with anything.

        Returns:
            [R, T, D] normalised hidden states; multiply by the embedding table for logits.
        """
        length = ids.shape[1]
        start = prefix.next_position
        past = [(k[image_index], v[image_index]) for k, v in prefix.cache]
        past_length = past[0][0].shape[2]
        mask = torch.ones(length, past_length + length, dtype=torch.bool, device=self.device).tril(past_length)
        cos, sin = self._row_cos[start : start + length], self._row_sin[start : start + length]
        hidden, _ = self._decode(self.text.embed_tokens(ids), cos, sin, past, mask, None)
        return hidden

    def step(self, buffer: KvBuffer, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """One decoding step (or a left-padded prompt) for generation.

        Args:
            buffer: keys and values of R rows so far, L positions; grows by T.
            ids: [R, T]; positions: [R, T] rotary positions; mask: [R, 1, T, L + T] bool, True where attended.

        Returns:
            [R, T, D] normalised hidden states.
        """
        cos, sin = self._row_cos[positions][:, None], self._row_sin[positions][:, None]
        hidden, _ = self._decode(self.text.embed_tokens(ids), cos, sin, buffer, mask, None)
        buffer.advance(ids.shape[1])
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.text.embed_tokens.weight)

    def _decode(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: Cache | KvBuffer | None,
        mask: Tensor | None,
        deepstack: tuple[int, tuple[Tensor, ...]] | None,
    ) -> tuple[Tensor, Cache]:
        if mask is None:
            mask = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool, device=self.device).tril()
        config = self.text.config
        heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        batch, length, _ = hidden.shape
        cache: Cache = []
        for depth, layer in enumerate(self.text.layers):
            attention = layer.self_attn
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            mixed = F.linear(_rms(hidden, layer.input_layernorm), weight).view(
                batch, length, heads + 2 * kv_heads, size
            )
            q, k, v = mixed.transpose(1, 2).split([heads, kv_heads, kv_heads], 1)
            q = _rotate(_rms(q, attention.q_norm), cos, sin)
            k = _rotate(_rms(k, attention.k_norm), cos, sin)
            if isinstance(past, KvBuffer):
                k, v = past.write(depth, k, v)
            elif past is not None:
                k, v = torch.cat([past[depth][0].to(k.dtype), k], 2), torch.cat([past[depth][1].to(v.dtype), v], 2)
            cache.append((k, v))
            out = _attend(q, k, v, mask)
            hidden = hidden + attention.o_proj(out.transpose(1, 2).reshape(batch, length, heads * size))
            both = F.linear(
                _rms(hidden, layer.post_attention_layernorm),
                torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]),
            )
            gate, up = both.chunk(2, -1)
            hidden = hidden + layer.mlp.down_proj(F.silu(gate) * up)
            if deepstack is not None and depth < len(deepstack[1]):
                start, features = deepstack[0], deepstack[1][depth]
                pad = length - start - features.shape[1]
                hidden = hidden + F.pad(features.to(hidden.dtype), (0, 0, start, pad))
        return _rms(hidden, self.text.norm), cache

    def _vision_table(self, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if grid_hw not in self._vision_tables:
            grid = torch.tensor([[1, *grid_hw]], device=self.device)
            tower = self.visual
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid, tower.num_grid_per_side, mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners, spatial_merge_size=tower.spatial_merge_size,
            )  # fmt: skip
            cos, sin = tower.rotary_pos_emb(weights, get_vision_position_ids(grid, tower.spatial_merge_size))
            self._vision_tables[grid_hw] = (indices, weights.float(), cos, sin)
        return self._vision_tables[grid_hw]

    def _prefix_table(self, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        if grid_hw not in self._prefix_tables:
            config = self.model.config
            count = grid_hw[0] * grid_hw[1] // 4
            ids = torch.tensor([self.head_ids + [config.image_token_id] * count + [self.tail_id]], device=self.device)
            grid = torch.tensor([[1, *grid_hw]], device=self.device)
            kinds = (ids == config.image_token_id).int()
            positions, _ = self.model.model.get_rope_index(ids, kinds, image_grid_thw=grid)
            cos, sin = self._rotary(positions)
            self._prefix_tables[grid_hw] = (cos, sin, int(positions.max()) + 1)
        return self._prefix_tables[grid_hw]

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin [T, head_dim] of positions [3, 1, T]."""
        cos, sin = self.text.rotary_emb(torch.zeros(1, device=self.device), positions)
        return cos[0], sin[0]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q [B, H, T, h] to k, v [B, H or fewer, L, h]; `mask` [T, L] or [B, 1, T, L], True where attended.

    Where gradients are wanted on a CPU it is two plain products: the fused kernel is 2-4 times slower backwards at these sizes.
    Query heads that share a key head are stacked along T, so grouped keys are never repeated.
    """
    batch, heads, length, size = q.shape
    groups = k.shape[1]
    if q.is_cuda or not torch.is_grad_enabled():
        q, k = q.to(v.dtype), k.to(v.dtype)
        if length == 1:
            folded = F.scaled_dot_product_attention(q.view(batch, groups, -1, size), k, v, attn_mask=mask)
            return folded.view(batch, heads, 1, size)
        k, v = k.repeat_interleave(heads // groups, 1), v.repeat_interleave(heads // groups, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    with torch.autocast("cpu", enabled=False):
        q = (q * size**-0.5).to(dtype).reshape(batch, groups, heads // groups * length, size)
        k, v = k.to(dtype).contiguous(), v.to(dtype).contiguous()
        scores = q @ k.transpose(-1, -2)
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -30_000.0)
            scores = (
                scores.view(batch, groups, -1, length, k.shape[2]) + bias.view(-1, 1, 1, length, k.shape[2])
            ).view_as(scores)
        return (scores.softmax(-1) @ v).view(batch, heads, length, size)


def _rms(x: Tensor, norm: Qwen3VLTextRMSNorm) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
