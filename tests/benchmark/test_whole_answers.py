"""`egm measure` of what answers whole requests: a Jetson's runtime (a stand-in of its shape), and a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egm_edge.cli import main
from tests.backends.test_edge_llm import runtime as runtime  # the stand-in, as a fixture
from tests.backends.test_edge_llm import write_bundle


@pytest.fixture
def jetson_bundle(tiny_qwen3_vl: Path, tmp_path: Path) -> Path:
    return write_bundle(tiny_qwen3_vl, tmp_path / "bundle", {"gpu": "Orin"})


def test_a_jetsons_bundle_is_measured_like_any_other(
    runtime: Any, jetson_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["measure", str(jetson_bundle), "--requests", "3", "--warm-up", "1", "--sweep", "commands=2", "--out", str(tmp_path)]
    assert main([*asked, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["engine"].startswith("tensorrt-edgellm") and report["machine"]["device"] == "Orin"
    assert report["bundle"]["target"] == "jetson-agx-orin"
    assert len(report["samples"]) == 3 and all(sample["total_ms"] > 0 for sample in report["samples"])
    assert report["roofline"] is None and len(report["sweep"]) == 1
    assert (tmp_path / "measure.html").is_file()


@pytest.mark.parametrize("option", ["--ignore-end", "--no-speculate", "--beside"])
def test_what_needs_logits_is_refused_by_name(
    runtime: Any, jetson_bundle: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    value = ["transformers", "--checkpoint", str(jetson_bundle)] if option == "--beside" else []
    assert main(["measure", str(jetson_bundle), "--requests", "2", option, *value]) != 0
    error = capsys.readouterr().err
    assert f"gives logits for {option}" in error and "Traceback" not in error


def test_a_checkpoint_is_measured_through_transformers(
    tiny_qwen3_vl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(tiny_qwen3_vl), "--requests", "2", "--warm-up", "1", "--max-new-tokens", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["engine"].startswith("transformers")
    assert len(report["samples"]) == 2
