"""average_runs: the mean of several finished runs' weights, a run of its own. Knows nothing of training.

Runs that start one from the other lie in one basin of the loss, and the mean of their final weights answers better than the
last of them (stochastic weight averaging, Izmailov et al. 2018; model soups, Wortsman et al. 2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.nano.build import fresh_model, save_checkpoint
from training.nano.config import RunConfig, TrainingPlan
from training.nano.state import restart, save_state


def average_runs(plan: TrainingPlan, run: RunConfig, out: Path) -> None:
    """Write `out/<run>/` with state and checkpoint, whose weights are the mean of those of `run.average`.

    Raises:
        CheckpointError: one of them has no state in `out`.
    """
    saved = [restart(out / name / "state.pt") for name in run.average]
    progress, _ = saved[-1]
    tensors: dict[str, Any] = {
        part: mean_of([parts[part] for _, parts in saved]) for part in ("model", "heads")
    } | {"optimizer": None}
    model = fresh_model(plan.shape, plan.seed)
    model.load_state_dict(tensors["model"])
    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, folder / "checkpoint")
    save_state(folder / "state.pt", progress, tensors)


def mean_of(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of float tensors of one shape under one name."""
    return {name: torch.stack([each[name].float() for each in weights]).mean(0) for name in weights[-1]}
