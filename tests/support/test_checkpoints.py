"""The checkpoints that the tests write: loadable by transformers, deterministic, and sensitive to image and text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
from PIL import Image

from tests.support.hf_reference import hf_greedy, hf_inputs, hf_model, hf_processor
from tests.support.large_checkpoints import PRESETS, Qwen3VLDims, write_qwen3_vl_dims
from tests.support.tiny_checkpoints import write_tiny_internvl3, write_tiny_qwen3_vl


@pytest.mark.parametrize("write", [write_tiny_qwen3_vl, write_tiny_internvl3])
def test_same_seed_same_bytes_other_seed_other_bytes(write, tmp_path: Path) -> None:
    weights = [
        (write(tmp_path / n, seed=s) / "model.safetensors").read_bytes() for n, s in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("write", [write_tiny_qwen3_vl, write_tiny_internvl3])
@pytest.mark.parametrize("tied", [True, False], ids=["tied head", "own head"])
def test_answers_depend_on_the_image_and_on_the_text(write, tied: bool, tmp_path: Path) -> None:
    checkpoint = write(tmp_path, tied=tied)
    processor, model = hf_processor(checkpoint), hf_model(checkpoint)
    images = [np.random.default_rng(i).integers(0, 255, (90, 130, 3), np.uint8) for i in range(2)]
    answers = [
        tuple(hf_greedy(model, hf_inputs(processor, Image.fromarray(images[i]), text), 8))
        for i, text in ((0, "red mug"), (1, "red mug"), (0, "blue cup"))
    ]
    assert len(set(answers)) == 3


def test_streamed_widths_load_in_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Qwen3VLDims(hidden=64, ffn=96, layers=4, heads=2, kv_heads=1, vision_hidden=32, vision_layers=6, tied=False)
    monkeypatch.setitem(PRESETS, "small", small)
    monkeypatch.setattr("tests.support.large_checkpoints.SHARD_BYTES", 1 << 24)
    checkpoint = write_qwen3_vl_dims(tmp_path, "small", text_layers=2)
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    model = hf_model(checkpoint)
    assert len(set(index["weight_map"].values())) > 1
    assert set(index["weight_map"]) == set(model.state_dict())
    assert 0.018 < model.lm_head.weight.std().item() < 0.022
