"""Boxes of a checkpoint on held-out rows, by greedy decoding with transformers: the numbers of a model card.

Accuracy is the benchmark's: IoU > 0.5 strictly, an unreadable answer counts as wrong, a not-there row is right when the
answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from egm_edge.grounding import Outcome
from egm_edge.parsing import parse_answer
from egm_edge.reporting.intervals import wilson
from training.rewards.grounding import iou_norm1000
from training.stages.answers import opens_thought
from training.stages.processor import EgmProcessor
from training.stages.samples import task_text

ACCURACY_IOU = 0.5
GREY = 128


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on `count` rows.

    Attributes:
        accuracy: share with IoU > 0.5, 0-1.
        mean_iou: over all rows, 0-1; unreadable answers are 0.
        parse_rate: share of answers that hold a box or say "not there".
        mean_tokens: generated tokens, the end token included.
    """

    count: int
    accuracy: float
    mean_iou: float
    parse_rate: float
    mean_tokens: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson(round(self.accuracy * self.count), self.count)


def generate_answers(
    model: PreTrainedModel,
    processor: EgmProcessor,
    rows: Sequence[Row],
    images: Path,
    *,
    max_tokens: int,
    batch: int = 8,
    blank: bool = False,
) -> list[list[int]]:
    """Greedily generated tokens for each row, cut after the first end token.

    Args:
        blank: show a grey picture of the same size instead.
    """
    answers: list[list[int]] = []
    ends = set(processor.end_token_ids)
    learning = model.training
    model.eval()
    for start in range(0, len(rows), batch):
        prompts = []
        for row in rows[start : start + batch]:
            picture = load_picture(row, images)
            shown = np.full_like(picture, GREY) if blank else picture
            prompts.append(processor.prompt(shown, task_text(row, processor)))
        inputs = {key: value.to(model.device) for key, value in processor.model_inputs(prompts).items()}
        with torch.no_grad():
            out = model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=processor.end_token_ids,
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        for tokens in out[:, inputs["input_ids"].shape[1] :].tolist():
            stop = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
            answers.append(tokens[:stop])
    model.train(learning)
    return answers


def measure(
    model: PreTrainedModel,
    processor: EgmProcessor,
    rows: Sequence[Row],
    images: Path,
    *,
    max_tokens: int,
    blank: bool = False,
) -> Measured:
    """Greedy answers of all rows, scored."""
    answers = generate_answers(model, processor, rows, images, max_tokens=max_tokens, blank=blank)
    scored = [_score(row, ids, processor) for row, ids in zip(rows, answers, strict=True)]
    count = max(1, len(rows))
    return Measured(
        count=len(rows),
        accuracy=sum(right for right, _, _ in scored) / count,
        mean_iou=sum(iou for _, iou, _ in scored) / count,
        parse_rate=sum(readable for _, _, readable in scored) / count,
        mean_tokens=sum(len(ids) for ids in answers) / count,
    )


def _score(row: Row, ids: Sequence[int], processor: EgmProcessor) -> tuple[bool, float, bool]:
    """Right, IoU, readable."""
    in_thought = opens_thought(processor.prompt_spec)
    parsed = parse_answer(processor.decode_answer(ids), task=row.task, in_thought=in_thought)
    readable = parsed.outcome is not Outcome.UNPARSABLE
    target = row.box_norm1000
    if target is None:
        right = parsed.outcome is Outcome.NOT_FOUND
        return right, float(right), readable
    if parsed.box_norm1000 is None:
        return False, 0.0, readable
    iou = iou_norm1000(parsed.box_norm1000, target)
    return iou > ACCURACY_IOU, iou, readable
