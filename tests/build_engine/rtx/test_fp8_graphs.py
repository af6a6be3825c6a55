"""FP8 layers of RTX graphs: the very numbers that were rounded, ranges seen on requests, mistakes that the build's gate refuses.

Engines are left out here: what TensorRT compiles is the graph that the gate has run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from build_engine.compilers import tensorrt_rtx
from build_engine.compilers.tensorrt_rtx import compile_rtx
from build_engine.exporters import portable_graph
from build_engine.exporters.graph import WeightFormat
from build_engine.exporters.portable_graph import PortableGraphWriter
from build_engine.quantize import fp8_scale, round_fp8
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError

LARGEST = 3.0


def test_a_layer_multiplies_what_was_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.normal(0, 0.05, (6, 48)).astype(np.float32), rng.normal(0, 1, (1, 9, 48)).astype(np.float32)
    path = tmp_path / "g.onnx"
    with PortableGraphWriter(path, precision="fp16", ranges={"layer": LARGEST}) as graph:
        fed = graph.input("x", np.float32, [1, "n", 48])
        y = graph.linear(fed, "layer", (6, 48), lambda a, b: weight[a:b], WeightFormat.FP8)
        graph.output(y, np.float32, [1, "n", 6], name="y")
    values, scale = round_fp8(weight, np.float16)
    step = fp8_scale(LARGEST, np.float16)
    inputs = np.clip(x / step, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * step
    found = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(found, inputs @ (values.astype(np.float32) * scale).T, atol=4e-3)
    model = onnx.load(str(path))
    assert {node.domain for node in model.graph.node} == {""}
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 1


def test_layers_of_one_input_round_it_once(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    with PortableGraphWriter(path, precision="fp16", ranges={"a": LARGEST, "b": LARGEST}) as graph:
        x = graph.input("x", np.float32, [1, "n", 32])
        for name in ("a", "b"):
            y = graph.linear(x, name, (32, 32), lambda a, b: np.eye(32, dtype=np.float32)[a:b], WeightFormat.FP8)
            graph.output(y, np.float32, [1, "n", 32], name=f"y_{name}")
    assert [node.op_type for node in onnx.load(str(path)).graph.node].count("QuantizeLinear") == 1


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bundle]:
    """Builds fp8 bundles on four requests, without engines."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'egm-edge[rtx]'")
    pytest.importorskip("transformers")
    cases = tensorrt_rtx.calibration_cases
    monkeypatch.setattr(tensorrt_rtx, "calibration_cases", lambda data: cases(data)[:4])
    monkeypatch.setattr(tensorrt_rtx, "build_engines", lambda *_: None)

    def build(checkpoint: Path) -> Bundle:
        return compile_rtx(
            BuildRequest(checkpoint=checkpoint, out_dir=tmp_path / "bundle", target=target_for("rtx"), precision="fp8")
        )

    return build


@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_fp8_graphs_follow_transformers_within_calibrated_ranges(
    family: str, built: Callable[..., Bundle], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, float] = {}
    observe = tensorrt_rtx.activation_ranges
    monkeypatch.setattr(tensorrt_rtx, "activation_ranges", lambda *args: seen.update(observe(*args)) or seen)
    manifest = built(request.getfixturevalue(family)).manifest
    assert manifest.parity["graphs"]["status"] == "verified"
    logits = next(s for s in manifest.parity["graphs"]["stages"] if s["name"] == "prefill logits")
    assert 1e-5 < logits["worst"] < 0.02
    assert manifest.limits["sm"] == ["sm89", "sm120"] and manifest.licences["calibration data"]
    assert not [name for name in manifest.files if name.startswith("observed")]
    layer = "text.layers.1.self_attn."
    assert seen[f"{layer}q_proj"] == seen[f"{layer}k_proj"] == seen[f"{layer}v_proj"] != seen[f"{layer}o_proj"]
    assert len(seen) == 3 * 7 and min(seen.values()) > 0


@pytest.mark.parametrize(
    ("what", "mistake"),
    [
        pytest.param(
            "fp8_scale", lambda largest, dtype: fp8_scale(largest / 8, dtype), id="inputs cut off at an eighth"
        ),
        pytest.param(
            "round_fp8",
            lambda w, dtype: (round_fp8(w, dtype)[0], np.float32(1)),
            id="weights without a scale",
            marks=pytest.mark.long,
        ),
        pytest.param("round_fp8", lambda w, dtype: round_fp8(np.roll(w, 1, 1), dtype), id="weights of the next input"),
    ],
)
def test_the_gate_refuses_wrong_scales(
    what: str,
    mistake: Callable[..., Any],
    built: Callable[..., Bundle],
    tiny_qwen3_vl: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portable_graph, what, mistake)
    with pytest.raises(BuildError, match="prefill logits"):
        built(tiny_qwen3_vl)
