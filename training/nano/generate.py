"""Answers for many queries on many equal-shaped images at once, greedy or sampled. Knows nothing of scenes or boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.nano.fastpath import FastNano, KvBuffer, Prefix

_COMPACT_BELOW = 0.7
LONGEST_ANSWER = 160


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer.

    Attributes:
        ids: token ids, the stop token left out.
        log_p: mean log-probability of its tokens (stop token included) under the distribution they were drawn from.
        finished: it ended by itself, not at the token limit.
    """

    ids: list[int]
    log_p: float
    finished: bool


@torch.no_grad()
def generate(
    fast: FastNano,
    prefix: Prefix,
    image_index: list[int],
    prompts: list[list[int]],
    stop_id: int,
    max_new_tokens: int = LONGEST_ANSWER,
    *,
    temperature: float = 0.0,
    copies: int = 1,
    generator: torch.Generator | None = None,
) -> list[Sampled]:
    """Continue every prompt on its image's prefix until `stop_id`.

    Args:
        fast, prefix: the model and its images' prefix.
        image_index: image of every prompt.
        prompts: token ids after the prefix, any lengths.
        stop_id: token that ends an answer.
        max_new_tokens: cap.
        temperature: 0 takes the likeliest token, else tokens are drawn from softmax(logits / temperature).
        copies: answers per prompt; the prompt itself runs once.
        generator: source of the draws, on the model's device.

    Returns:
        `copies` answers per prompt, those of one prompt next to each other.
    """
    device = fast.device
    buffer, hidden, valid, position = _fed(fast, prefix, image_index, prompts, max_new_tokens)
    rows = torch.arange(len(prompts), device=device).repeat_interleave(copies)
    buffer.take(rows)
    hidden, valid, position = hidden[rows], valid[rows], position[rows]
    count = len(prompts) * copies
    tokens = torch.full((count, max_new_tokens), stop_id, device=device)
    log_p = torch.zeros(count, device=device)
    lengths = torch.full((count,), max_new_tokens, device=device)
    row = torch.arange(count, device=device)
    alive = torch.ones(count, dtype=torch.bool, device=device)
    for done in range(max_new_tokens):
        drawn, drawn_log_p = _draw(fast.logits(hidden), temperature, generator)
        tokens[row[alive], done] = drawn[alive]
        log_p[row[alive]] += drawn_log_p[alive]
        ended = alive & (drawn == stop_id)
        lengths[row[ended]] = done
        alive &= ~ended
        if done + 1 == max_new_tokens or not alive.any():
            break
        if alive.float().mean() < _COMPACT_BELOW:
            row, drawn, valid, position = row[alive], drawn[alive], valid[alive], position[alive]
            buffer.take(alive.nonzero()[:, 0])
            alive = torch.ones_like(row, dtype=torch.bool)
        position = position + 1
        mask = valid[:, None, None, : buffer.length + 1]
        hidden = fast.step(buffer, drawn[:, None], position[:, None], mask)[:, -1]
    counts = (lengths + 1).clamp_max(max_new_tokens)
    return [
        Sampled(tokens[i, :length].tolist(), mean, length < max_new_tokens)
        for i, (length, mean) in enumerate(zip(lengths.tolist(), (log_p / counts).tolist(), strict=True))
    ]


def _fed(
    fast: FastNano, prefix: Prefix, image_index: list[int], prompts: list[list[int]], room: int
) -> tuple[KvBuffer, Tensor, Tensor, Tensor]:
    """The prompts [R], left-padded, behind their images' prefix; `room` more tokens fit.

    Returns:
        Keys and values; hidden states [R, D] of the last tokens; which positions may be attended to [R, positions]; and the
        rotary position [R] of the last tokens.
    """
    device, longest, past = fast.device, max(map(len, prompts)), prefix.cache[0][0].shape[2]
    index = torch.tensor(image_index, device=device)
    pad = torch.tensor([longest - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    offsets = torch.arange(longest, device=device)[None]
    positions = (prefix.next_position + offsets - pad[:, None]).clamp_min(0)
    valid = torch.ones(len(prompts), past + longest + room, dtype=torch.bool, device=device)
    valid[:, past : past + longest] = offsets >= pad[:, None]
    causal = torch.ones(longest, past + longest, dtype=torch.bool, device=device).tril(past)
    mask = causal[None, None] & valid[:, None, None, : past + longest]
    mask[:, :, :, 0] = True
    buffer = KvBuffer([(k[index], v[index]) for k, v in prefix.cache], valid.shape[1])
    return buffer, fast.step(buffer, ids, positions, mask)[:, -1], valid, positions[:, -1]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One token per row of logits [R, V], and its log-probability under the distribution drawn from, both [R]."""
    scaled = logits.float() / (temperature or 1.0)
    if temperature:
        # Gumbel-max: an argmax, several times cheaper than torch.multinomial at these sizes.
        noise = torch.empty_like(scaled).exponential_(generator=generator).log()
        drawn = (scaled - noise).argmax(-1)
    else:
        drawn = scaled.argmax(-1)
    return drawn, scaled.gather(1, drawn[:, None])[:, 0] - scaled.logsumexp(-1)
