"""average_runs: the mean of several finished runs' weights, a run of its own. Knows nothing of training.

Runs that start one from the other lie in one basin of the loss, and the mean of their final weights answers better than the
last of them (stochastic weight averaging, Izmailov et al. 2018; model soups, Wortsman et al. 2022). With shares of more than one
in all, what two runs learnt from the same adopted weights is added up (task vectors, Ilharco et al. 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.nano.build import adopt_weights, fresh_model, save_checkpoint
from training.nano.config import RunConfig, TrainingPlan
from training.nano.state import restart, save_state


def average_runs(plan: TrainingPlan, run: RunConfig, out: Path) -> None:
    """Write `out/<run>/` with state and checkpoint, whose weights are the mean of those of `run.average`, by `run.shares`.

    Raises:
        CheckpointError: one of them has no state in `out`.
    """
    saved = [restart(out / name / "state.pt") for name in run.average]
    progress, _ = saved[-1]
    model = fresh_model(plan.shape, plan.seed)
    models = [parts["model"] for _, parts in saved]
    shares = list(run.shares or [1 / len(models)] * len(models))
    if run.shares:
        adopt_weights(model, plan.adopt)
        models.append({name: value.clone() for name, value in model.state_dict().items()})
        shares.append(1 - sum(shares))
    tensors: dict[str, Any] = {
        "model": weighted(models, shares),
        "heads": weighted([parts["heads"] for _, parts in saved], [1 / len(saved)] * len(saved)),
        "optimizer": None,
    }
    model.load_state_dict(tensors["model"])
    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, folder / "checkpoint")
    save_state(folder / "state.pt", progress, tensors)


def weighted(weights: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    """The sum of float tensors of one shape under one name, each times its share."""
    return {
        name: torch.stack([each[name].float() * share for each, share in zip(weights, shares, strict=True)]).sum(0)
        for name in weights[0]
    }
