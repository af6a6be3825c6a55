"""The bounds on what quantization may cost, on records made up for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build_engine.modelopt.numeric_check import check_quantization
from build_engine.precisions import PRECISIONS
from egm_edge.errors import BuildError

RNG = np.random.default_rng(0)


def _record(path: Path, *, layers: list[float], logits: float = 0.05, vision: float = 0.0) -> Path:
    """Two requests; errors are relative to standard normal values."""
    values: dict[str, np.ndarray] = {"layer_errors": np.asarray([layers, layers], np.float32)}
    for i in range(2):
        for name, shape, size in (("logits", (40, 300), logits), ("embeddings", (16, 64), vision)):
            plain = RNG.standard_normal(shape).astype(np.float32)
            strayed = plain + np.float32(size) * RNG.standard_normal(shape).astype(np.float32)
            values |= {
                f"checkpoint.{i}.{name}": plain,
                f"quantized.{i}.{name}": strayed,
                f"rounded.{i}.{name}": strayed,
            }
    save_file(values, str(path))
    return path


def test_what_is_within_every_bound_passes(tmp_path: Path) -> None:
    found = check_quantization(_record(tmp_path / "r", layers=[0.05, 0.07]), "fp8", "bf16", "transformers", [12, 0])
    found.require_passed()
    assert found.logits_error == pytest.approx(0.05, rel=0.1) and found.cosine > 0.99 and found.requests == 2
    assert found.to_dict()["passed"] and found.to_dict()["bounds"]["layer_error"] == PRECISIONS["fp8"].layer_bound


@pytest.mark.parametrize(
    ("record", "vision", "failed"),
    [
        pytest.param({"layers": [0.05, 0.3, 0.05]}, "bf16", "layer error of decoder layer 1", id="one layer"),
        pytest.param({"layers": [0.05, float("nan")]}, "bf16", "layer error of decoder layer 1", id="no number"),
        pytest.param({"layers": [0.05], "logits": 0.5}, "bf16", "logits error", id="the whole"),
        pytest.param(
            {"layers": [0.05], "vision": 0.1}, "bf16", "vision error", id="a tower that was to stay as it was"
        ),
        pytest.param({"layers": [0.05], "vision": 0.5}, "fp8", "vision error", id="a quantized tower"),
    ],
)
def test_what_is_beyond_a_bound_is_named(tmp_path: Path, record: dict, vision: str, failed: str) -> None:
    found = check_quantization(_record(tmp_path / "r", **record), "fp8", vision, "transformers", [12, 0])
    with pytest.raises(BuildError, match=failed):
        found.require_passed()
    assert not found.to_dict()["passed"]


def test_a_quantized_tower_may_stray_as_fp8_does(tmp_path: Path) -> None:
    record = _record(tmp_path / "r", layers=[0.05], vision=0.1)
    check_quantization(record, "fp8", "fp8", "transformers", [12, 0]).require_passed()


def test_agreement_is_counted_where_the_model_answers_from(tmp_path: Path) -> None:
    """Twelve answer tokens come from the twelve positions before the last; the picture's positions predict nothing."""
    values = load_file(str(_record(tmp_path / "r", layers=[0.05])))
    values["quantized.0.logits"] = values["checkpoint.0.logits"].copy()
    values["quantized.0.logits"][:27] *= -1
    values["quantized.0.logits"][28] *= -1
    values["quantized.0.logits"][39] *= -1
    save_file(values, str(tmp_path / "r"))
    found = check_quantization(tmp_path / "r", "fp8", "bf16", "transformers", [12, 0])
    assert found.answer_agreement == pytest.approx(11 / 12)
    assert found.argmax_agreement == pytest.approx(11 / 40)
