"""EgmProcessor gives what the Hugging Face processor of the same checkpoint gives, for every picture shape."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from egm_edge.errors import CheckpointError, InputError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.pixels import PixelSpec
from tests.support.hf_reference import hf_inputs, hf_processor
from tests.training_stages.runs import SIZES
from training.stage_config import ModelSettings
from training.stages.model import load_model
from training.stages.processor import EgmProcessor

TEXT = "Locate the red mug, output its bbox coordinates using JSON format"


@pytest.fixture(params=["tiny_qwen3_vl", "tiny_internvl3"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def _pictures() -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (h, w, 3), np.uint8))
        for i, (w, h) in enumerate([*SIZES, (400, 90)])
    ]


def test_prompts_and_pixels_equal_the_hugging_face_processor(checkpoint: Path) -> None:
    ours, theirs = EgmProcessor(checkpoint), hf_processor(checkpoint)
    for picture in _pictures():
        prompt = ours.prompt(np.asarray(picture), TEXT)
        expected = hf_inputs(theirs, picture, TEXT)
        found = ours.model_inputs([prompt])
        for name in ("input_ids", "pixel_values", "image_grid_thw"):
            assert (name in found) == (name in expected)
            if name in found:
                torch.testing.assert_close(found[name], expected[name].to(found[name].dtype), rtol=0, atol=1e-6)
        assert len(prompt.ids) == ours.prompt_length(picture.size, TEXT)


def test_trl_sees_the_same_ids_when_it_generates_and_when_it_scores(checkpoint: Path) -> None:
    processor = EgmProcessor(checkpoint)
    pictures = _pictures()
    turns = [
        [{"role": "user", "content": [{"type": "image", "image": p}, {"type": "text", "text": TEXT}]}] for p in pictures
    ]
    rolled = processor.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=True)
    texts = [processor.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]
    scored = processor(images=[[p] for p in pictures], text=texts, padding=True, return_tensors="pt")
    for ids, row, mask in zip(rolled["input_ids"], scored["input_ids"], scored["attention_mask"], strict=True):
        assert ids == row[mask.bool()].tolist() and mask[-1] == 1
    torch.testing.assert_close(rolled["pixel_values"], scored["pixel_values"], rtol=0, atol=0)
    if "mm_token_type_ids" in rolled:
        assert [sum(t) for t in rolled["mm_token_type_ids"]] == scored["mm_token_type_ids"].sum(1).tolist()
    else:
        counts = processor.image_processor(images=[[p] for p in pictures], crop_to_patches=True)["num_patches"]
        assert counts.sum() == len(rolled["pixel_values"]) and len(set(counts.tolist())) > 1


def test_decoding_keeps_the_markers_of_the_answer(tiny_internvl3: Path) -> None:
    processor = EgmProcessor(tiny_internvl3)
    ids = processor.ids.encode("<ref>mug</ref><box>[1, 2, 3, 4]</box><|im_end|>", add_special_tokens=False).ids
    assert processor.batch_decode([ids], skip_special_tokens=True) == ["<ref>mug</ref><box>[1, 2, 3, 4]</box>"]


def test_saving_copies_the_checkpoints_own_files(checkpoint: Path, tmp_path: Path) -> None:
    processor = EgmProcessor(checkpoint)
    names = processor.save_pretrained(tmp_path)
    assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja"} <= set(names)
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    assert PixelSpec.from_checkpoint(tmp_path).hash == processor.pixel_spec.hash
    assert read_prompt_spec(tmp_path).hash == processor.prompt_spec.hash


def test_settings_that_transformers_refuses_are_told_in_a_line(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "c"))
    (checkpoint / "tokenizer_config.json").write_text('{"eos_token": []}')
    with pytest.raises(CheckpointError, match="a tokenizer in"):
        EgmProcessor(checkpoint)
    (checkpoint / "config.json").write_text('{"model_type": "qwen3_vl", "image_token_id": "x"}')
    with pytest.raises(CheckpointError, match=r"a checkpoint that transformers opens.*image_token_id"):
        load_model(checkpoint, ModelSettings(base=str(checkpoint)))


def test_anything_but_one_user_turn_with_one_picture_is_refused(tiny_qwen3_vl: Path) -> None:
    processor = EgmProcessor(tiny_qwen3_vl)
    user = {"role": "user", "content": "x"}
    with pytest.raises(InputError, match="one user turn"):
        processor.apply_chat_template([user, {"role": "assistant", "content": "y"}])
    with pytest.raises(InputError, match="one picture a prompt"):
        processor.apply_chat_template([[user]], tokenize=True)
