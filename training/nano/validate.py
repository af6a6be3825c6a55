"""Validation: a small held-out check while training, on seeds that neither training nor the model card uses."""

from __future__ import annotations

import numpy as np
import torch

from egm_edge.grounding import Task
from training.nano.evaluate import POSITIVE_KINDS, SuiteCase, iou_of, make_cases, patches_of, write
from training.nano.fastpath import FastNano

VALIDATION_SEED = 850_000_000
_BATCH = 32


class Validation:
    """`count` scenes each of modal, amodal (really occluded) and negative questions on 3-6 objects.

    Args:
        count: scenes per kind.
        reasoning: ask for a thought, or for the box at once.
    """

    def __init__(self, count: int, *, reasoning: bool = True) -> None:
        self.count, self.reasoning = count, reasoning
        self._cases: list[SuiteCase] = []
        self._frames: list[torch.Tensor] = []

    def scores(self, fast: FastNano) -> dict[str, float]:
        """Acc@0.5 by name, and their mean as "mean"."""
        if not self._cases:
            self._prepare()
        hits: dict[str, list[bool]] = {}
        for start in range(0, len(self._cases), _BATCH):
            part, patches = self._cases[start : start + _BATCH], torch.stack(self._frames[start : start + _BATCH])
            for case, text in zip(part, write(fast, patches, part, reasoning=self.reasoning), strict=True):
                hits.setdefault(_name(case), []).append(iou_of(text, case.query) >= 0.5)
        scores = {name: float(np.mean(values)) for name, values in hits.items()}
        return scores | {"mean": float(np.mean(list(scores.values())))}

    def _prepare(self) -> None:
        for number, (kinds, task) in enumerate(
            ((POSITIVE_KINDS, Task.MODAL), (POSITIVE_KINDS, Task.AMODAL), (("negative",), Task.MODAL))
        ):
            first = VALIDATION_SEED + number * 1_000_000
            self._cases += make_cases(self.count, (3, 6), kinds, task=task, first_seed=first)
        self._frames = list(patches_of(self._cases))


def _name(case: SuiteCase) -> str:
    if case.query.kind == "negative":
        return "negative"
    return "amodal, occluded" if case.query.task is Task.AMODAL else "modal"
