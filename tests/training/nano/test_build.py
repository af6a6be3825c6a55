"""The checkpoint is a plain, small Hugging Face directory and is replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from training.nano.build import NanoShape, fresh_model, save_checkpoint

FILES = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "preprocessor_config.json", "generation_config.json",
}  # fmt: skip


def test_loads_as_the_true_architecture(nano_folder: Path) -> None:
    assert {path.name for path in nano_folder.iterdir()} >= FILES
    model = AutoModelForImageTextToText.from_pretrained(nano_folder)
    assert isinstance(model, Qwen3VLForConditionalGeneration)
    assert sum(path.stat().st_size for path in nano_folder.iterdir()) < 15e6


def test_weights_are_bf16_and_the_head_is_tied(nano_folder: Path) -> None:
    with safe_open(nano_folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}
        assert not any("lm_head" in name for name in weights.keys())


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = fresh_model(NanoShape(), 5).state_dict(), fresh_model(NanoShape(), 5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training.nano.build as build

    model = fresh_model(NanoShape())
    folder = tmp_path / "checkpoint"
    save_checkpoint(model, folder)
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "save_tokenizer", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(fresh_model(NanoShape(), 9), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
