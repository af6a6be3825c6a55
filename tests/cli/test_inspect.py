"""`egm inspect` of bundles and of checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from egm_edge.cli import main
from tests.cli.conftest import Egm, assert_refused


@pytest.mark.parametrize(
    ("fixture", "family", "opens_thought"), [("tiny_qwen3_vl", "qwen3_vl", True), ("tiny_internvl3", "internvl3", False)]
)
def test_a_checkpoint_shows_what_it_is(
    egm: Egm, fixture: str, family: str, opens_thought: bool, request: pytest.FixtureRequest
) -> None:
    checkpoint: Path = request.getfixturevalue(fixture)
    done = egm("inspect", checkpoint, "--json")
    assert done.returncode == 0, done.stderr
    facts, config = json.loads(done.stdout), json.loads((checkpoint / "config.json").read_text())
    assert facts["family"] == family
    assert facts["decoder"]["layers"] == config["text_config"]["num_hidden_layers"]
    assert facts["decoder"]["hidden"] == config["text_config"]["hidden_size"]
    assert facts["template_opens_a_thought"] is opens_thought
    assert facts["parameters"] > 10_000 and sum(facts["tensors"].values()) > 10
    assert all(tokens > 0 for tokens in facts["image_tokens"].values())
    told = egm("inspect", checkpoint)
    assert told.returncode == 0 and f"{facts['parameters']:,}" in told.stdout and facts["pixel_spec_hash"] in told.stdout


def test_the_shipped_checkpoint_goes_by_its_name(egm: Egm) -> None:
    facts = json.loads(egm("inspect", "egm-nano", "--json").stdout)
    assert facts["parameters"] == 3_072_512 and facts["licence"] == "apache-2.0"


def test_a_bundle_shows_its_manifest_as_before(egm: Egm, tiny_bundle: Path) -> None:
    done = egm("inspect", tiny_bundle)
    assert done.returncode == 0 and "all checksums right" in done.stdout


def test_neither_is_one_line(egm: Egm, tmp_path: Path) -> None:
    assert_refused(egm("inspect", tmp_path), 4, "a directory without bundle.json")


def test_without_the_builder_a_checkpoint_names_the_extra(
    tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "build_engine.inspect_cli", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("build_engine.exporters")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["inspect", str(tiny_qwen3_vl)]) != 0
    assert "egm-edge[build]" in capsys.readouterr().err
