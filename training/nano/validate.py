"""Validation: a small held-out check while training, on seeds that neither training nor the model card uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from training.nano.evaluate import iou_of, patches_of, write
from training.nano.fastpath import FastNano
from training.nano.suites import TABLE, SuiteCase

VALIDATION_SEED = 850_000_000
_BATCH = 32
_DRAWN = ("modal", "amodal-occluded", "absent", "unheard")
_HOUSEHOLD = ("household", "household-amodal", "household-absent")


class Validation:
    """`count` scenes each of modal, amodal (really occluded) and absent questions on 3-6 objects.

    Args:
        count: scenes per suite.
        reasoning: ask for a thought, or for the box at once.
        household: ask about household scenes too.
    """

    def __init__(self, count: int, *, reasoning: bool = True, household: bool = False) -> None:
        self.count, self.reasoning = count, reasoning
        self._suites = {name: TABLE[name] for name in (*_DRAWN, *(_HOUSEHOLD if household else ()))}
        self._cases: dict[str, list[SuiteCase]] = {}
        self._frames: dict[str, torch.Tensor] = {}

    def scores(self, fast: FastNano) -> dict[str, float]:
        """Acc@0.5 by suite, and their mean as "mean"."""
        scores = {}
        for number, (name, suite) in enumerate(self._suites.items()):
            if name not in self._cases:
                moved = replace(suite, first_seed=VALIDATION_SEED + number * 1_000_000)
                self._cases[name] = moved.cases(self.count)
                self._frames[name] = patches_of(self._cases[name])
            cases, hits = self._cases[name], []
            for start in range(0, len(cases), _BATCH):
                part, patches = cases[start : start + _BATCH], self._frames[name][start : start + _BATCH]
                texts = write(fast, patches, part, reasoning=self.reasoning)
                hits += [iou_of(text, case.query) >= 0.5 for case, text in zip(part, texts, strict=True)]
            scores[name] = float(np.mean(hits))
        return scores | {"mean": float(np.mean(list(scores.values())))}
