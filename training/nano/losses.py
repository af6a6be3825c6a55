"""Next-token loss of the query rows, with soft targets for coordinates. Knows nothing of optimisers or data sources."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.nano.data import Rows
from training.nano.fastpath import FastNano, Prefix
from training.nano.prompts import number_ids, token_id, tokenizer
from training.nano.tokenizer import BOX_OPEN, NOTHING

_DECISION_WEIGHT = 8.0


@dataclass(frozen=True, slots=True)
class RowLoss:
    """Sum to minimise and what to log.

    Attributes:
        total: scalar, mean over supervised tokens.
        coordinate_error: mean absolute teacher-forced error of the coordinates, of 1000.
        word_accuracy: share of the other supervised tokens that are right.
    """

    total: Tensor
    coordinate_error: float
    word_accuracy: float


@functools.cache
def _deciding_ids() -> tuple[int, ...]:
    """Tokens that say whether the thing is there: one of them in 50, so they count for more (unweighted, absence was
    not learned in an hour)."""
    after_head = {tokenizer().encode(text).ids[1] for text in ("mug: none", "mug: 1", "target none", "target 1")}
    return (*after_head, token_id(BOX_OPEN), token_id(NOTHING))


def row_loss(fast: FastNano, prefix: Prefix, groups: tuple[Rows, ...], soft: Tensor) -> RowLoss:
    """Cross entropy, decisions stressed; a coordinate's target is `soft[value]` over the 201 grid numbers.

    Args:
        fast, prefix: model and the batch's image prefix.
        groups: query rows, chunked by length.
        soft: [201, 201] from `auxiliary.soft_targets`.
    """
    numbers = torch.tensor(number_ids(), device=fast.device)
    deciding = torch.tensor(_deciding_ids(), device=fast.device)
    lookup = torch.zeros(fast.text.embed_tokens.num_embeddings, dtype=torch.long, device=fast.device)
    lookup[numbers] = torch.arange(len(numbers), device=fast.device)
    losses, errors, hits = [], [], []
    for rows in groups:
        hidden = fast.rows(prefix, rows.image, rows.ids[:, :-1])
        at = rows.supervised[:, :-1]
        log_p = F.log_softmax(fast.logits(hidden[at]).float(), -1)
        target = rows.ids[:, 1:][at]
        is_number = rows.coordinate[:, :-1][at]
        words = ~is_number
        stress = torch.where(torch.isin(target[words], deciding), _DECISION_WEIGHT, 1.0)
        losses.append(-stress * log_p[words].gather(1, target[words, None])[:, 0])
        value = lookup[target[is_number]]
        over_numbers = log_p[is_number][:, numbers]
        losses.append(-(soft[value] * over_numbers).sum(-1))
        errors.append((over_numbers.detach().argmax(-1) - value).abs().float() * 5)
        hits.append((log_p[words].detach().argmax(-1) == target[words]).float())
    return RowLoss(torch.cat(losses).mean(), torch.cat(errors).mean().item(), torch.cat(hits).mean().item())
