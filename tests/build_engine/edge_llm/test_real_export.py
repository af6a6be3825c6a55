"""The host half with NVIDIA's real tools: ModelOpt quantizes, `tensorrt-edgellm-export` exports, both graphs equal transformers.

Needs `.venv-edgellm` (`make edgellm`).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from build_engine.cli import main
from build_engine.edge_llm import compiler
from build_engine.edge_llm import export as exporting
from build_engine.edge_llm.environment import EdgeLlmEnvironment
from build_engine.edge_llm.graph_check import check_graphs
from build_engine.edge_llm.graph_inputs import HostMath
from build_engine.modelopt import quantize
from build_engine.modelopt.request_tensors import prepare
from build_engine.parity.cases import probes
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.pixels import PixelSpec
from tests.support.large_checkpoints import write_qwen3_vl_dims

FP16_ERROR = 3e-3  # of the spread of what is compared; measured 6e-4
TARGETS = {"int4": "jetson-agx-orin", "int8": "jetson-agx-orin", "fp16": "jetson-agx-orin"}
OPERATORS = {
    "int4": {"Int4GroupwiseGemmPluginV2"},
    "int8": set(),
    "fp8": set(),
    "nvfp4": {"TRT_FP4DynamicQuantize", "DequantizeLinear"},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def build(checkpoint: Path, precision: str, rows: Path, out: Path, *options: str) -> Bundle:
    target = TARGETS.get(precision, "jetson-thor")
    flags = ["--precision", precision, "--calibration", str(rows), "--max-new-tokens", "64", "--quiet", *options]
    assert main([str(checkpoint), "--target", target, *flags, "-o", str(out)]) == 0
    return Bundle.open(out)


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("jetson_qwen3_vl", "int4"),
        ("jetson_qwen3_vl", "nvfp4"),
        ("jetson_internvl3", "int8"),
        ("jetson_internvl3", "fp8"),
        pytest.param("jetson_qwen3_vl", "int8", marks=pytest.mark.long),
        pytest.param("jetson_qwen3_vl", "fp8", marks=pytest.mark.long),
        pytest.param("jetson_internvl3", "int4", marks=pytest.mark.long),
        pytest.param("jetson_internvl3", "nvfp4", marks=pytest.mark.long),
    ],
)
def test_both_graphs_equal_transformers(
    edge_llm: EdgeLlmEnvironment, family: str, precision: str, calibration_rows: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = request.getfixturevalue(family)
    bundle = build(checkpoint, precision, calibration_rows, tmp_path / "bundle")
    manifest = bundle.manifest
    graphs: dict[str, Any] = manifest.parity["graphs"]
    stages = {name: row["error"] for name, row in graphs["stages"].items()}
    assert ("deep-stack" in stages) == (family == "jetson_qwen3_vl")
    assert all(error < FP16_ERROR for name, error in stages.items() if name != "prefill logits"), stages
    if precision == "int4":  # activations stay in FP16
        assert stages["prefill logits"] < FP16_ERROR and graphs["top1_agreement"] > 0.99
    else:  # a value on the edge of a rounding step falls as FP16 rounding happens to put it
        assert stages["prefill logits"] < 1.5 * graphs["rounding_error"] + FP16_ERROR
    assert OPERATORS[precision] <= set(graphs["operators"])
    assert 0.01 < graphs["quantization_error"] < 0.6
    assert manifest.parity["status"] == "unverified" and "egm build" in manifest.parity["next"]
    assert manifest.model["engine"] is None
    assert {"onnx/llm/model.onnx", "onnx/visual/model.onnx", "checkpoint/config.json"} <= set(manifest.files)
    assert manifest.versions["tensorrt-edgellm"] == "0.11.0"
    assert not list((tmp_path / "cache" / "egm-edge" / "stages").iterdir())

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a tool ran for a bundle that is there")

    monkeypatch.setattr(quantize, "run_tool", refuse)
    monkeypatch.setattr(exporting, "run_tool", refuse)
    assert build(checkpoint, precision, calibration_rows, tmp_path / "bundle").hash == bundle.hash


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("jetson_qwen3_vl", "nvfp4"),
        ("jetson_internvl3", "fp8"),
        pytest.param("jetson_qwen3_vl", "int4", marks=pytest.mark.long),
    ],
)
def test_a_quantized_vision_tower_is_exported_and_checked_like_the_decoder(
    edge_llm: EdgeLlmEnvironment, family: str, precision: str, calibration_rows: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """And a wrong number in the vision graph is seen: one projection's weight scale is doubled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(TARGETS, "int4", "jetson-thor")
    kept: dict[str, Any] = {}
    real_check = compiler._check

    def check_twice(plan: Any, source: Path, exported: Path) -> Any:
        found = real_check(plan, source, exported)
        damaged = Path(shutil.copytree(exported, tmp_path / "damaged"))
        kept["scale"] = _double_a_vision_scale(damaged / "onnx" / "visual" / "model.onnx")
        with pytest.raises(BuildError, match=r"vision embedding|deep-stack"):
            real_check(plan, source, damaged)
        return found

    monkeypatch.setattr(compiler, "_check", check_twice)
    bundle = build(
        request.getfixturevalue(family), precision, calibration_rows, tmp_path / "bundle", "--quantize-vision"
    )
    graphs, cost = bundle.manifest.parity["graphs"], bundle.manifest.parity["quantization"]
    assert kept["scale"]
    assert 0.01 < cost["vision_error"] < 0.3 and cost["vision"] == "fp8" and cost["passed"]
    assert graphs["stages"]["vision embedding"]["error"] <= graphs["stages"]["vision embedding"]["bound"] < 0.15
    assert bundle.manifest.model["quantization"]["vision"] == "fp8"
    visual = onnx.load(str(bundle.path("onnx/visual/model.onnx")), load_external_data=False)
    assert sum(node.op_type == "QuantizeLinear" for node in visual.graph.node) > 4


def _double_a_vision_scale(path: Path) -> str:
    model = onnx.load(str(path))
    weights = {node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    inputs = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    scale = next(tensor for tensor in model.graph.initializer if tensor.name in weights - inputs)
    value = onnx.numpy_helper.to_array(scale)
    scale.CopyFrom(onnx.numpy_helper.from_array(value * np.asarray(2, value.dtype), scale.name))
    (path.parent / "model.onnx.data").unlink()
    onnx.save(model, str(path), save_as_external_data=True, location="model.onnx.data")
    return scale.name


def test_an_interrupted_build_goes_on_where_it_was_and_mistakes_are_seen(
    edge_llm: EdgeLlmEnvironment,
    jetson_qwen3_vl: Path,
    calibration_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in the export leaves no bundle and keeps the finished stage; then four mistakes on the host's side, each of which
    must fail the check at its own stage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept: dict[str, Path] = {}
    real_export, real_check = compiler._export, compiler._check

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler, "_export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(jetson_qwen3_vl, "fp16", calibration_rows, tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    [stages] = (tmp_path / "cache" / "egm-edge" / "stages").iterdir()
    assert {p.name for p in stages.iterdir() if p.is_dir()} == {"quantized"}

    def keep(plan: Any, source: Path, exported: Path) -> Any:
        kept["export"] = Path(shutil.copytree(exported / "onnx", tmp_path / "export"))
        kept["recorded"] = Path(shutil.copyfile(source / "recorded.safetensors", tmp_path / "recorded.safetensors"))
        kept["checks"] = plan.quantization.checks()  # type: ignore[assignment]
        kept["host"] = HostMath.of(plan, kept["export"] / "llm" / "embedding.safetensors")  # type: ignore[assignment]
        return real_check(plan, source, exported)

    monkeypatch.setattr(compiler, "_quantize", interrupted)
    monkeypatch.setattr(compiler, "_export", real_export)
    monkeypatch.setattr(compiler, "_check", keep)
    build(jetson_qwen3_vl, "fp16", calibration_rows, tmp_path / "bundle")

    checks: Any = kept["checks"]
    host: Any = kept["host"]
    one_down = np.asarray([[0], [1], [0]])
    shifted = [
        replace(one, positions=one.positions + one_down * (np.arange(one.positions.shape[1]) > 9)) for one in checks
    ]
    darker = [replace(one, pixel_values=one.pixel_values * np.float32(0.8)) for one in checks]
    mistakes = {
        "a normalisation value": (darker, host, "vision embedding"),
        "the vision rotary base": (checks, replace(host, engine=_with_vision_theta(host, 500.0)), "vision embedding"),
        "the side of the position grid": (checks, replace(host, grid_side=host.grid_side - 1), "vision embedding"),
        "M-RoPE's height": (shifted, host, "prefill logits"),
    }
    for what, (requests, wrong, stage) in mistakes.items():
        found = check_graphs(kept["export"], requests, kept["recorded"], wrong)
        failed = [row.stage for row in found.stages if not row.passed]
        assert failed and failed[0] == stage, (what, found.stages)


def _with_vision_theta(host: HostMath, theta: float) -> Any:
    return replace(host.engine, vision=replace(host.engine.vision, rope_theta=theta))


@pytest.mark.long
def test_egm_4b_widths_export(
    edge_llm: EdgeLlmEnvironment, tmp_path: Path, calibration_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EGM-4B's true widths and vocabulary in two decoder and three vision layers, in FP16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = write_qwen3_vl_dims(
        tmp_path / "checkpoint", "egm-4b-widths", text_layers=2, vision_layers=3, max_pixels=65536
    )
    bundle = build(checkpoint, "fp16", calibration_rows, tmp_path / "bundle")
    graphs = bundle.manifest.parity["graphs"]
    assert all(row["error"] < 2e-2 for row in graphs["stages"].values()), graphs
    assert bundle.manifest.model["profile"]["max_image_tokens"] == 64
    config = json.loads(bundle.path("onnx/llm/config.json").read_text())
    assert (config["hidden_size"], config["vocab_size"], config["num_deepstack_features"]) == (2560, 151936, 2)


def test_requests_hold_the_answer_that_calibration_is_to_see(jetson_internvl3: Path) -> None:
    from build_engine.modelopt.request_tensors import answer_text
    from egm_edge.boxes import Box
    from egm_edge.parsing import parse_answer

    spec = read_prompt_spec(jetson_internvl3)
    text = answer_text("the red mug", Box(10, 20, 60, 70), (100, 100), spec)
    assert parse_answer(text, in_thought=False).box_norm1000 == (100, 200, 600, 700)
    tokenizer = Tokenizer.from_file(str(jetson_internvl3 / "tokenizer.json"))
    one = prepare(probes()[2], PixelSpec.from_checkpoint(jetson_internvl3), spec, tokenizer)
    assert one.positions.shape == (3, len(one.input_ids))
