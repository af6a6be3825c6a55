"""The recipe at small scale: EGM-Nano after SFT, forty GRPO steps with TRL on two cores, validated as it goes.

    git archive 5aded86 egm_edge/assets/egm-nano | tar x --strip-components=2 -C out   # v0: reasoning SFT, no GRPO yet
    python -m tests.bench.grpo_nano out/egm-nano out/grpo-nano

Draws 1,200 training and 300 validation scenes (3-6 objects; attribute, superlative, ordinal, relation and negative questions
in turn; seeds of their own), writes rows and configuration, and runs `egm train grpo`: 8 questions of 8 answers a step. The
curve is OUT/run/validation.jsonl and .svg. About 20 CPU-minutes.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import cv2

from egm_edge.boxes import Box
from egm_edge.data.rows import Row, write_rows
from egm_edge.grounding import Task
from egm_edge.synthetic import layout, render, sample_query, sample_scene
from egm_edge.synthetic.queries import KINDS
from training import grpo

WIDTH, HEIGHT = 256, 192
SPLITS = {"train": (700_000_000, 1200), "val": (860_000_000, 300)}
CONFIG = """\
task: modal
model: {{base: {checkpoint}, dtype: float32}}
data: {{train: [{out}/train.jsonl], images: {out}/images, validation: [{out}/val.jsonl]}}
optim: {{learning_rate: 1.0e-4, schedule: constant_with_warmup, warmup_steps: 3}}
sampling: {{generations: 8, max_tokens: 96, temperature: 0.8, top_p: 1.0, top_k: 0}}
loss: {{ratio: sequence, kl: 0.0}}
rewards: {{grounding: 1.0, not_there: 1.0}}
run: {{output: {out}/run, max_steps: 40, batch_per_device: 64, save_steps: 20, eval_steps: 8, rollout_steps: 8, log_steps: 1,
      workers: 0, gradient_checkpointing: false, card_samples: 300, step0_checks: false}}
"""


def write_split(out: Path, split: str) -> None:
    """Pictures and rows of one split."""
    seed, count = SPLITS[split]
    rows: list[Row] = []
    (out / "images" / split).mkdir(parents=True, exist_ok=True)
    while len(rows) < count:
        seed += 1
        kind = KINDS[len(rows) % len(KINDS)]
        scene = sample_scene(seed, (3, 6))
        query = sample_query(scene, layout(scene, WIDTH, HEIGHT), random.Random(seed), kind=kind, task=Task.MODAL)
        if query is None:
            continue
        name = f"{split}/{seed}.png"
        cv2.imwrite(str(out / "images" / name), render(scene, WIDTH, HEIGHT).image[..., ::-1])
        box = (
            Box.from_norm1000(query.box_norm1000, WIDTH, HEIGHT).clipped(WIDTH, HEIGHT) if query.box_norm1000 else None
        )
        text, size = query.expression, (WIDTH, HEIGHT)
        rows.append(Row(f"{split}-{seed}", name, size, text, box, dataset="tabletop", split=split, kind=kind))
    write_rows(out / f"{split}.jsonl", rows)


def main(checkpoint: Path, out: Path) -> int:
    for split in SPLITS:
        write_split(out, split)
    (out / "grpo.yaml").write_text(CONFIG.format(checkpoint=checkpoint, out=out))
    return grpo.main([str(out / "grpo.yaml")])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
