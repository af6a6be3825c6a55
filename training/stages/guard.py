"""What stops a run that goes wrong: a loss or a gradient that is no number, and memory that runs out. Knows no stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from egm_edge.errors import BackendError, EgmError

ROWS = "row_ids"  # key of a batch: which rows it was made of
_SHOWN = 8
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class DivergedError(EgmError):
    """Training left the numbers: the loss or the gradient is NaN or infinite. Nothing was written from there on."""

    exit_code = 7


class Guarded:
    """Mixin in front of a Trainer: `row_ids` leave each batch before the model sees it and name it when the step fails.

    Attributes:
        seen: ids of the rows since the last optimiser step.
    """

    seen: tuple[str, ...] = ()

    def _prepare_inputs(self, inputs: Any) -> Any:
        self.seen = (*self.seen, *_taken(inputs))
        return super()._prepare_inputs(inputs)  # type: ignore[misc]

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*arguments, **options)  # type: ignore[misc]
        if not bool(torch.isfinite(loss).all()):
            self._stop("loss", float(loss.detach().float().mean()))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once an optimiser step, after the gradients are whole and before they are used."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        # float16 overflows now and then by design: its loss scaler skips the step by itself
        if norm is not None and not math.isfinite(float(norm)) and not self.args.fp16:  # type: ignore[attr-defined]
            self._stop("gradient norm", float(norm))
        self.seen = ()
        return norm

    def _stop(self, what: str, value: float) -> None:
        step = self.state.global_step + 1  # type: ignore[attr-defined]
        rows = ", ".join(dict.fromkeys(self.seen[-_SHOWN:])) or "unknown"
        raise DivergedError(
            f"a finite {what} at step {step}",
            f"{value} in the batch of rows {rows}",
            "look at these rows, lower optim.learning_rate; the same command goes on from the last checkpoint",
        )


def _taken(inputs: Any) -> tuple[str, ...]:
    """The row ids of a batch, taken out of it: a dict of tensors (SFT) or a list of data set items (GRPO)."""
    if isinstance(inputs, dict):
        return tuple(inputs.pop(ROWS, ()))
    items = inputs if isinstance(inputs, list) else []
    return tuple(str(item["row_id"]) for item in items if isinstance(item, Mapping) and "row_id" in item)


@contextmanager
def memory_explained(hint: str) -> Iterator[None]:
    """Memory that runs out becomes a BackendError whose hint is what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and not any(phrase in text.lower() for phrase in _OUT_OF_MEMORY):
            raise
        found = text.partition("\n")[0].partition(". ")[0][:160] or "none left"
        raise BackendError("enough memory for a training step", found, hint) from error
