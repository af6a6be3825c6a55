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

from egm_edge.boxes import iou_xyxy
from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from egm_edge.grounding import Outcome
from egm_edge.reporting.intervals import wilson
from training.rewards.registry import ReadAnswer, Reward, RewardTarget
from training.stages.processor import EgmProcessor
from training.stages.samples import task_text

ACCURACY_IOU = 0.5
GREY = 128
BATCH = 8


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer: right (IoU > 0.5, or rightly "not there"), IoU, readable, generated tokens, reward."""

    right: bool
    iou: float
    readable: bool
    tokens: int
    reward: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on `count` rows.

    Attributes:
        accuracy: share with IoU > 0.5, 0-1.
        mean_iou: over all rows, 0-1; unreadable answers are 0.
        parse_rate: share of answers that hold a box or say "not there".
        mean_tokens: generated tokens, the end token included.
        reward: mean of the rewards that the run trains on, None where it has none.
    """

    count: int
    accuracy: float
    mean_iou: float
    parse_rate: float
    mean_tokens: float
    reward: float | None = None

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
    for start in range(0, len(rows), BATCH):
        prompts = []
        for row in rows[start : start + BATCH]:
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


def score_answers(
    model: PreTrainedModel,
    processor: EgmProcessor,
    rows: Sequence[Row],
    images: Path,
    *,
    max_tokens: int,
    blank: bool = False,
    reward: Reward | None = None,
) -> list[Scored]:
    """One score a row. `reward` adds what training would give for the greedy answer."""
    answers = generate_answers(model, processor, rows, images, max_tokens=max_tokens, blank=blank)
    in_thought = processor.prompt_spec.in_thought
    scores = []
    for row, ids in zip(rows, answers, strict=True):
        target = RewardTarget(row.box_norm1000, row.task)
        finished = bool(ids) and ids[-1] in processor.end_token_ids
        text = processor.decode_answer(ids)
        answer = ReadAnswer.read(text, target, token_count=len(ids), finished=finished, in_thought=in_thought)
        scores.append(_scored(answer, target, reward(answer, target) if reward else None))
    return scores


def summarise(scores: Sequence[Scored]) -> Measured:
    """Means over the rows."""
    count = max(1, len(scores))
    rewards = [score.reward for score in scores if score.reward is not None]
    return Measured(
        count=len(scores),
        accuracy=sum(score.right for score in scores) / count,
        mean_iou=sum(score.iou for score in scores) / count,
        parse_rate=sum(score.readable for score in scores) / count,
        mean_tokens=sum(score.tokens for score in scores) / count,
        reward=sum(rewards) / len(rewards) if rewards else None,
    )


def _scored(answer: ReadAnswer, target: RewardTarget, reward: float | None) -> Scored:
    parsed = answer.parsed
    readable = parsed.outcome is not Outcome.UNPARSABLE
    if target.box_norm1000 is None:
        right = parsed.outcome is Outcome.NOT_FOUND
        return Scored(right, float(right), readable, answer.token_count, reward)
    iou = iou_xyxy(parsed.box_norm1000, target.box_norm1000) if parsed.box_norm1000 else 0.0
    return Scored(iou > ACCURACY_IOU, iou, readable, answer.token_count, reward)
