"""The fast path gives transformers' logits and transformers' greedy text, for every frame shape that Nano is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, Qwen3VLForConditionalGeneration

from training.nano import fastpath
from training.nano.data import CAMERA, patchify
from training.nano.evaluate import wrap
from training.nano.fastpath import learning_arithmetic
from training.nano.generate import generate
from training.nano.prompts import PREFIX, SUFFIX, tokenizer

PROMPTS = (
    "Locate the red mug, output its bbox coordinates using JSON format" + SUFFIX,
    "Locate the second small blue bowl from the left amodally, output its bbox coordinates using JSON format" + SUFFIX,
)


@pytest.fixture(scope="module")
def model(nano_folder: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(nano_folder, dtype=torch.float32).eval()


def full_inputs(
    model: Qwen3VLForConditionalGeneration, patches: torch.Tensor, grid_hw: tuple[int, int], row: list[int]
) -> dict[str, torch.Tensor]:
    """One image and one row in transformers' own form."""
    count = patches.shape[0]
    pads = [model.config.image_token_id] * (count // 4)
    ids = torch.tensor([[*tokenizer().encode(PREFIX).ids, *pads, tokenizer().token_to_id("<|vision_end|>"), *row]])
    doubled = patches.view(count, 3, 1, 256).expand(-1, -1, 2, -1).reshape(count, -1)
    kinds = (ids == model.config.image_token_id).int()
    return {
        "input_ids": ids,
        "pixel_values": doubled,
        "image_grid_thw": torch.tensor([[1, *grid_hw]]),
        "mm_token_type_ids": kinds,
    }


@pytest.mark.parametrize("learning", [False, True], ids=["asked", "learning"])
@pytest.mark.parametrize("grid_hw", [(12, 16), (10, 18), (12, 12)], ids=["4:3", "16:9", "square"])
def test_logits_equal_transformers(
    model: Qwen3VLForConditionalGeneration, grid_hw: tuple[int, int], learning: bool
) -> None:
    """Attention takes another way where gradients are wanted."""
    fast = wrap(model)
    patches = torch.rand(2, grid_hw[0] * grid_hw[1], 768, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = [tokenizer().encode(text).ids for text in PROMPTS]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    with torch.set_grad_enabled(learning):
        prefix = fast.prefix(fast.vision(patches, grid_hw), grid_hw)
        logits = fast.logits(fast.rows(prefix, torch.tensor([0, 1]), padded))
        for i, row in enumerate(rows):
            expected = model(**full_inputs(model, patches[i], grid_hw, row)).logits[0, -len(row) :]
            assert torch.allclose(logits[i, : len(row)], expected, atol=2e-5)


@pytest.mark.parametrize(("flags", "expected"), [(["avx2"], torch.float32), (["avx2", "avx512_bf16"], torch.bfloat16)])
def test_learning_is_in_bf16_only_where_the_processor_has_it(
    model: Qwen3VLForConditionalGeneration, monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: torch.dtype
) -> None:
    """And its gradients are transformers', to the precision of the arithmetic."""
    monkeypatch.setattr(fastpath, "cpu_flags", lambda: flags)
    fast, grid_hw = wrap(model), (12, 16)
    patches = torch.rand(1, 192, 768, generator=torch.Generator().manual_seed(2)) * 2 - 1
    row = tokenizer().encode(PROMPTS[0]).ids
    watched = [model.model.visual.blocks[0].attn.qkv.weight, model.model.language_model.layers[0].self_attn.k_proj.weight]
    with learning_arithmetic(torch.device("cpu")):
        prefix = fast.prefix(fast.vision(patches, grid_hw), grid_hw)
        logits = fast.logits(fast.rows(prefix, torch.tensor([0]), torch.tensor([row])))
    assert logits.dtype == expected
    ours = torch.autograd.grad(logits[0, -1].float().log_softmax(-1)[0], watched)
    whole = model(**full_inputs(model, patches[0], grid_hw, row)).logits
    theirs = torch.autograd.grad(whole[0, -1].log_softmax(-1)[0], watched)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < (1e-4 if expected == torch.float32 else 0.1) * b.norm()


def test_greedy_equals_generate(model: Qwen3VLForConditionalGeneration) -> None:
    """Left-padded batch decoding against one-by-one `generate`."""
    fast, grid_hw = wrap(model), (12, 16)
    patches = torch.rand(2, 192, 768, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows = [tokenizer().encode(text).ids for text in PROMPTS]
    stop = tokenizer().token_to_id("<|im_end|>")
    with torch.no_grad():
        prefix = fast.prefix(fast.vision(patches, grid_hw), grid_hw)
    ours = [answer.ids for answer in generate(fast, prefix, [0, 1], rows, stop, max_new_tokens=24)]
    for i, row in enumerate(rows):
        inputs = full_inputs(model, patches[i], grid_hw, row)
        whole = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
        expected = whole[: whole.index(stop)] if stop in whole else whole
        assert ours[i] == expected


@pytest.mark.parametrize(
    ("frame_wh", "grid_hw"),
    [((640, 480), (12, 16)), ((1280, 720), (10, 18)), ((256, 192), (12, 16)), ((500, 500), (12, 12))],
)
def test_patches_equal_the_image_processors(
    nano_folder: Path, frame_wh: tuple[int, int], grid_hw: tuple[int, int]
) -> None:
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (frame_wh[1], frame_wh[0], 3), dtype=np.uint8))
    theirs = AutoImageProcessor.from_pretrained(nano_folder)(images=frame, return_tensors="np")
    assert theirs["image_grid_thw"].tolist() == [[1, *grid_hw]]
    folded = theirs["pixel_values"].reshape(-1, 3, 2, 256)[:, :, 0].reshape(-1, 768)
    np.testing.assert_allclose(patchify(np.asarray(frame), CAMERA), folded, atol=1e-6)
