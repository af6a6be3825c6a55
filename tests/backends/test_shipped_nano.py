"""The shipped EGM-Nano on the CPU engine: transformers' own tokens in full precision, the same boxes quantized."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from build_engine.compilers.cpu import build_cpu
from egm_edge.assets import shipped_checkpoint
from egm_edge.boxes import Box
from egm_edge.grounder import Grounder
from egm_edge.grounding import Task

FRAMES = Path(__file__).parents[2] / "examples" / "frames"


def _questions() -> list[tuple[Path, str, str, Box]]:
    rows = json.loads((FRAMES / "expressions.json").read_text())
    return [
        (FRAMES / name, row["expression"], row["task"], Box(*row["box_xyxy_px"])) for name in rows for row in rows[name]
    ]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("nano")
    return {p: build_cpu(shipped_checkpoint(), directory / p, precision=p).root for p in ("fp32", "int8", "int4")}


def test_full_precision_writes_what_transformers_writes(bundles: dict[str, Path]) -> None:
    pytest.importorskip("transformers")
    from tests.support.hf_reference import hf_greedy, hf_inputs, hf_model, hf_processor

    model, processor = hf_model(shipped_checkpoint()), hf_processor(shipped_checkpoint())
    with Grounder.from_bundle(bundles["fp32"], threads=1) as grounder:
        height, width = grounder.pixel_spec.resized_hw(480, 640)
        for path, expression, task, _ in _questions():
            image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            inputs = hf_inputs(processor, image, grounder.prompt_spec.task_text(expression, Task(task)))
            theirs = processor.tokenizer.decode(hf_greedy(model, inputs, 200), skip_special_tokens=True)
            ours = grounder.ground(np.asarray(image), expression, task=task, color="rgb", max_new_tokens=200)
            assert ours.text == theirs


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_boxes_are_full_precisions_boxes(bundles: dict[str, Path], precision: str) -> None:
    ious = []
    with (
        Grounder.from_bundle(bundles["fp32"], threads=1) as full,
        Grounder.from_bundle(bundles[precision]) as quantized,
    ):
        for path, expression, task, _ in _questions():
            reference, candidate = (g.ground(path, expression, task=task) for g in (full, quantized))
            if reference.box:
                ious.append(reference.box.iou(candidate.box) if candidate.box else 0.0)
    assert len(ious) >= 10
    assert np.median(ious) > 0.9
    assert np.mean(np.array(ious) >= 0.5) >= 0.8


def test_the_sample_frames_are_mostly_grounded(bundles: dict[str, Path]) -> None:
    with Grounder.from_bundle(bundles["int8"]) as grounder:
        found = [grounder.ground(path, e, task=task) for path, e, task, _ in _questions()]
    hits = [g.box is not None and g.box.iou(truth) > 0.5 for g, (*_, truth) in zip(found, _questions(), strict=True)]
    print(f"{sum(hits)} of {len(hits)} sample expressions grounded")
    assert np.mean(hits) >= 0.5
