"""The table of targets, `egm targets`, and how `egm build` chooses a compiler by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from build_engine.cli import main as build
from build_engine.targets import TARGETS, Runtime, Support, target_for, tensorrt_llm_sm
from build_engine.targets_cli import main as targets
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError, InputError


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_names_a_compiler_that_exists(name: str) -> None:
    assert callable(TARGETS[name].load_compiler())


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_leaves_memory_to_the_model(name: str) -> None:
    usable = TARGETS[name].usable_gb
    assert usable is None or usable > 0


def test_only_the_cpu_is_called_tested_among_targets_without_hardware_here() -> None:
    edge = [t for t in TARGETS.values() if t.runtime is Runtime.EDGE_LLM]
    assert edge and all(t.support is Support.HOST_HALF for t in edge)


def test_no_orin_offers_fp8_or_nvfp4() -> None:
    orins = [t for t in TARGETS.values() if "sm87" in t.sm]
    assert len(orins) == 4  # three boards, and the PyTorch engine
    assert not {"fp8", "nvfp4"} & {p for t in orins for p in t.precisions}


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("jetson-orin-nan", "jetson-orin-nano"), ("Jetson Thor", "jetson-thor"), ("jetson_agx_orin", "jetson-agx-orin")],
)
def test_an_unknown_target_names_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"--target {nearest}"):
        target_for(typed)


@pytest.mark.parametrize(
    ("target", "asked", "nearest"),
    [
        ("jetson-orin-nano", "fp8", "int8"),
        ("jetson-orin-nano", "nvfp4", "int4"),
        ("jetson-thor", "bf16", "fp16"),
        ("jetson-thor", "nvpf4", "nvfp4"),
        ("cpu", "fp16", "int8"),
        ("tensorrt-llm-sm80", "fp8", "int4"),
        ("tensorrt-llm-sm90", "nvfp4", "int4"),
        ("tensorrt-llm-sm100", "int4", "nvfp4"),
        ("tensorrt-llm-sm121", "awq", "nvfp4"),
        ("vllm", "int4", "fp8"),
    ],
)
def test_an_unsupported_precision_names_the_nearest(target: str, asked: str, nearest: str) -> None:
    with pytest.raises(BuildError, match=f"--precision {nearest}"):
        target_for(target).precision(asked)


@pytest.mark.parametrize(
    ("asked", "meant"), [("INT4-AWQ", "int4"), ("int4_awq", "int4"), ("NVFP4", "nvfp4"), (None, "nvfp4")]
)
def test_a_precision_may_be_spelled_as_the_tools_do(asked: str | None, meant: str) -> None:
    assert target_for("jetson-thor").precision(asked) == meant


@pytest.mark.parametrize(
    ("precision", "runs", "lacks"), [("int4", "sm80", "sm100"), ("fp8", "sm89", "sm80"), ("nvfp4", "sm100", "sm90")]
)
def test_tensorrt_llms_common_row_says_where_each_precision_runs(precision: str, runs: str, lacks: str) -> None:
    row = target_for("tensorrt-llm")
    assert row.precision(precision) == precision
    [where] = [note for note in row.notes for note in note.split("; ") if note.startswith(f"{precision} on ")]
    assert runs in where and lacks not in where.split(":")[0]
    assert runs in tensorrt_llm_sm(precision) and lacks not in tensorrt_llm_sm(precision)


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        pytest.param("jetson-agx-orin", "int4", "sm87.*--target jetson-thor", id="no FP8 kernels on Ampere"),
        pytest.param("edge-llm-sm86", "int4", "sm86", id="nor on its desktop cards"),
        pytest.param("tensorrt-llm-sm90", "fp8", "tensorrt-llm, sm90", id="a server keeps its tower in high precision"),
        pytest.param("vllm", "bf16", "openai-server", id="vllm"),
        pytest.param("cpu", "int8", "no GPU", id="cpu"),
        pytest.param("jetson-thor", "fp16", "--precision fp8", id="nothing else is quantized"),
    ],
)
def test_a_quantized_vision_tower_is_refused_where_nothing_runs_it(
    tmp_path: Path, target: str, precision: str, message: str
) -> None:
    command = [
        "egm-nano",
        "--target",
        target,
        "--precision",
        precision,
        "--quantize-vision",
        "-o",
        str(tmp_path / "bundle"),
    ]
    with pytest.raises(BuildError, match=message):
        build(command)
    assert not list(tmp_path.iterdir())


def test_the_verb_lists_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert targets([]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == list(TARGETS)


def test_the_verb_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert targets(["jetson-orin-nx", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["sm"], row["memory_gb"], row["support"]) == (["sm87"], 16.0, "host half tested")


@pytest.mark.parametrize("flag", ["--max-pixels", "--max-new-tokens", "--batch"])
def test_limits_must_be_positive(
    tiny_qwen3_vl: Path, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        build([str(tiny_qwen3_vl), flag, "0", "-o", str(tmp_path / "bundle")])
    assert flag in capsys.readouterr().err


def test_limits_reach_the_bundle(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    flags = ["--max-pixels", "16384", "--max-new-tokens", "77", "--precision", "fp32", "--quiet"]
    build([str(tiny_qwen3_vl), *flags, "-o", str(tmp_path / "bundle")])
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.limits["max_new_tokens"] == 77
    assert manifest.pixel_spec["max_pixels"] == 16384


def test_the_cpu_answers_one_request_at_a_time(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="--batch 1"):
        build([str(tiny_qwen3_vl), "--batch", "2", "-o", str(tmp_path / "bundle")])
