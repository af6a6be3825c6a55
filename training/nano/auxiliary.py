"""Dense auxiliary heads of the vision tower: linear read-outs that teach it what and where. Dropped at export.

Per patch: table or which shape, colour, modal and amodal box relative to the patch. Per image token, in the decoder's
space: is something here, its shape, colour, size and absolute boxes; and the same four coordinates and two words through
an RMSNorm and the tied embedding table, so that the decoder finds them where its own output layer looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egm_edge.synthetic.vocabulary import ALL_COLOURS, NOUNS, SIZES
from training.nano.data import Dense
from training.nano.fastpath import Vision
from training.nano.prompts import number_ids, token_id


class AuxiliaryHeads(nn.Module):
    """The read-outs; `width` of image tokens, `vision_width` of patches."""

    numbers: Tensor
    shape_ids: Tensor
    colour_ids: Tensor

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.patch_class = nn.Linear(vision_width, 1 + len(NOUNS))
        self.patch_colour = nn.Linear(vision_width, len(ALL_COLOURS))
        self.patch_box = nn.Linear(vision_width, 8)
        self.token_class = nn.Linear(width, 1 + len(NOUNS))
        self.token_words = nn.Linear(width, len(ALL_COLOURS) + len(SIZES))
        self.token_box = nn.Linear(width, 8)
        self.align = nn.Linear(width, 10 * width)
        self.register_buffer("numbers", torch.tensor(number_ids()), persistent=False)
        self.register_buffer("shape_ids", torch.tensor([token_id("Ġ" + word) for word in NOUNS]), persistent=False)
        self.register_buffer(
            "colour_ids", torch.tensor([token_id("Ġ" + word) for word in ALL_COLOURS]), persistent=False
        )


@dataclass(frozen=True, slots=True)
class AuxiliaryLoss:
    """The sum to minimise and what to log.

    Attributes:
        total: scalar.
        shape_accuracy: of image tokens that own an object.
        iou: mean IoU of the linear modal box read-out on those tokens.
        align_error: mean absolute error of the coordinates read through the embedding table, of 1000.
    """

    total: Tensor
    shape_accuracy: float
    iou: float
    align_error: float


def soft_targets(sigma: float) -> Tensor:
    """[201, 201] rows: a Gaussian over the coordinate grid around each value, summing to 1."""
    grid = torch.arange(len(number_ids()), dtype=torch.float32)
    return torch.softmax(-0.5 * ((grid[:, None] - grid[None, :]) / sigma) ** 2, -1)


def auxiliary_loss(
    heads: AuxiliaryHeads, seen: Vision, dense: Dense, grid_hw: tuple[int, int], table: Tensor, soft: Tensor
) -> AuxiliaryLoss:
    """All auxiliary losses of a batch.

    Args:
        heads, seen, dense: read-outs, features, truth.
        grid_hw: patch rows and columns.
        table: [V, D] tied embedding table.
        soft: from `soft_targets`.
    """
    patches, tokens = seen.patches.float(), seen.tokens.float()
    total = _patch_loss(heads, patches, dense, grid_hw)

    owner = dense.token_owner
    at = owner >= 0
    classes = torch.where(at, 1 + _of(dense.shape, owner), 0)
    scores = heads.token_class(tokens)
    total = total + F.cross_entropy(scores.flatten(0, 1), classes.flatten())
    accuracy = (scores.argmax(-1) == classes)[at].float().mean().item()
    features = tokens[at]
    words = heads.token_words(features)
    colour, size = _of(dense.colour, owner)[at], _of(dense.size, owner)[at]
    total = (
        total + _named(words[:, : len(ALL_COLOURS)], colour) + 0.5 * F.cross_entropy(words[:, len(ALL_COLOURS) :], size)
    )
    modal, amodal = _boxes(dense.modal, owner)[at], _boxes(dense.amodal, owner)[at]
    boxes = heads.token_box(features) + 0.5
    iou = _iou(boxes[:, :4], modal)
    total = total + 4.0 * (boxes - torch.cat([modal, amodal], -1)).abs().mean() + 1.0 - iou.mean()

    mapped = heads.align(features).view(-1, 10, tokens.shape[-1])
    mapped = F.rms_norm(mapped, mapped.shape[-1:])
    wanted = torch.cat([modal, amodal], -1)
    steps = (wanted * 200).round().long().clamp(0, 200)
    log_p = F.log_softmax(mapped[:, :8] @ table[heads.numbers].T, -1)
    total = total + 0.5 * -(soft[steps] * log_p).sum(-1).mean()
    total = total + 0.25 * F.cross_entropy(mapped[:, 8] @ table[heads.shape_ids].T, _of(dense.shape, owner)[at])
    total = total + 0.25 * _named(mapped[:, 9] @ table[heads.colour_ids].T, colour)
    error = (log_p[:, :4].argmax(-1) - steps[:, :4]).abs().float().mean().item() * 5
    return AuxiliaryLoss(total, accuracy, iou.mean().item(), error)


def _patch_loss(heads: AuxiliaryHeads, patches: Tensor, dense: Dense, grid_hw: tuple[int, int]) -> Tensor:
    owner = dense.patch_owner
    at = owner >= 0
    classes = torch.where(at, 1 + _of(dense.shape, owner), 0)
    loss = F.cross_entropy(heads.patch_class(patches).flatten(0, 1), classes.flatten())
    features = patches[at]
    loss = loss + 0.5 * _named(heads.patch_colour(features), _of(dense.colour, owner)[at])
    centre = _patch_centres(grid_hw).to(patches.device).expand(owner.shape[0], -1, -1)[at]
    boxes = heads.patch_box(features) + centre.repeat(1, 4)
    modal, amodal = _boxes(dense.modal, owner)[at], _boxes(dense.amodal, owner)[at]
    return loss + 4.0 * (boxes - torch.cat([modal, amodal], -1)).abs().mean() + 1.0 - _iou(boxes[:, :4], modal).mean()


def _named(scores: Tensor, colour: Tensor) -> Tensor:
    """Cross entropy over the things that have a colour word (not -1)."""
    return F.cross_entropy(scores, colour, ignore_index=-1, reduction="sum") / (colour >= 0).sum().clamp_min(1)


def _of(words: Tensor, owner: Tensor) -> Tensor:
    """words [B, K] looked up per position; anything where nobody owns it."""
    return words.gather(1, owner.clamp_min(0))


def _boxes(boxes: Tensor, owner: Tensor) -> Tensor:
    return boxes.gather(1, owner.clamp_min(0)[..., None].expand(-1, -1, 4))


def _patch_centres(grid_hw: tuple[int, int]) -> Tensor:
    """[N, 2] x, y in 0-1, merge-block order."""
    rows, cols = grid_hw
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(cols) + 0.5) / cols
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flip(-1)
    return grid.view(rows // 2, 2, cols // 2, 2, 2).permute(0, 2, 1, 3, 4).reshape(rows * cols, 2)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes [n, 4], differentiable; a crossed box has no area."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(-1)
    area_a = (a[:, 2:] - a[:, :2]).clamp_min(0).prod(-1)
    return overlap / (area_a + (b[:, 2:] - b[:, :2]).prod(-1) - overlap + 1e-9)
