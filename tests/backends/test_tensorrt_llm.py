"""The TensorRT-LLM backend against stand-ins of the LLM API's shape. It was not run on hardware."""

from __future__ import annotations

import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.compilers.serving import compile_server
from build_engine.manifest import BundleWriter
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.backends.text_runtime.base import BOX_PATTERN
from egm_edge.backends.text_runtime.tensorrt_llm import THOUGHT_PATTERN, TensorRtLlmGrounder
from egm_edge.bundle import Bundle
from egm_edge.decoding import TokenEvent
from egm_edge.errors import BackendError, BundleError, InputError
from egm_edge.families import PromptSpec
from egm_edge.grounding import Grounding, Outcome, Task
from egm_edge.pixels import PixelSpec, preprocess
from tests.backends import tensorrt_llm_stand_in
from tests.backends.tensorrt_llm_stand_in import (
    ANSWER,
    LATE_S,
    LLM,
    PREFILL_MS,
    PROMPT_TOKENS,
    STEPS,
    GuidedDecodingParams,
    SamplingParams,
)

FRAME = np.random.default_rng(3).integers(0, 256, (121, 203, 3), np.uint8)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    package, llmapi = types.ModuleType("tensorrt_llm"), types.ModuleType("tensorrt_llm.llmapi")
    package.__dict__.update(__version__="1.3.0rc20", LLM=LLM, SamplingParams=SamplingParams, llmapi=llmapi)
    llmapi.__dict__.update(GuidedDecodingParams=GuidedDecodingParams)
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", llmapi)
    monkeypatch.setattr(LLM, "script", "answers")
    return package


@pytest.fixture(scope="module")
def bundle(tiny_qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `egm build --target tensorrt-llm` writes it."""
    out = tmp_path_factory.mktemp("tensorrt_llm") / "bundle"
    options: dict[str, Any] = {"target": target_for("tensorrt-llm"), "precision": "bf16", "max_new_tokens": 99}
    return compile_server(BuildRequest(checkpoint=tiny_qwen3_vl, out_dir=out, max_pixels=128 * 96, **options)).root


@pytest.fixture
def grounder(runtime: Any, bundle: Path) -> Iterator[TensorRtLlmGrounder]:
    with TensorRtLlmGrounder.from_bundle(bundle) as opened:
        yield opened


def ask(grounder: TensorRtLlmGrounder, **options: Any) -> Grounding:
    return grounder.ground(FRAME, "the mug", color="rgb", **options)


def test_a_streamed_answer_becomes_a_grounding(grounder: TensorRtLlmGrounder, bundle: Path) -> None:
    events: list[TokenEvent] = []
    found = ask(grounder, stamp_ns=9, on_token=events.append)
    assert (found.outcome, found.cut, found.label, found.stamp_ns) == (Outcome.FOUND, "", "the mug", 9)
    assert found.box is not None and found.box.xyxy == pytest.approx((203 / 4, 121 / 4, 203 * 3 / 4, 121 / 2))
    assert found.text == ANSWER == "".join(event.text for event in events)
    assert len(events) > 5 and [event.count for event in events] == [*range(1, len(events) + 1)]
    assert (found.tokens.prompt, found.tokens.completion) == (PROMPT_TOKENS, len(events))
    assert found.bundle_hash == Bundle.open(bundle).hash and found.pixel_spec_hash and found.prompt_spec_hash
    assert grounder.facts.runtime == "tensorrt-llm 1.3.0rc20"


def test_the_runtime_gets_the_bundles_checkpoint_and_arguments(grounder: TensorRtLlmGrounder, bundle: Path) -> None:
    assert LLM.latest.model == str(bundle / "checkpoint")
    assert LLM.latest.arguments["guided_decoding_backend"] == "xgrammar"
    assert LLM.latest.arguments["kv_cache_config"]["enable_block_reuse"] is True


def test_decoding_is_greedy_free_and_capped_by_the_bundle_or_the_request(grounder: TensorRtLlmGrounder) -> None:
    ask(grounder)
    ask(grounder, max_new_tokens=33)
    (_, first), (_, second) = LLM.latest.asked
    assert (first.temperature, first.top_k, first.max_tokens, first.guided_decoding) == (0.0, 1, 99, None)
    assert second.max_tokens == 33


@pytest.mark.parametrize("task", list(Task))
def test_the_prompt_is_the_bundles_own(grounder: TensorRtLlmGrounder, bundle: Path, task: Task) -> None:
    ask(grounder, task=task)
    [(inputs, _)] = LLM.latest.asked
    spec = PromptSpec.from_dict(Bundle.open(bundle).manifest.prompt_spec)
    assert inputs["prompt"] == spec.prefix + spec.task_text("the mug", task) + spec.suffix
    assert inputs["prompt"].count(spec.image_token) == 1


def test_the_picture_arrives_at_the_size_and_with_the_pixels_of_the_bundles_own_resize(
    grounder: TensorRtLlmGrounder, bundle: Path
) -> None:
    ask(grounder)
    [(inputs, _)] = LLM.latest.asked
    spec = PixelSpec.from_dict(Bundle.open(bundle).manifest.pixel_spec)
    [picture] = inputs["multi_modal_data"]["image"]
    height, width = spec.resized_hw(*FRAME.shape[:2])
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    assert (height, width) != FRAME.shape[:2] and spec.resized_hw(height, width) == (height, width)
    np.testing.assert_array_equal(preprocess(np.asarray(picture), spec).patches, preprocess(FRAME, spec).patches)
    size = inputs["mm_processor_kwargs"]["size"]
    assert size == {"longest_edge": 128 * 96, "shortest_edge": spec.min_pixels}


def test_a_regex_guide_holds_behind_the_thought(runtime: Any, bundle: Path) -> None:
    with TensorRtLlmGrounder.from_bundle(bundle, guided=("regex", BOX_PATTERN)) as grounder:
        ask(grounder)
    [(_, sampling)] = LLM.latest.asked
    assert sampling.guided_decoding is not None and sampling.guided_decoding.regex is not None
    assert sampling.guided_decoding.regex == THOUGHT_PATTERN + BOX_PATTERN
    assert re.fullmatch(sampling.guided_decoding.regex, ANSWER)
    assert not re.fullmatch(sampling.guided_decoding.regex, ANSWER.replace("750", "seven"))
    with pytest.raises(InputError, match="regex guide"):
        TensorRtLlmGrounder.from_bundle(bundle, guided=("json", "{}"))


def test_the_engines_own_measurements_land_in_the_grounding(grounder: TensorRtLlmGrounder) -> None:
    LLM.latest.preprocess_s = 0.05
    timings, tokens = (found := ask(grounder)).timings, found.tokens
    assert timings.prefill_ms == pytest.approx(PREFILL_MS)
    assert timings.preprocess_ms >= 50.0
    assert timings.total_ms >= timings.ttft_ms > timings.preprocess_ms
    assert tokens.decode_steps == STEPS != tokens.completion
    assert timings.frame_reused is False


def test_a_picture_that_is_whole_in_the_kv_cache_counts_as_reused(grounder: TensorRtLlmGrounder) -> None:
    frame = grounder.frame(FRAME, color="rgb")
    shared = grounder.served.frame_tokens(frame.image_tokens)
    found = []
    for LLM.latest.cached_tokens in (0, shared - 1, shared):
        found.append(grounder.ground(frame, "the mug").timings.frame_reused)
    assert found == [False, False, True]


def test_a_runtime_without_measurements_leaves_the_clock_of_this_side(
    grounder: TensorRtLlmGrounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_llm_stand_in, "perf_metrics", lambda: None)
    found = ask(grounder)
    assert found.outcome is Outcome.FOUND
    assert 0.0 <= found.timings.prefill_ms != pytest.approx(PREFILL_MS)
    assert found.tokens.decode_steps == found.tokens.completion


def test_the_token_limit_is_told(grounder: TensorRtLlmGrounder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLM, "script", "cut")
    assert ask(grounder).cut == "max_new_tokens"


@pytest.mark.parametrize("script", ["stalls", "hangs half way"])
def test_a_deadline_holds_and_takes_the_request_out_of_the_batch(
    grounder: TensorRtLlmGrounder, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(LLM, "script", script)
    started = time.perf_counter()
    late = ask(grounder, deadline_ms=200)
    assert 0.19 <= time.perf_counter() - started < LATE_S
    assert (late.outcome, late.deadline_met, late.box) == (Outcome.TIMED_OUT, False, None)
    assert LLM.latest.requests[0].aborted
    monkeypatch.setattr(LLM, "script", "answers")
    assert ask(grounder, deadline_ms=60_000).deadline_met is True
    assert not LLM.latest.requests[1].aborted


def test_a_deadline_holds_while_the_runtime_prepares_the_picture(grounder: TensorRtLlmGrounder) -> None:
    LLM.latest.preprocess_s = 60.0
    assert ask(grounder, deadline_ms=100).outcome is Outcome.TIMED_OUT
    assert not LLM.latest.requests, "it is not prepared yet"
    LLM.latest.prepared.set()
    until(lambda: bool(LLM.latest.requests) and LLM.latest.requests[0].aborted)


def test_a_cancel_aborts_the_request(grounder: TensorRtLlmGrounder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLM, "script", "hangs half way")
    seen: list[TokenEvent] = []
    assert ask(grounder, on_token=seen.append, should_stop=lambda: len(seen) > 1).outcome is Outcome.CANCELLED
    assert LLM.latest.requests[0].aborted


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("refuses", "max_num_tokens"),
        ("fails", "CUDA out of memory"),
        ("cancelled", "'cancelled' by itself"),
        ("timeout", "'timeout' by itself"),
    ],
)
def test_a_failure_of_the_runtime_is_one_line(
    grounder: TensorRtLlmGrounder, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(LLM, "script", script)
    with pytest.raises(BackendError, match=message) as raised:
        ask(grounder)
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(LLM, "script", "answers")
    assert ask(grounder).outcome is Outcome.FOUND


def test_two_threads_decode_in_one_batch_and_submit_in_turn(grounder: TensorRtLlmGrounder) -> None:
    LLM.latest.barrier, LLM.latest.preprocess_s = threading.Barrier(2), 0.05
    found: list[Grounding] = []
    threads = [threading.Thread(target=lambda: found.append(ask(grounder))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [g.outcome for g in found] == [Outcome.FOUND] * 2
    assert LLM.latest.most_inside == 1


def test_closing_waits_for_who_is_asking_and_is_final(runtime: Any, bundle: Path) -> None:
    grounder = TensorRtLlmGrounder.from_bundle(bundle)
    engine, seen = LLM.latest, []
    engine.barrier = threading.Barrier(2)
    asking = threading.Thread(target=lambda: seen.append((ask(grounder).outcome, engine.shut_down)))
    asking.start()
    until(lambda: bool(engine.requests))
    closing = threading.Thread(target=grounder.close)
    closing.start()
    time.sleep(0.05)
    assert not engine.shut_down
    engine.barrier.wait(LATE_S)
    asking.join()
    closing.join()
    assert seen[0][0] is Outcome.FOUND and engine.shut_down
    with pytest.raises(BackendError, match="closed"):
        ask(grounder)
    grounder.close()


@pytest.mark.parametrize(
    "asked", [{"samples": 3}, {"max_think_tokens": 0}, {"temperature": 0.7}], ids=lambda asked: next(iter(asked))
)
def test_what_needs_logits_is_refused(grounder: TensorRtLlmGrounder, asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(asked))):
        ask(grounder, **asked)


def test_without_the_runtime_the_message_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(BackendError, match=r"pip install 'tensorrt-llm>=1\.3\.0rc7,<1\.4'"):
        TensorRtLlmGrounder.from_bundle(bundle)


@pytest.mark.parametrize("version", ["1.2.1", "1.3.0rc6"])
def test_releases_that_shift_boxes_are_refused(runtime: Any, bundle: Path, version: str) -> None:
    runtime.__version__ = version
    with pytest.raises(BackendError, match=rf"{version}.*shift boxes"):
        TensorRtLlmGrounder.from_bundle(bundle)


def test_a_checkpoint_that_does_not_load_is_one_line(
    runtime: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LLM, "script", "does not load")
    with pytest.raises(BackendError, match=r"Unknown architecture in config\.json"):
        TensorRtLlmGrounder.from_bundle(bundle)


@pytest.mark.parametrize(("target", "family"), [("tensorrt-llm", "internvl3"), ("vllm", "qwen3_vl")])
def test_other_families_and_targets_are_refused_before_the_runtime_is_looked_for(
    bundle: Path, tmp_path: Path, target: str, family: str
) -> None:
    manifest = Bundle.open(bundle).manifest
    with BundleWriter(tmp_path / "other") as writer:
        writer.path("tokenizer.json").write_bytes((bundle / "tokenizer.json").read_bytes())
        writer.commit(
            target=target, precision=manifest.precision, family=family, model=manifest.model, limits=manifest.limits,
            pixel_spec=manifest.pixel_spec, pixel_spec_hash=manifest.pixel_spec_hash, prompt_spec=manifest.prompt_spec,
            prompt_spec_hash=manifest.prompt_spec_hash, versions=manifest.versions, licences={}, parity=manifest.parity,
        )  # fmt: skip
    with pytest.raises(BundleError, match=f"{family} for {target}"):
        TensorRtLlmGrounder.from_bundle(tmp_path / "other")


def until(happened: Callable[[], bool]) -> None:
    """Wait a moment for what other threads do."""
    end = time.perf_counter() + LATE_S
    while not happened():
        assert time.perf_counter() < end
        time.sleep(0.005)
