"""supervised_loss: one step on written answers, with the vision tower's dense lessons. Knows nothing of budgets or files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.nano.auxiliary import AuxiliaryHeads, auxiliary_loss, soft_targets
from training.nano.config import TrainingStage
from training.nano.data import Batch
from training.nano.fastpath import FastNano, learning_arithmetic
from training.nano.losses import row_loss


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What a step gives.

    Attributes:
        total: scalar to minimise; None when there is nothing to learn.
        measures: what to log.
        queries: questions seen.
        coordinate_error: mean absolute error of the coordinates, of 1000, for the curriculum.
    """

    total: Tensor | None
    measures: dict[str, float]
    queries: int
    coordinate_error: float | None = None


def supervised_loss(
    fast: FastNano, heads: AuxiliaryHeads, stage: TrainingStage, batch: Batch, progress: float
) -> StepLoss:
    """Loss of a batch on the model's device.

    Args:
        progress: share of the stage done, 0-1; the coordinate targets narrow along the way.
    """
    soft = soft_targets(stage.sigma[0] + (stage.sigma[1] - stage.sigma[0]) * progress).to(fast.device)
    learns_vision = stage.vision_lr > 0
    with learning_arithmetic(fast.device):
        with torch.set_grad_enabled(learns_vision):
            seen = fast.vision(batch.patches, batch.grid_hw)
        rows = None
        if batch.groups:
            rows = row_loss(fast, fast.prefix(seen, batch.grid_hw), batch.groups, soft)
    table = fast.text.embed_tokens.weight
    taught = learns_vision and (stage.dense or not rows)
    dense = auxiliary_loss(heads, seen, batch.dense, batch.grid_hw, table, soft) if taught else None
    measures: dict[str, float] = {}
    total = torch.zeros((), device=fast.device)
    if rows:
        total = total + rows.total
        measures |= {"loss": rows.total.item(), "coordinate error": rows.coordinate_error, "words": rows.word_accuracy}
    if dense:
        total = total + (stage.dense if rows else 1.0) * dense.total
        measures |= {
            "dense": dense.total.item(),
            "shape": dense.shape_accuracy,
            "IoU": dense.iou,
            "align": dense.align_error,
        }
    seen_queries = sum(len(group.ids) for group in batch.groups)
    return StepLoss(total, measures, seen_queries, rows.coordinate_error if rows else None)
