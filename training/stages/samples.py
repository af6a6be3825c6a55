"""Rows to tensors: the collator of SFT, the data set of GRPO, and the check that no row is too long.

Loss falls on the answer only: reasoning, box and end-of-turn token. Nothing is ever cut to fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]

from egm_edge.data.pictures import find_picture, load_picture
from egm_edge.data.problems import Problem, require_none
from egm_edge.data.readers import at_row
from egm_edge.data.rows import Row, row_from_dict
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from training.stages.answers import answer_text
from training.stages.guard import ROWS
from training.stages.processor import EgmProcessor

IGNORED = -100
ROW = "row"


def task_text(row: Row, processor: EgmProcessor) -> str:
    """The user's text for a row."""
    return processor.prompt_spec.task_text(row.expression, row.task)


def answer_ids(row: Row, processor: EgmProcessor) -> list[int]:
    """Tokens of the answer, the end of the turn included."""
    text = answer_text(row, processor.prompt_spec) + processor.tokenizer.eos_token
    return list(processor.ids.encode(text, add_special_tokens=False).ids)


class SftCollator:
    """A batch of data set items to model inputs with `labels`, right-padded, and the rows' ids for `stages.guard`."""

    def __init__(self, processor: EgmProcessor, images: Path) -> None:
        self.processor = processor
        self.images = images

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = [row_of(item) for item in items]
        prompts = [self.processor.prompt(load_picture(r, self.images), task_text(r, self.processor)) for r in rows]
        answers = [answer_ids(r, self.processor) for r in rows]
        lengths = [len(p.ids) + len(a) for p, a in zip(prompts, answers, strict=True)]
        longest, pad = max(lengths), self.processor.tokenizer.pad_token_id
        ids = torch.full((len(rows), longest), pad)
        labels = torch.full((len(rows), longest), IGNORED)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, (prompt, answer, length) in enumerate(zip(prompts, answers, lengths, strict=True)):
            ids[i, :length] = torch.tensor(prompt.ids + answer)
            labels[i, len(prompt.ids) : length] = torch.tensor(answer)
            mask[i, :length] = 1
        vision = self.processor.vision_inputs([p.pixels for p in prompts])
        named = {ROWS: [row.id for row in rows]}
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            **self.processor.token_types(ids),
            **vision,
            **named,
        }


def sft_dataset(rows: Sequence[Row]) -> Dataset:
    """One text column; the collator does the rest, so that pictures are read when they are needed."""
    return Dataset.from_dict({ROW: [json.dumps(row.to_dict(), ensure_ascii=False) for row in rows]})


def grpo_dataset(rows: Sequence[Row], processor: EgmProcessor, images: Path) -> Dataset:
    """Columns that TRL and the rewards take: prompt, images, target_norm1000, task, row_id. Pictures load on access."""
    stored = sft_dataset(rows)

    def load(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        from PIL import Image

        found = [row_of({ROW: text}) for text in batch[ROW]]
        return {
            "prompt": [[{"role": "user", "content": task_text(r, processor)}] for r in found],
            "images": [[Image.fromarray(load_picture(r, images))] for r in found],
            "target_norm1000": [list(r.box_norm1000) if r.box_norm1000 else None for r in found],
            "task": [r.task.value for r in found],
            "row_id": [r.id for r in found],
        }

    return stored.with_transform(load)


def row_of(item: dict[str, Any]) -> Row:
    """The row of a data set item."""
    return row_from_dict(json.loads(item[ROW]), "row", "dataset")


def require_usable(
    rows: Sequence[Row], processor: EgmProcessor, images: Path, *, limit: int, with_answer: bool, task: Task
) -> None:
    """Fail before training rather than in the middle of it: every row's picture is there and it fits.

    Raises:
        DataError: with every row of another task, without its picture, or longer than `limit` tokens.
    """
    if not rows:
        raise InputError("rows to train on", "none", "check data.train in the configuration")
    problems: list[Problem] = []
    seen: dict[str, bool] = {}
    for row in rows:
        if row.task is not task:
            problems.append(at_row(row, f"{task.value} rows", f"a row of task {row.task.value}"))
        if row.image not in seen:
            seen[row.image] = _has_picture(row, images)
        if not seen[row.image]:
            problems.append(at_row(row, f"the picture {row.image} in {images}", "no such file"))
        if row.image_wh is None:
            problems.append(at_row(row, "'width' and 'height' of every row", "neither"))
            continue
        length = processor.prompt_length(row.image_wh, task_text(row, processor))
        length += len(answer_ids(row, processor)) if with_answer else 0
        if length > limit:
            problems.append(at_row(row, f"at most {limit} tokens", f"{length}"))
    require_none(problems)


def _has_picture(row: Row, images: Path) -> bool:
    try:
        return bool(find_picture(row.image, [images]))
    except InputError:
        return False
