"""Tiny runs for the tests: coloured rectangles on noise, rows that name them, and settings for two quick steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from egm_edge.boxes import Box
from egm_edge.data.rows import Row, write_rows
from egm_edge.grounding import Task

COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "white": (255, 255, 255)}
SIZES = [(96, 64), (64, 96), (80, 80), (120, 60)]  # several aspect ratios, hence several grids and tile counts


def write_data(root: Path, count: int = 8, *, split: str = "train", task: Task = Task.MODAL, first: int = 0) -> Path:
    """`SPLIT.jsonl` with pictures under `root/images`; every second row has reasoning, the last one is not there."""
    rows = []
    for index in range(first, first + count):
        rng = np.random.default_rng(index)
        name, colour = list(COLOURS.items())[index % len(COLOURS)]
        width, height = SIZES[index % len(SIZES)]
        canvas = rng.integers(90, 130, (height, width, 3), np.uint8)
        x1, y1 = int(rng.integers(4, width // 2)), int(rng.integers(4, height // 2))
        x2, y2 = x1 + width // 3, y1 + height // 3
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, -1)
        path = root / "images" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), canvas)
        absent = index == first + count - 1 and count > 3
        rows.append(
            Row(
                id=f"{split}-{index}",
                image=path.name,
                image_wh=(width, height),
                expression=f"the {name} one",
                box=None if absent else Box(x1, y1, x2, y2),
                task=task,
                split=split,
                dataset="rectangles",
                reasoning="It is the only one." if index % 2 else "",
                mirrored=index % 3 == 2,
            )
        )
    write_rows(root / f"{split}.jsonl", rows)
    return root / f"{split}.jsonl"


def sft_yaml(path: Path, checkpoint: Path, data: Path, output: Path, **changes: str) -> Path:
    """A configuration of two quick steps in float32."""
    return _write(path, checkpoint, data, output, changes, "")


def grpo_yaml(path: Path, checkpoint: Path, data: Path, output: Path, **changes: str) -> Path:
    extra = """
sampling: {generations: 4, max_tokens: 12, temperature: 1.0, top_p: 1.0, top_k: 0}
loss: {ratio: sequence, kl: 0.005}
rewards: {grounding: 1.0, format: 0.1, latency: 0.1, not_there: 1.0}
"""
    return _write(path, checkpoint, data, output, changes, extra)


def _write(path: Path, checkpoint: Path, data: Path, output: Path, changes: dict[str, str], extra: str) -> Path:
    values: dict[str, Any] = {
        "max_steps": "2",
        "batch_per_device": "4",
        "accumulation": "1",
        "deepspeed": "none",
        "save_steps": "1",
        "step0_checks": "false",
        "card_tokens": "8",
        "lora": "0",
        "learning_rate": "1.0e-3",
        "validation": "[]",
        "gradient_checkpointing": "false",
        "dtype": "float32",
        "eval_steps": "0",
        "train": "[language_model, projector]",
        "schedule": "cosine",
    } | changes
    path.write_text(
        f"""task: modal
model: {{base: {checkpoint}, dtype: {values["dtype"]}, train: {values["train"]}}}
data: {{train: [{data}], images: {data.parent / "images"}, validation: {values["validation"]}}}
optim: {{learning_rate: {values["learning_rate"]}, warmup_ratio: 0.03, schedule: {values["schedule"]}}}
lora: {{rank: {values["lora"]}}}
run:
  output: {output}
  epochs: 1000
  max_steps: {values["max_steps"]}
  batch_per_device: {values["batch_per_device"]}
  accumulation: {values["accumulation"]}
  deepspeed: {values["deepspeed"]}
  save_steps: {values["save_steps"]}
  eval_steps: {values["eval_steps"]}
  log_steps: 1
  workers: 0
  gradient_checkpointing: {values["gradient_checkpointing"]}
  step0_checks: {values["step0_checks"]}
  card_tokens: {values["card_tokens"]}
{extra}""",
        encoding="utf-8",
    )
    return path
