"""The device half against a stand-in for NVIDIA's builder that takes its documented flags and writes its documented files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from build_engine.cli import main
from build_engine.edge_llm import device
from build_engine.manifest import BundleWriter
from build_engine.targets import target_for
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from tests.build_engine.edge_llm.conftest import write_tool

PROFILE = {
    "max_input_len": 2296, "max_kv_cache_capacity": 3328, "max_batch_size": 1,
    "min_image_tokens": 4, "max_image_tokens": 2040, "max_image_tokens_per_image": 2040,
}  # fmt: skip
BUILDER = """#!{python}
import argparse, json, os, pathlib, sys
p = argparse.ArgumentParser()
for name in ("model-dir", "engine-dir"):
    p.add_argument("--" + name, required=True)
for name in ("max-input-len", "max-kv-cache-capacity", "max-batch-size", "min-image-tokens", "max-image-tokens",
             "max-image-tokens-per-image"):
    p.add_argument("--" + name, type=int, default=1)
a = p.parse_args()
assert (pathlib.Path(a.model_dir) / "config.json").is_file()
out = pathlib.Path(a.engine_dir)
(out / "visual").mkdir(parents=True, exist_ok=True)
mode = os.environ.get("FAKE_BUILD", "")
if mode == "fails":
    (out / "llm.engine").write_bytes(b"half")
    sys.exit("[TRT] Error: no XQA decode kernel for Hq,Hkv,headSize")
(out / "llm.engine").write_bytes(b"engine")
text = {{"max_input_len": 32 if mode == "demo" else a.max_input_len, "max_kv_cache_capacity": a.max_kv_cache_capacity,
         "max_batch_size": a.max_batch_size}}
(out / "config.json").write_text(json.dumps({{"builder_config": text}}))
if mode != "no vision":
    (out / "visual" / "visual.engine").write_bytes(b"vision")
visual = {{k: getattr(a, k) for k in ("min_image_tokens", "max_image_tokens", "max_image_tokens_per_image")}}
(out / "visual" / "config.json").write_text(json.dumps({{"builder_config": visual}}))
"""


@pytest.fixture
def host_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.path("checkpoint/config.json").write_text("{}")
        writer.path("tokenizer.json").write_text("{}")
        writer.commit(
            target="jetson-agx-orin", precision="int4", family="qwen3_vl",
            model={"engine": None, "profile": PROFILE, "image_token_id": 1, "stop_token_ids": []},
            limits={"max_new_tokens": 16, "context_tokens": 3328}, pixel_spec={}, pixel_spec_hash="p", prompt_spec={},
            prompt_spec_hash="q", parity={"status": "unverified", "why": "not run", "next": "egm build …"},
            versions={"tensorrt-edgellm": "0.11.0"}, licences={},
        )  # fmt: skip
    return tmp_path / "bundle"


@pytest.fixture
def device_here(fake_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tool(fake_environment, "tensorrt-edgellm-build", BUILDER.format(python=sys.executable))
    monkeypatch.setattr(device, "is_here", lambda: True)
    return fake_environment


def _build(bundle: Path) -> int:
    return main(["nvidia/EGM-4B", "--target", "jetson-agx-orin", "-o", str(bundle), "--quiet"])


def test_the_same_command_adds_the_engine_without_the_checkpoint(host_half: Path, device_here: Path) -> None:
    before = Bundle.open(host_half).manifest
    assert device.awaits_engine(host_half, target_for("jetson-agx-orin"))
    assert _build(host_half) == 0
    bundle = Bundle.open(host_half)
    engine = {name for name in bundle.manifest.files if name.startswith("engine/")}
    assert engine == {f"engine/{name}" for name in device.ENGINE_FILES}
    assert bundle.manifest.model["engine"]["builder"] == "tensorrt-edgellm 0.11.0"
    assert bundle.manifest.files.items() >= before.files.items()
    assert bundle.manifest.parity["status"] == "unverified"
    assert not device.awaits_engine(host_half, target_for("jetson-agx-orin"))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fails", "no XQA decode kernel"),
        ("no vision", r"visual/visual\.engine"),
        ("demo", "max_input_len 32 instead of 2296"),
    ],
)
def test_a_wrong_engine_leaves_the_bundle_as_it_was(
    host_half: Path, device_here: Path, monkeypatch: pytest.MonkeyPatch, mode: str, message: str
) -> None:
    before = Bundle.open(host_half).hash
    monkeypatch.setenv("FAKE_BUILD", mode)
    with pytest.raises(BuildError, match=message):
        _build(host_half)
    assert Bundle.open(host_half).hash == before
    assert [p.name for p in host_half.parent.iterdir() if p.name.startswith(".")] == []


def test_a_machine_without_a_payload_is_told_before_the_build(
    host_half: Path, device_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UNSUPPORTED", "1")
    with pytest.raises(BuildError, match="no payload for sm90"):
        _build(host_half)


def test_another_targets_bundle_is_not_finished(host_half: Path) -> None:
    assert not device.awaits_engine(host_half, target_for("jetson-thor"))


def test_the_arguments_are_the_documented_ones(host_half: Path, device_here: Path) -> None:
    from build_engine.edge_llm.environment import EdgeLlmEnvironment
    from build_engine.edge_llm.profile import EngineProfile

    argv = device.builder_arguments(EdgeLlmEnvironment.find(), Path("c"), Path("e"), EngineProfile(**PROFILE))
    assert argv[1:5] == ["--model-dir", "c", "--engine-dir", "e"]
    assert json.loads(json.dumps(argv[5:])) == [
        "--max-input-len", "2296", "--max-kv-cache-capacity", "3328", "--max-batch-size", "1",
        "--min-image-tokens", "4", "--max-image-tokens", "2040", "--max-image-tokens-per-image", "2040",
    ]  # fmt: skip
