"""The fp32 CPU engine against transformers, stage by stage: pixels, vision, deep-stack, prefill, decode steps, text.

Tolerances are absolute, on values of magnitude one to five: both sides compute in float32 and differ by summation order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from egm_edge.backends.onnx_runtime.backend import OnnxBackend
from egm_edge.backends.prefix_frame import PrefixFrame
from egm_edge.bundle import Bundle
from egm_edge.grounder import Grounder
from egm_edge.grounding import Task
from egm_edge.pixels import normalise

torch = pytest.importorskip("torch")

VISION_TOLERANCE = 2e-4
LOGIT_TOLERANCE = 2e-4
SIZES_WH = [
    pytest.param((101, 67), id="odd sides"),
    pytest.param((64, 150), id="tall"),
    pytest.param((640, 480), id="camera"),
    pytest.param((300, 40), id="wide"),
]
VARIANTS = [
    pytest.param(("qwen3_vl", {"tied": True}), id="qwen3_vl tied"),
    pytest.param(
        ("qwen3_vl", {"tied": False, "deepstack": (0, 2), "head_dim": 16}), id="qwen3_vl untied, other deep-stack"
    ),
    pytest.param(("qwen3_vl", {"vocabulary": "qwen", "dtype": "bfloat16"}), id="qwen3_vl true vocabulary, bf16"),
    pytest.param(
        ("qwen3_vl", {"vision_size": 288, "head_dim": 128, "tied": False}), id="qwen3_vl head sizes of the 8B"
    ),
    pytest.param(("qwen3_vl", {"head_dim": 8, "mrope_stated": False}), id="qwen3_vl small heads, M-RoPE unstated"),
    pytest.param(
        ("qwen3_vl", {"head_dim": 24, "text_layers": 1}), id="qwen3_vl padded heads, fewer layers than deep-stack"
    ),
    pytest.param(("internvl3", {"tied": False}), id="internvl3 untied"),
    pytest.param(("internvl3", {"qk_norm": True, "norm_type": "rms_norm"}), id="internvl3 rms norms"),
    pytest.param(("internvl3", {"tied": True}), id="internvl3 tied"),
]


@dataclass
class Pair:
    """One checkpoint on both sides."""

    grounder: Grounder
    model: Any
    processor: Any

    def image(self, size_wh: tuple[int, int], seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (7, 9, 3), np.uint8)
        return np.asarray(Image.fromarray(coarse).resize(size_wh, Image.Resampling.BICUBIC))

    def reference_inputs(self, image: np.ndarray, expression: str, task: Task = Task.MODAL) -> dict[str, Any]:
        from tests.support.hf_reference import hf_inputs

        return hf_inputs(self.processor, Image.fromarray(image), self.grounder.prompt_spec.task_text(expression, task))

    def engine_frame(self, image: np.ndarray) -> tuple[OnnxBackend, PrefixFrame]:
        frame = self.grounder.frame(image, color="rgb")
        self.grounder.ground(frame, "x", max_new_tokens=1)
        assert isinstance(self.grounder.backend, OnnxBackend)
        assert isinstance(frame.engine_frame, PrefixFrame)
        return self.grounder.backend, frame.engine_frame


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pytest.importorskip("transformers")
    return _pair(*request.param, tmp_path_factory.mktemp("pair"))


@pytest.mark.long  # two of them pass it in tests/backends/test_quantized.py
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gate_lets_every_faithful_variant_pass(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    assert _built(*variant, tmp_path, gate=True)[1].manifest.parity["status"] == "verified"


def _built(family: str, options: dict[str, Any], directory: Path, *, gate: bool) -> tuple[Path, Bundle]:
    from build_engine.compilers.cpu import build_cpu
    from tests.support import tiny_checkpoints

    write: Callable[..., Path] = getattr(tiny_checkpoints, f"write_tiny_{family}")
    checkpoint = write(directory / "checkpoint", seed=3, **options)
    return checkpoint, build_cpu(checkpoint, directory / "bundle", precision="fp32", gate=gate)


def _pair(family: str, options: dict[str, Any], directory: Path) -> Pair:
    from tests.support import hf_reference

    checkpoint, bundle = _built(family, options, directory, gate=False)
    return Pair(
        Grounder.from_bundle(bundle.root, threads=1),
        hf_reference.hf_model(checkpoint),
        hf_reference.hf_processor(checkpoint),
    )


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_vision_and_deepstack_equal_transformers(pair: Pair, size_wh: tuple[int, int]) -> None:
    image = pair.image(size_wh)
    inputs = pair.reference_inputs(image, "x")
    frame = pair.grounder.frame(image, color="rgb")
    np.testing.assert_allclose(
        normalise(frame.pixels, pair.grounder.pixel_spec), inputs["pixel_values"].numpy(), atol=2.1 / 127.5
    )
    _backend, engine_frame = pair.engine_frame(image)
    features = {"pixel_values": torch.from_numpy(normalise(frame.pixels, pair.grounder.pixel_spec))}
    if "image_grid_thw" in inputs:
        features["image_grid_thw"] = inputs["image_grid_thw"]
    with torch.no_grad():
        reference = pair.model.get_image_features(**features, return_dict=True)
    np.testing.assert_allclose(engine_frame.embeddings, _rows(reference.pooler_output), atol=VISION_TOLERANCE)
    expected = list(getattr(reference, "deepstack_features", None) or [])
    assert len(engine_frame.deepstack) == len(expected)
    for ours, theirs in zip(engine_frame.deepstack, expected, strict=True):
        np.testing.assert_allclose(ours, _rows(theirs), atol=VISION_TOLERANCE)


@pytest.mark.parametrize("size_wh", SIZES_WH)
@pytest.mark.parametrize("task", [Task.MODAL, Task.AMODAL])
def test_greedy_text_equals_transformers(pair: Pair, size_wh: tuple[int, int], task: Task) -> None:
    from tests.support.hf_reference import hf_greedy

    image = _exactly_resized(pair, size_wh)
    expression = 'the "red" mug {left} of the kettle'
    theirs = hf_greedy(pair.model, pair.reference_inputs(image, expression, task), 24)
    ours = pair.grounder.ground(image, expression, task=task, color="rgb", max_new_tokens=24, force_syntax=False)
    assert ours.text == pair.grounder.tokenizer.decode(theirs, skip_special_tokens=True)
    assert ours.tokens.completion == len([t for t in theirs if t not in pair.grounder.stop_ids])


def test_prefill_and_every_decode_step_equal_transformers(pair: Pair) -> None:
    image = _exactly_resized(pair, (128, 96))
    inputs = pair.reference_inputs(image, "the mug")
    with torch.no_grad():
        reference = pair.model(**inputs).logits[0].numpy()
    backend, frame = pair.engine_frame(image)
    request = pair.grounder.token_ids("the mug")
    assert [*frame.prefix_ids, *request] == inputs["input_ids"][0].tolist()
    session = backend.open_session(frame)
    prefill = session.extend(request, every_position=True)
    np.testing.assert_allclose(prefill, reference[-len(request) :], atol=LOGIT_TOLERANCE)
    ids = inputs["input_ids"]
    for step in range(6):
        token = int(reference[-1].argmax())
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
        grown = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            grown["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, step + 1))
        with torch.no_grad():
            reference = pair.model(**grown).logits[0].numpy()
        np.testing.assert_allclose(session.extend([token]), reference[-1], atol=LOGIT_TOLERANCE)


def test_a_second_turn_through_the_cache_equals_the_whole_conversation_at_once(pair: Pair) -> None:
    image = _exactly_resized(pair, (128, 96))
    inputs = pair.reference_inputs(image, "the mug")
    backend, frame = pair.engine_frame(image)
    session = backend.open_session(frame)
    first_turn = pair.grounder.token_ids("the mug")
    second_turn = pair.grounder.tokenizer.encode(
        "a reply<|im_end|>\n<|im_start|>user\nand the kettle", add_special_tokens=False
    ).ids
    session.extend(first_turn)
    for token in second_turn[:5]:
        session.extend([token])
    ours = session.extend(second_turn[5:], every_position=True)
    ids = torch.cat([inputs["input_ids"], torch.tensor([second_turn])], 1)
    whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(second_turn)))
    with torch.no_grad():
        theirs = pair.model(**whole).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs[-len(second_turn) + 5 :], atol=LOGIT_TOLERANCE)


def test_reusing_a_frame_changes_no_token(pair: Pair) -> None:
    image = pair.image((120, 90))
    expressions = ["the red mug", "the thing on the far left", "mug"]
    frame = pair.grounder.frame(image, color="rgb")
    reused = [pair.grounder.ground(frame, e, max_new_tokens=16) for e in expressions]
    fresh = [pair.grounder.ground(image, e, color="rgb", max_new_tokens=16) for e in expressions]
    assert [g.text for g in reused] == [g.text for g in fresh]
    assert [g.timings.frame_reused for g in reused] == [False, True, True]
    assert reused[1].timings.vision_ms == 0.0


def test_speculation_changes_no_token(pair: Pair) -> None:
    frame = pair.grounder.frame(pair.image((120, 90)), color="rgb")
    expressions = ["the mug the mug the mug", "aaaaaaaa", "left of the left of the kettle"]
    fast = [pair.grounder.ground(frame, e, max_new_tokens=20) for e in expressions]
    pair.grounder.speculate = False
    slow = [pair.grounder.ground(frame, e, max_new_tokens=20) for e in expressions]
    pair.grounder.speculate = True
    assert [g.text for g in fast] == [g.text for g in slow]
    assert all(g.tokens.decode_steps == max(g.tokens.completion - (g.cut != ""), 0) for g in slow)
    assert sum(g.tokens.decode_steps for g in fast) <= sum(g.tokens.decode_steps for g in slow)


def test_a_displaced_frame_comes_back_with_the_same_answer(pair: Pair) -> None:
    first, second = (pair.grounder.frame(pair.image((120, 90), seed), color="rgb") for seed in (1, 2))
    before = pair.grounder.ground(first, "the mug", max_new_tokens=12).text
    pair.grounder.ground(second, "the mug", max_new_tokens=12)
    assert pair.grounder.ground(first, "the mug", max_new_tokens=12).text == before


def test_a_growing_cache_keeps_its_content(pair: Pair) -> None:
    backend, frame = pair.engine_frame(pair.image((96, 96)))
    ids = pair.grounder.token_ids("x") * 8
    small = backend.open_session(frame).extend(ids, every_position=True)
    backend.cache = backend.cache.grown(backend.cache.capacity + 700)
    session = backend.open_session(frame)
    halves = [session.extend(part, every_position=True) for part in (ids[:20], ids[20:])]
    np.testing.assert_allclose(np.concatenate(halves), small, atol=LOGIT_TOLERANCE)


def _exactly_resized(pair: Pair, size_wh: tuple[int, int]) -> np.ndarray:
    """A picture that already has the size it would be resized to, so that pixels are identical on both sides."""
    height, width = pair.grounder.pixel_spec.resized_hw(size_wh[1], size_wh[0])
    return pair.image((width, height))


def _rows(features: Any) -> np.ndarray:
    """Features of all images or tiles as rows; transformers gives them per image, per tile, or in one piece."""
    whole = torch.cat(list(features)) if isinstance(features, (list, tuple)) else features
    return whole.reshape(-1, whole.shape[-1]).numpy()
