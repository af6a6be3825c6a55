"""The Edge-LLM backend against stand-ins of the runtime's documented shape. It was not run on hardware."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.manifest import BundleWriter
from egm_edge.backends.text_runtime.base import BOX_PATTERN
from egm_edge.backends.text_runtime.edge_llm import EdgeLlmGrounder, EdgeLlmRuntime
from egm_edge.errors import BackendError, BundleError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.grounding import Outcome
from egm_edge.pixels import PixelSpec
from tests.backends.edge_llm_stand_in import ANSWER, Engine, install

FRAME = np.full((120, 200, 3), 90, np.uint8)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch)


def write_bundle(checkpoint: Path, out: Path, engine: dict[str, str] | None) -> Path:
    pixels, prompts = PixelSpec.from_checkpoint(checkpoint), read_prompt_spec(checkpoint)
    with BundleWriter(out) as writer:
        writer.path("tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
        writer.path("checkpoint/config.json").write_text("{}")
        writer.path("engine/llm.engine").write_text("engine")
        writer.commit(
            target="jetson-agx-orin", text_runtime="edge_llm", precision="int4", family="qwen3_vl", model={"engine": engine},
            limits={"max_new_tokens": 64, "context_tokens": 512}, pixel_spec=pixels.to_dict(), pixel_spec_hash=pixels.hash,
            prompt_spec=prompts.to_dict(), prompt_spec_hash=prompts.hash, versions={"tensorrt-edgellm": "0.11.0"}, licences={},
            parity={"status": "unverified", "why": "not run", "next": "egm build bundle --target jetson-agx-orin -o bundle"},
        )  # fmt: skip
    return out


@pytest.fixture
def grounder(runtime: Any, tiny_qwen3_vl: Path, tmp_path: Path) -> Iterator[EdgeLlmGrounder]:
    bundle = write_bundle(tiny_qwen3_vl, tmp_path / "bundle", {"gpu": "Orin"})
    with EdgeLlmGrounder.from_bundle(bundle, guided=("regex", BOX_PATTERN)) as opened:
        yield opened


def test_a_streamed_answer_becomes_a_grounding(grounder: EdgeLlmGrounder) -> None:
    tokens: list[str] = []
    grounding = grounder.ground(FRAME, "the mug", color="rgb", on_token=lambda event: tokens.append(event.text))
    assert grounding.outcome is Outcome.FOUND
    assert grounding.box is not None and grounding.box.xyxy == pytest.approx((50, 30, 150, 60))
    assert "".join(tokens) == ANSWER
    assert grounding.tokens.prompt == 42
    assert grounding.bundle_hash and grounding.pixel_spec_hash
    assert grounder.facts.device == "Orin"


def test_the_request_is_greedy_guided_and_reuses_the_prefix(grounder: EdgeLlmGrounder) -> None:
    grounder.ground(FRAME, "the mug", color="rgb", max_new_tokens=33)
    assert isinstance(grounder.runtime, EdgeLlmRuntime)
    [request] = grounder.runtime.engine.requests
    assert (request.temperature, request.top_k, request.max_generate_length) == (0.0, 1, 33)
    assert request.skip_special_tokens is False
    assert request.context_cache_lookup_policy == "USE_CACHE"
    [one] = request.requests
    kinds = [kind for kind, _ in one.messages[0].contents]
    assert kinds == ["image", "text"] and "the mug" in one.messages[0].contents[1][1]
    assert one.guided_decoding == ("REGEX", BOX_PATTERN)
    assert one.image_buffers[0].data.startswith(b"\x89PNG")
    engine_dir, media_dir, adapters, checkpoint, cache = Engine.opened
    assert engine_dir == media_dir and engine_dir.endswith("engine") and checkpoint.endswith("checkpoint")
    assert adapters == {} and cache.enabled is True


def test_the_guide_accepts_the_grounding_answer() -> None:
    import re

    assert re.fullmatch(BOX_PATTERN, ANSWER.partition("</think>\n\n")[2])
    assert not re.fullmatch(BOX_PATTERN, "```json\n[]\n```x")
    assert json.dumps(BOX_PATTERN)


@pytest.mark.parametrize(
    ("script", "outcome", "cut"), [("cut", Outcome.FOUND, "max_new_tokens"), ("answers", Outcome.FOUND, "")]
)
def test_the_end_of_a_reply_is_told(grounder: EdgeLlmGrounder, script: str, outcome: Outcome, cut: str) -> None:
    Engine.script = script
    found = grounder.ground(FRAME, "the mug", color="rgb")
    assert (found.outcome, found.cut) == (outcome, cut)


def test_a_deadline_and_a_cancel_free_the_engine(grounder: EdgeLlmGrounder) -> None:
    Engine.script = "stalls"
    assert grounder.ground(FRAME, "the mug", color="rgb", deadline_ms=150).outcome is Outcome.TIMED_OUT
    started = time.perf_counter()
    late = grounder.ground(FRAME, "the mug", color="rgb", should_stop=lambda: time.perf_counter() - started > 0.1)
    assert late.outcome is Outcome.CANCELLED
    Engine.script = "answers"
    assert grounder.ground(FRAME, "the mug", color="rgb").outcome is Outcome.FOUND


@pytest.mark.parametrize(("script", "message"), [("fails", "exceeds the engine"), ("ends in error", "ended the request")])
def test_a_failure_of_the_runtime_is_one_line(grounder: EdgeLlmGrounder, script: str, message: str) -> None:
    Engine.script = script
    with pytest.raises(BackendError, match=message):
        grounder.ground(FRAME, "the mug", color="rgb")


def test_without_the_runtime_the_message_says_what_to_install(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tiny_qwen3_vl, tmp_path / "bundle", {"gpu": "Orin"})
    with pytest.raises(BackendError, match=r"expected tensorrt-edgellm 0\.11\.0.*found none.*egm setup edgellm --device"):
        EdgeLlmGrounder.from_bundle(bundle)


def test_a_release_that_was_not_tried_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tiny_qwen3_vl: Path, tmp_path: Path
) -> None:
    install(monkeypatch, release="0.11.1")
    bundle = write_bundle(tiny_qwen3_vl, tmp_path / "bundle", {"gpu": "Orin"})
    with pytest.raises(BackendError, match=r"expected tensorrt-edgellm 0\.11\.0.*found 0\.11\.1, whose one command"):
        EdgeLlmGrounder.from_bundle(bundle)


def test_a_machine_without_a_payload_is_told(runtime: Any, tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    def refuse() -> None:
        raise RuntimeError("no payload for sm90")

    runtime.load = refuse
    bundle = write_bundle(tiny_qwen3_vl, tmp_path / "bundle", {"gpu": "Orin"})
    with pytest.raises(BackendError, match="no payload for sm90"):
        EdgeLlmGrounder.from_bundle(bundle)


def test_a_host_half_is_not_run(runtime: Any, tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tiny_qwen3_vl, tmp_path / "bundle", None)
    with pytest.raises(BundleError, match="on the device: egm build bundle"):
        EdgeLlmGrounder.from_bundle(bundle)
