"""The device half against a stand-in for NVIDIA's builder that takes its documented flags and writes its documented files."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tokenizers import Tokenizer

from build_engine.cli import main
from build_engine.edge_llm import device
from build_engine.manifest import BundleWriter
from build_engine.targets import target_for
from build_engine.verify_cli import main as verify
from egm_edge.boxes import Box
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.golden.replies import GoldenReply, GoldenSet, write_golden
from egm_edge.grounding import Task
from egm_edge.pixels import PixelSpec
from tests.backends.edge_llm_stand_in import Engine, install
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


def _answer(box: tuple[int, int, int, int]) -> str:
    return f'\n</think>\n\n```json\n[{{"bbox_2d": {list(box)}, "label": "it"}}]\n```'


def _golden(number: int, tokenizer: Tokenizer) -> GoldenReply:
    """A reply whose box is its number's."""
    wh, norm1000 = (160, 120), (100 + 50 * number, 200, 400 + 50 * number, 600)
    done, picture = cv2.imencode(".png", np.full((wh[1], wh[0], 3), 40 * number, np.uint8))
    assert done
    box = Box.from_norm1000(norm1000, *wh).xyxy
    text = _answer(norm1000)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    chosen = np.repeat(np.array([*ids, 0])[:, None], 16, axis=1)
    return GoldenReply(
        picture.tobytes(),
        f"thing {number}",
        Task.MODAL,
        text,
        tuple(ids),
        box,
        chosen.astype(np.int32),
        np.zeros(chosen.shape, np.float32),
    )


def _golden_set(tokenizer: Tokenizer) -> GoldenSet:
    replies = tuple(_golden(number, tokenizer) for number in range(4))
    return GoldenSet(replies, "a reference", {"kl_nats": 0.2, "disagreeing": 0.05, "same_text": 0.0}, 64)


def _reply(shift: int) -> Callable[[Any], str]:
    """What the stand-in engine says: the golden answer to the expression it was asked, moved by thousandths."""

    def reply(request: Any) -> str:
        text = request.requests[0].messages[0].contents[1][1]
        number = next(i for i in range(4) if f"thing {i}" in text)
        return _answer((100 + 50 * number + shift, 200 + shift, 400 + 50 * number + shift, 600 + shift))

    return reply


@pytest.fixture
def host_half(tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels, prompts = PixelSpec.from_checkpoint(tiny_qwen3_vl), read_prompt_spec(tiny_qwen3_vl)
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.path("checkpoint/config.json").write_text("{}")
        shutil.copyfile(tiny_qwen3_vl / "tokenizer.json", writer.path("tokenizer.json"))
        write_golden(writer.root, _golden_set(Tokenizer.from_file(str(tiny_qwen3_vl / "tokenizer.json"))))
        writer.commit(
            target="jetson-agx-orin", text_runtime="edge_llm", precision="int4", family="qwen3_vl",
            model={"engine": None, "profile": PROFILE, "image_token_id": 1, "stop_token_ids": []},
            limits={"max_new_tokens": 64, "context_tokens": 3328}, pixel_spec=pixels.to_dict(), pixel_spec_hash=pixels.hash,
            prompt_spec=prompts.to_dict(), prompt_spec_hash=prompts.hash, licences={},
            parity={"status": "unverified", "why": "not run", "next": "egm build …"},
            versions={"tensorrt-edgellm": "0.11.0"},
        )  # fmt: skip
    return tmp_path / "bundle"


@pytest.fixture
def device_here(fake_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tool(fake_environment, "tensorrt-edgellm-build", BUILDER.format(python=sys.executable))
    monkeypatch.setattr(device, "is_here", lambda: True)
    return fake_environment


def _build(bundle: Path, *options: str) -> int:
    return main(["nvidia/EGM-4B", "--target", "jetson-agx-orin", "-o", str(bundle), "--quiet", *options])


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


def test_the_new_engine_answers_the_golden_requests_and_is_verified(
    host_half: Path, device_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    monkeypatch.setattr(Engine, "reply", staticmethod(_reply(0)))
    assert _build(host_half) == 0
    parity = Bundle.open(host_half).manifest.parity
    assert (parity["status"], parity["golden"]["boxes"], parity["golden"]["same_text"]) == ("verified", 4, 4)
    assert verify([str(host_half)]) == 0  # and again whenever somebody asks
    monkeypatch.setattr(Engine, "reply", staticmethod(_reply(9)))
    assert verify([str(host_half)]) == 1


def test_an_engine_with_shifted_boxes_is_refused_by_how_much_and_kept_without_the_gate(
    host_half: Path, device_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.open(host_half).hash
    install(monkeypatch)
    monkeypatch.setattr(Engine, "reply", staticmethod(_reply(9)))
    with pytest.raises(BuildError, match=r"checkpoint's boxes.*shifted.*\+9\.0.*--no-gate"):
        _build(host_half)
    assert Bundle.open(host_half).hash == before
    assert _build(host_half, "--no-gate") == 0
    assert Bundle.open(host_half).manifest.parity["status"] == "unverified"


def test_a_bundle_named_as_checkpoint_tells_why_the_engine_cannot_be_built(
    host_half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without the runtime, which has no config.json to complain of."""
    monkeypatch.setenv("EGM_EDGELLM_VENV", str(tmp_path / "nothing"))
    with pytest.raises(BuildError, match=r"an environment with tensorrt-edgellm.*egm setup edgellm"):
        main([str(host_half), "--target", "jetson-agx-orin", "-o", str(host_half), "--quiet"])


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
