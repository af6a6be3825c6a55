"""Greedy answers for many queries on many equal-shaped images at once. Knows nothing of scenes or boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from training.nano.fastpath import FastNano, Prefix


@torch.no_grad()
def greedy(
    fast: FastNano,
    prefix: Prefix,
    image_index: list[int],
    prompts: list[list[int]],
    stop_id: int,
    max_new_tokens: int = 160,
) -> list[list[int]]:
    """Continue every prompt on its image's prefix until `stop_id` (left out of the answer).

    Args:
        fast, prefix: the model and its images' prefix.
        image_index: image of every prompt.
        prompts: token ids after the prefix, any lengths.
        stop_id: token that ends an answer.
        max_new_tokens: cap.

    Returns:
        One list of token ids per prompt.
    """
    index = torch.tensor(image_index)
    cache = [(k[index], v[index]) for k, v in prefix.cache]
    past = cache[0][0].shape[2]
    longest = max(map(len, prompts))
    ids = torch.tensor([[stop_id] * (longest - len(p)) + p for p in prompts])
    pad = torch.tensor([longest - len(p) for p in prompts])
    positions = (prefix.next_position + torch.arange(longest)[None] - pad[:, None]).clamp_min(0)
    valid = torch.cat(
        [torch.ones(len(prompts), past, dtype=torch.bool), torch.arange(longest)[None] >= pad[:, None]], 1
    )
    causal = torch.ones(longest, past + longest, dtype=torch.bool).tril(past)
    mask = causal[None, None] & valid[:, None, None, :]
    mask[:, :, :, 0] = True
    answers: list[list[int]] = [[] for _ in prompts]
    alive = torch.ones(len(prompts), dtype=torch.bool)
    position = positions[:, -1:]
    for _ in range(max_new_tokens):
        hidden, cache = fast.step(cache, ids, positions, mask)
        ids = fast.logits(hidden[:, -1:]).argmax(-1)
        alive &= ids[:, 0] != stop_id
        if not alive.any():
            break
        _append(answers, ids, alive)
        position = position + 1
        positions = position
        valid = torch.cat([valid, torch.ones(len(prompts), 1, dtype=torch.bool)], 1)
        mask = valid[:, None, None, :]
    return answers


def _append(answers: list[list[int]], ids: Tensor, alive: Tensor) -> None:
    for answer, token, going in zip(answers, ids[:, 0].tolist(), alive.tolist(), strict=True):
        if going:
            answer.append(token)
