"""Held-out accuracy of a Nano checkpoint: greedy answers on 640x480 frames through the true resize.

Evaluation seeds start at EVALUATION_SEED; training never reaches them. Knows nothing of training.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from egm_edge.boxes import Box
from egm_edge.grounding import Outcome, Task
from egm_edge.parsing import parse_answer
from egm_edge.reporting.intervals import wilson
from egm_edge.synthetic import Query, layout, render, sample_query, sample_scene
from training.nano.data import CAMERA, patchify
from training.nano.fastpath import FastNano
from training.nano.generate import greedy
from training.nano.prompts import CLOSED, PREFIX, prompt_ids, token_id, tokenizer

EVALUATION_SEED = 900_000_000
FRAME_WH, MODEL_WH = (640, 480), (256, 192)
_BATCH = 32


@dataclass(frozen=True, slots=True)
class SuiteCase:
    """One held-out question: its scene's seed and object range, and the query."""

    seed: int
    objects: tuple[int, int]
    query: Query
    occluded: bool


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy of a group of cases.

    Attributes:
        accuracy: share with IoU >= 0.5 (of negatives: share answered with the empty list).
        mean_iou: mean IoU (of negatives: equal to accuracy).
        count: number of cases, each on a scene of its own.
        interval95: Wilson interval of `accuracy`.
    """

    accuracy: float
    mean_iou: float
    count: int
    interval95: tuple[float, float]


def make_cases(
    count: int,
    objects: tuple[int, int],
    kinds: tuple[str, ...],
    *,
    task: Task = Task.MODAL,
    first_seed: int = EVALUATION_SEED,
) -> list[SuiteCase]:
    """`count` cases on as many scenes, kinds in turn; an amodal case asks for a really occluded object."""
    cases: list[SuiteCase] = []
    seed = first_seed
    while len(cases) < count:
        seed += 1
        scene = sample_scene(seed, objects, occlusion=1.0 if task is Task.AMODAL else 0.35)
        where = layout(scene, *FRAME_WH)
        query = sample_query(scene, where, random.Random(seed), kind=kinds[len(cases) % len(kinds)], task=task)
        if query is None:
            continue
        occluded = query.target is not None and where.visible[query.target] < 0.9
        if task is Task.AMODAL and not occluded:
            continue
        cases.append(SuiteCase(seed, objects, query, occluded))
    return cases


def frame_of(case: SuiteCase) -> NDArray[np.uint8]:
    """The case's camera frame, [480, 640, 3] uint8 RGB."""
    scene = sample_scene(case.seed, case.objects, occlusion=1.0 if case.query.task is Task.AMODAL else 0.35)
    return render(scene, *FRAME_WH).image


def answers(fast: FastNano, cases: list[SuiteCase], *, reasoning: bool = True, batch: int = _BATCH) -> list[str]:
    """What the model writes for every case."""
    texts: list[str] = []
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        texts += write(fast, patches_of(part), part, reasoning=reasoning)
    return texts


def patches_of(cases: list[SuiteCase]) -> Tensor:
    """Frames as the model sees them, [B, N, 768] float32."""
    return torch.from_numpy(np.stack([patchify(frame_of(case), CAMERA) for case in cases]))


def write(fast: FastNano, patches: Tensor, cases: list[SuiteCase], *, reasoning: bool) -> list[str]:
    """What the model writes for these cases, given their frames; the direct mode's closed thought is part of the text."""
    grid_hw = (MODEL_WH[1] // 16, MODEL_WH[0] // 16)
    prompts = [prompt_ids(case.query, reasoning) for case in cases]
    with torch.no_grad():
        prefix = fast.prefix(fast.vision(patches.to(fast.device), grid_hw), grid_hw)
    ids = greedy(fast, prefix, list(range(len(cases))), prompts, token_id("<|im_end|>"))
    return [("" if reasoning else CLOSED) + tokenizer().decode(row, skip_special_tokens=True) for row in ids]


def rejects(text: str, query: Query) -> bool:
    """Whether the answer says that nothing like it is there."""
    return parse_answer(text, task=query.task, in_thought=True).outcome is Outcome.NOT_FOUND


def iou_of(text: str, query: Query) -> float:
    """IoU of the answer's box; a negative scores 1 when the answer says that nothing is there."""
    parsed = parse_answer(text, task=query.task, in_thought=True)
    if query.box_norm1000 is None:
        return float(parsed.outcome is Outcome.NOT_FOUND)
    if parsed.box_norm1000 is None:
        return 0.0
    truth = Box.from_norm1000(query.box_norm1000, *FRAME_WH)
    return truth.iou(Box.from_norm1000(parsed.box_norm1000, *FRAME_WH))


def score(ious: list[float]) -> Score:
    """Acc@0.5 with its 95 % Wilson interval."""
    count, hits = len(ious), sum(v >= 0.5 for v in ious)
    return Score(hits / count, sum(ious) / count, count, wilson(hits, count))


def by_kind(cases: list[SuiteCase], texts: list[str]) -> dict[str, Score]:
    """Scores per query kind and over all."""
    groups: dict[str, list[float]] = defaultdict(list)
    for case, text in zip(cases, texts, strict=True):
        value = iou_of(text, case.query)
        groups[case.query.kind].append(value)
        groups["all"].append(value)
    return {name: score(values) for name, values in groups.items()}


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of held-out questions, one a scene."""

    name: str
    objects: tuple[int, int]
    kinds: tuple[str, ...]
    task: Task
    first_seed: int

    def cases(self, count: int) -> list[SuiteCase]:
        return make_cases(count, self.objects, self.kinds, task=self.task, first_seed=self.first_seed)


POSITIVE_KINDS: tuple[str, ...] = ("attribute", "superlative", "ordinal", "relation")
MODAL = Suite("3-6 objects, modal", (3, 6), POSITIVE_KINDS, Task.MODAL, EVALUATION_SEED)
AMODAL = Suite("3-6 objects, amodal, occluded target", (3, 6), POSITIVE_KINDS, Task.AMODAL, EVALUATION_SEED + 2_000_000)
NEGATIVE = Suite("3-6 objects, negative", (3, 6), ("negative",), Task.MODAL, EVALUATION_SEED + 4_000_000)
EASY = Suite("1-3 objects, attribute", (1, 3), ("attribute",), Task.MODAL, EVALUATION_SEED + 6_000_000)


def load_fast(folder: Path, device: torch.device | None = None) -> FastNano:
    """Open a checkpoint directory (fp32 arithmetic on its stored weights)."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return wrap(model.to(device or torch.device("cpu")))


def wrap(model: Qwen3VLForConditionalGeneration) -> FastNano:
    return FastNano(model, tokenizer().encode(PREFIX).ids, token_id("<|vision_end|>"))
