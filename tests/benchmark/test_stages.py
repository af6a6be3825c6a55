"""Numbers that add up: stages and total, tokens and the engine's own count, and a sleep that shows where it was put."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egm_edge import frame as frame_module
from egm_edge import pipeline
from egm_edge.benchmark.report import samples_dict, summarise
from egm_edge.benchmark.runner import ask, measure_requests
from egm_edge.benchmark.sample import STAGES, Sample
from egm_edge.benchmark.workload import Workload, read_workload
from egm_edge.bundle import Bundle
from egm_edge.grounder import Grounder
from tests.benchmark.scripted import REPLY, ScriptedBackend, scripted_grounder

SLEEP_S = 0.05
HOST_STAGES = {"decode_image_ms": "load_picture", "preprocess_ms": "preprocess", "parse_ms": "parse_answer"}


@pytest.fixture
def workload(frames_dir: Path) -> Workload:
    return read_workload(frames_dir)


@pytest.fixture
def grounder(tiny_cpu_bundle: Bundle) -> Iterator[Grounder]:
    with scripted_grounder(tiny_cpu_bundle) as made:
        yield made


def scripted(grounder: Grounder) -> ScriptedBackend:
    assert isinstance(grounder.backend, ScriptedBackend)
    return grounder.backend


def inject(monkeypatch: pytest.MonkeyPatch, grounder: Grounder, stage: str, pause: Callable[[float], Any]) -> None:
    """Make one stage sleep."""
    if stage not in HOST_STAGES:
        scripted(grounder).pauses_s[stage.removesuffix("_ms")] = SLEEP_S
        return
    module = pipeline if stage == "parse_ms" else frame_module
    inner = getattr(module, HOST_STAGES[stage])

    def slowed(*arguments: Any, **options: Any) -> Any:
        pause(SLEEP_S)
        return inner(*arguments, **options)

    monkeypatch.setattr(module, HOST_STAGES[stage], slowed)


@pytest.fixture
def virtual_pause(monkeypatch: pytest.MonkeyPatch, grounder: Grounder) -> Callable[[float], None]:
    """A clock that stands still but for 10 µs a look and for the pauses: what is measured no longer hangs on the machine."""
    import sys

    now = [100.0]

    def perf_counter() -> float:
        now[0] += 1e-5
        return now[0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(perf_counter=perf_counter, monotonic=perf_counter)
    decoding = ("decoding.generate", "decoding.generation_state")
    for name in ("grounder", "frame", "pipeline", "assembly", *decoding, "benchmark.runner"):
        monkeypatch.setattr(sys.modules[f"egm_edge.{name}"], "time", clock)
    scripted(grounder).clock, scripted(grounder).pause = perf_counter, pause
    return pause


@pytest.mark.parametrize("stage", STAGES)
def test_a_sleep_shows_in_its_stage_and_nowhere_else(
    stage: str,
    grounder: Grounder,
    workload: Workload,
    virtual_pause: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grounder.speculate = False  # the first answer would teach the second one its layout, and so save it steps
    (before,) = measure_requests(grounder, workload, 1, None)
    inject(monkeypatch, grounder, stage, virtual_pause)
    (after,) = measure_requests(grounder, workload, 1, None)
    for name in STAGES:
        expected = SLEEP_S * 1e3 if name == stage else 0.0
        assert after.stages[name] - before.stages[name] == pytest.approx(expected, abs=0.1), name
    assert after.other_ms == pytest.approx(before.other_ms, abs=0.1)
    assert after.total_ms - before.total_ms == pytest.approx(SLEEP_S * 1e3, abs=0.2)
    later = stage in ("think_ms", "answer_ms", "parse_ms")
    if stage != "parse_ms":  # the time to the first token ends where generation begins
        assert after.ttft_ms - before.ttft_ms == pytest.approx(0.0 if later else SLEEP_S * 1e3, abs=0.2)


def test_stages_sum_to_the_total_within_three_percent(
    grounder: Grounder, workload: Workload, virtual_pause: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in STAGES:
        inject(monkeypatch, grounder, stage, virtual_pause)
    for sample in measure_requests(grounder, workload, 4, None):
        assert sum(sample.stages.values()) == pytest.approx(sample.total_ms, rel=0.03)
        assert sum(sample.stages.values()) + sample.other_ms == pytest.approx(sample.total_ms, rel=1e-9)


@pytest.mark.parametrize("stage", STAGES)
def test_on_the_real_clock_too(
    stage: str, grounder: Grounder, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, grounder, stage, time.sleep)
    samples = measure_requests(grounder, workload, 6, None)
    fastest = {name: min(s.stages[name] for s in samples) for name in STAGES}  # a busy machine slows some, not all
    assert fastest[stage] >= SLEEP_S * 1e3
    assert max(fastest, key=lambda name: fastest[name]) == stage
    assert all(s.other_ms >= 0.0 for s in samples)


def test_on_the_real_clock_stages_sum_to_the_total_within_three_percent(
    grounder: Grounder, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in STAGES:
        inject(monkeypatch, grounder, stage, time.sleep)
    samples = measure_requests(grounder, workload, 5, None)
    assert min(s.other_ms / s.total_ms for s in samples) <= 0.03  # a busy machine may tear one request apart, not all


def test_tokens_are_those_the_engine_was_fed(grounder: Grounder, workload: Workload) -> None:
    grounder.speculate = False
    engine = scripted(grounder)
    reply = grounder.tokenizer.encode(REPLY).ids
    (question,) = workload.take(1)
    sample = ask(grounder, question, None)
    assert sample.tokens["completion"] == len(reply)
    assert sample.tokens["prompt"] + sample.tokens["decode_steps"] == engine.fed
    assert sample.tokens["decode_steps"] == len(reply)  # each is fed once, the last one to learn that the end comes
    assert grounder.tokenizer.decode(reply[: sample.tokens["think"]], skip_special_tokens=False).endswith("</think>")
    assert len(sample.token_gaps_ms) == len(reply) - 1
    assert sample.outcome == "FOUND"


def test_tokens_agree_with_transformers_own_count(
    tiny_cpu_bundle: Bundle, tiny_qwen3_vl: Path, workload: Workload
) -> None:
    import io

    from PIL import Image

    from tests.support.hf_reference import hf_greedy, hf_inputs, hf_model, hf_processor

    (question,) = workload.take(1)
    with Grounder.from_opened(tiny_cpu_bundle, threads=1) as real:
        sample = ask(real, question, 12)
        words = real.prompt_spec.task_text(question.expression, question.task)
    inputs = hf_inputs(hf_processor(tiny_qwen3_vl), Image.open(io.BytesIO(question.image)).convert("RGB"), words)
    assert sample.tokens["prompt"] == inputs["input_ids"].shape[1]
    assert sample.tokens["image"] == int(inputs["mm_token_type_ids"].sum())
    ends = set(real.stop_ids)
    made = [token for token in hf_greedy(hf_model(tiny_qwen3_vl), inputs, 12) if token not in ends]
    assert sample.tokens["completion"] == len(made)


def test_time_per_token_counts_the_end_token(grounder: Grounder, workload: Workload) -> None:
    (question,) = workload.take(1)
    whole, cut = ask(grounder, question, None), ask(grounder, question, 5)
    for sample, generated in ((whole, whole.tokens["completion"] + 1), (cut, 5)):
        decode_ms = sample.stages["think_ms"] + sample.stages["answer_ms"]
        assert sample.tpot_ms == pytest.approx(decode_ms / (generated - 1))
    assert ask(grounder, question, 1).tpot_ms is None


def test_a_summary_holds_every_quantity(grounder: Grounder, workload: Workload) -> None:
    samples = samples_dict(measure_requests(grounder, workload, 5, None))
    summary = summarise(samples)
    assert set(summary["milliseconds"]) == {*STAGES, "other_ms", "ttft_ms", "total_ms", "tpot_ms", "token_gap_ms"}
    assert summary["milliseconds"]["total_ms"]["count"] == 5
    assert summary["milliseconds"]["total_ms"]["max"] == max(s["total_ms"] for s in samples)
    assert summary["tokens"]["completion"]["min"] == summary["tokens"]["completion"]["max"] > 0
    assert isinstance(Sample(**samples[0]), Sample)
