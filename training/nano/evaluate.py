"""Held-out accuracy of a Nano checkpoint: greedy answers on camera frames through the true resize.

Knows nothing of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from egm_edge._processor_config import reading_checkpoint
from egm_edge.boxes import iou_xyxy
from egm_edge.grounding import Outcome
from egm_edge.parsing import parse_answer
from egm_edge.reporting.intervals import wilson
from egm_edge.synthetic import Query
from training.nano.data import CAMERA, patchify
from training.nano.fastpath import FastNano
from training.nano.generate import generate
from training.nano.prompts import CLOSED, PREFIX, prompt_ids, token_id, tokenizer
from training.nano.suites import SuiteCase


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


def patches_of(cases: list[SuiteCase]) -> Tensor:
    """Frames as the model sees them, [B, N, 768] float32; all of one suite, hence of one size."""
    return torch.from_numpy(np.stack([patchify(case.frame(), CAMERA) for case in cases]))


def write(fast: FastNano, patches: Tensor, cases: list[SuiteCase], *, reasoning: bool) -> list[str]:
    """What the model writes for these cases, given their frames; the direct mode's closed thought is part of the text."""
    width, height = cases[0].suite.frame_wh
    rows, columns = (side // CAMERA.patch_size for side in CAMERA.resized_hw(height, width))
    grid_hw = (rows, columns)
    prompts = [prompt_ids(case.query, reasoning) for case in cases]
    with torch.no_grad():
        prefix = fast.prefix(fast.vision(patches.to(fast.device), grid_hw), grid_hw)
    answers = generate(fast, prefix, list(range(len(cases))), prompts, token_id("<|im_end|>"))
    return [("" if reasoning else CLOSED) + tokenizer().decode(answer.ids, skip_special_tokens=True) for answer in answers]


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
    return iou_xyxy(parsed.box_norm1000, query.box_norm1000)


def score(ious: list[float]) -> Score:
    """Acc@0.5 with its 95 % Wilson interval."""
    count, hits = len(ious), sum(v >= 0.5 for v in ious)
    return Score(hits / count, sum(ious) / count, count, wilson(hits, count))


def load_fast(folder: Path, device: torch.device | None = None) -> FastNano:
    """Open a checkpoint directory (fp32 arithmetic on its stored weights)."""
    with reading_checkpoint(f"a checkpoint that transformers opens in {folder}"):
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return wrap(model.to(device or torch.device("cpu")))


def wrap(model: Qwen3VLForConditionalGeneration) -> FastNano:
    return FastNano(model, tokenizer().encode(PREFIX).ids, token_id("<|vision_end|>"))
