"""Attention of fed tokens over a static KV cache: flash-attn where it is installed and fits, PyTorch's own elsewhere.

Notation: B sequences, n fed tokens of each, s cache places looked at, h heads, k key/value heads, d head size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

FLASH_CAPABILITY = (8, 0)  # flash-attn 2 begins with Ampere
FLASH_DTYPES = (torch.float16, torch.bfloat16)

# cuDNN's attention, which PyTorch prefers on Hopper, builds a plan for each new shape: a stop at each new sentence.
without_cudnn = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


class Attention:
    """How queries meet the cache: PyTorch's `scaled_dot_product_attention` under a mask. A token sees every place up to its own."""

    name = ""

    def bounds(self, places: Tensor, seen: int, group: int, dtype: torch.dtype) -> Tensor:
        """What `__call__` needs to know of places [B, n], the same for all layers; `group` query heads share a key head."""
        hidden = torch.arange(seen, device=places.device) > places[..., None]  # [B, n, s]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=places.device).masked_fill(hidden, -torch.inf)
        return mask.repeat(1, group, 1)[:, None]  # [B, 1, h/k * n, s]

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, bounds: Tensor) -> Tensor:
        """[B, n, h * d] of queries [B, n, h, d] over keys and values [B, s, k, d]."""
        batch, count, _, size = query.shape
        kv_heads = keys.shape[2]
        # Query heads of one key head stand below each other as further rows: its keys are read once, and never repeated.
        query = query.view(batch, count, kv_heads, -1, size).permute(0, 2, 3, 1, 4)  # [B, k, h/k, n, d]
        attended = F.scaled_dot_product_attention(
            query.reshape(batch, kv_heads, -1, size), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=bounds
        )  # [B, k, h/k * n, d]
        return attended.view(query.shape).permute(0, 3, 1, 2, 4).reshape(batch, count, -1)


class FlashAttention(Attention):
    """`flash_attn_with_kvcache`, which reads the cache as it lies and splits it over the whole chip."""

    name = "flash-attn"

    def __init__(self, kernel: Callable[..., Tensor]) -> None:
        self._kernel = kernel

    def bounds(self, places: Tensor, seen: int, group: int, dtype: torch.dtype) -> Tensor:
        return (places[:, -1] + 1).int()  # [B]; its causal mask ends in the lower right corner

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, bounds: Tensor) -> Tensor:
        return self._kernel(query, keys, values, cache_seqlens=bounds, causal=True).flatten(2)


def attention_for(dtype: torch.dtype, capability: tuple[int, int] | None) -> Attention:
    """The faster one that runs here.

    Args:
        capability: the GPU's compute capability; None on a CPU.
    """
    if capability is not None and capability >= FLASH_CAPABILITY and dtype in FLASH_DTYPES:
        with suppress(ImportError, OSError, AttributeError):  # absent, built for another PyTorch, or too old
            return FlashAttention(importlib.import_module("flash_attn").flash_attn_with_kvcache)
    return Attention()
