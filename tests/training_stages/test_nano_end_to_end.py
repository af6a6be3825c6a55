"""From scenes to a finished checkpoint with the shipped EGM-Nano: the one model here that really sees."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import pytest

from egm_edge.boxes import Box
from egm_edge.data.rows import Row, write_rows
from egm_edge.synthetic.queries import queries
from egm_edge.synthetic.render import render
from egm_edge.synthetic.sample import sample_scene
from training import data_cli, grpo
from training.stage_config import load_grpo

NANO = Path("egm_edge/assets/egm-nano")
WIDTH, HEIGHT = 256, 192
FIRST_SEED = {"train": 880_000_000, "val": 881_000_000}


def _scenes(root: Path, split: str, count: int) -> Path:
    rows = []
    for index in range(count):
        seed = FIRST_SEED[split] + index
        scene = sample_scene(seed, (2, 4))
        picture = render(scene, WIDTH, HEIGHT)
        name = f"{split}{index}.png"
        (root / "images").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / "images" / name), picture.image[..., ::-1])
        for number, query in enumerate(queries(scene, random.Random(seed), where=picture.layout, count=2, amodal=0.0)):
            box = Box.from_norm1000(query.box_norm1000, WIDTH, HEIGHT) if query.box_norm1000 else None
            rows.append(
                Row(
                    id=f"{split}-{index}-{number}",
                    image=name,
                    image_wh=(WIDTH, HEIGHT),
                    expression=query.expression,
                    box=box.clipped(WIDTH, HEIGHT) if box else None,
                    dataset="scenes",
                    split=split,
                )
            )
    write_rows(root / f"{split}.jsonl", rows)
    return root / f"{split}.jsonl"


@pytest.mark.slow
@pytest.mark.skipif(not (NANO / "model.safetensors").is_file(), reason="the shipped EGM-Nano weights are not here")
def test_grpo_of_the_shipped_model_passes_every_step_zero_check(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    caplog.set_level("INFO")
    train, val = _scenes(tmp_path, "train", 4), _scenes(tmp_path, "val", 8)
    assert data_cli.main(["check", str(tmp_path), "--images", str(tmp_path / "images"), "--decode"]) == 0
    path = tmp_path / "nano.yaml"
    path.write_text(
        f"""task: modal
model: {{base: {NANO}, dtype: float32}}
data: {{train: [{train}], images: {tmp_path / "images"}, validation: [{val}]}}
optim: {{learning_rate: 1.0e-6}}
sampling: {{generations: 4, max_tokens: 96, temperature: 0.7, top_p: 1.0, top_k: 0}}
loss: {{ratio: sequence, kl: 0.005}}
rewards: {{grounding: 1.0, format: 0.1}}
run: {{output: {tmp_path / "out"}, max_steps: 1, batch_per_device: 8, save_steps: 1, log_steps: 1, workers: 0,
      gradient_checkpointing: false, card_tokens: 96}}
"""
    )
    final = grpo.run_grpo(load_grpo(str(path)))
    findings = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step-0")]
    assert len(findings) == 7 and all(": ok; " in finding for finding in findings), findings
    measured = json.loads((final / "egm_training.json").read_text())["measured"]
    assert measured["parse_rate"] > 0.9 and measured["mean_iou"] > 0.3
    state = json.loads((tmp_path / "out" / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["log_history"][0]["rewards/grounding/mean"] > 0.1
