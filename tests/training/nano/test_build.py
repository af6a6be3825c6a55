"""The checkpoint is a plain, small Hugging Face directory and is replaced whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from egm_edge.errors import CheckpointError
from training.nano.build import NanoShape, adopt_weights, fresh_model, save_checkpoint
from training.nano.prompts import token_id

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


def test_an_earlier_nanos_weights_are_adopted_by_token(nano_folder: Path, tmp_path: Path) -> None:
    """With a word less and the ids behind it shifted, every old token keeps its row; the new word begins as its noun does."""
    older = shutil.copytree(nano_folder, tmp_path / "older")
    saved = json.loads((older / "tokenizer.json").read_text())
    vocab = saved["model"]["vocab"]
    gone = vocab.pop("Ġsphere")
    for token, row in vocab.items():
        vocab[token] = row - (row > gone)
    for token in saved["added_tokens"]:
        token["id"] -= token["id"] > gone
    (older / "tokenizer.json").write_text(json.dumps(saved))
    weights = load_file(older / "model.safetensors")
    name = "model.language_model.embed_tokens.weight"
    table = weights[name]
    weights[name] = torch.cat([table[:gone], table[gone + 1 :]])
    save_file(weights, older / "model.safetensors", {"format": "pt"})
    model = fresh_model(NanoShape(), seed=4)
    adopt_weights(model, str(older))
    found = model.state_dict()[name]
    assert torch.equal(found[:gone], table[:gone].float()) and torch.equal(found[gone + 1 :], table[gone + 1 :].float())
    assert torch.equal(found[gone], table[token_id("Ġball")].float())
    with pytest.raises(CheckpointError, match="adopt or shape"):
        adopt_weights(fresh_model(NanoShape(vision_mlp=256)), str(older))


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
