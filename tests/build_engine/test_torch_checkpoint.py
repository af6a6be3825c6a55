"""Bundles for the PyTorch engine: the checkpoint's own weights, vouched for on a CPU, opened like every bundle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from build_engine.cli import main as build
from egm_edge.auto import open_grounder
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError

pytest.importorskip("torch")
pytest.importorskip("transformers")

IMAGE = np.random.default_rng(5).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_a_torch_bundle_answers_as_its_checkpoint(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checkpoint, out = request.getfixturevalue(family), tmp_path / "bundle"
    assert build([str(checkpoint), "--target", "torch", "-o", str(out)]) == 0
    parity = Bundle.open(out).manifest.parity
    assert parity["status"] == "unverified" and "on target" in parity["why"]
    assert parity["engine"]["status"] == "verified" and parity["engine"]["arithmetic"] == "float32"
    weights = next(out.glob("*.safetensors"))
    assert os.path.samefile(weights, checkpoint / weights.name)  # one file system: nothing is copied
    with open_grounder(out) as engine, open_grounder(checkpoint) as plain:
        assert engine.facts.runtime.startswith("torch ")
        options = {"max_new_tokens": 24, "color": "rgb"}
        assert engine.ground(IMAGE, "the mug", **options).text == plain.ground(IMAGE, "the mug", **options).text


def test_where_nothing_can_be_linked_weights_are_copied_and_never_written(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*paths: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refused)
    out = tmp_path / "bundle"
    assert build([str(tiny_qwen3_vl), "--target", "torch", "--max-pixels", "4096", "--no-gate", "-o", str(out)]) == 0
    bundle = Bundle.open(out)
    weights = next(out.glob("*.safetensors"))
    assert weights.read_bytes() == (tiny_qwen3_vl / weights.name).read_bytes()
    assert bundle.manifest.pixel_spec["max_pixels"] == 4096


def test_an_engine_that_differs_from_the_checkpoint_is_refused(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from egm_edge.backends.torch_gpu import text_decoder

    monkeypatch.setattr(text_decoder, "rotated", lambda x, rotary: x)
    with pytest.raises(BuildError, match="follows its checkpoint"):
        build([str(tiny_qwen3_vl), "--target", "torch", "-o", str(tmp_path / "bundle")])
    assert not list(tmp_path.iterdir())
