"""Requests on a clock with the shipped EGM-Nano: deadlines, waiting, thought budgets, votes, streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from egm_edge import Grounder, Outcome
from egm_edge.assets import shipped_checkpoint
from egm_edge.decoding import TokenEvent
from egm_edge.errors import InputError
from egm_edge.grounding import Grounding, Truncation
from egm_edge.synthetic import layout, render, sample_scene

CLOSING_TOKENS = 3  # the end mark of a thought and the empty lines behind it


def picture(seed: int = 970_000_001) -> np.ndarray:
    scene = sample_scene(seed, (3, 5))
    layout(scene, 640, 480)
    return render(scene, 640, 480).image


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounder]:
    from build_engine.compilers.cpu import build_cpu

    bundle = build_cpu(shipped_checkpoint(), tmp_path_factory.mktemp("asking") / "bundle", gate=False)
    with Grounder.from_opened(bundle) as opened:
        opened.warm_up()
        yield opened


def test_generous_time_changes_nothing(grounder: Grounder) -> None:
    free = grounder.ground(picture(), "the leftmost mug", color="rgb")
    timed = grounder.ground(picture(), "the leftmost mug", color="rgb", deadline_ms=60_000, samples=1)
    assert (timed.text, timed.box, timed.cut, timed.deadline_met) == (free.text, free.box, "", True)
    assert free.deadline_met is None


@pytest.mark.parametrize("deadline_ms", [0.01, 1.0, 5.0, 12.0, 25.0, 50.0])
def test_an_answer_is_there_by_the_deadline_or_says_that_it_is_not(grounder: Grounder, deadline_ms: float) -> None:
    image, step_ms = picture(), grounder.cost.step_ms
    late = []
    for _ in range(5):
        began = time.perf_counter()
        found = grounder.ground(image, "the leftmost mug", color="rgb", deadline_ms=deadline_ms)
        late.append((time.perf_counter() - began) * 1e3 - deadline_ms)
        if found.outcome is Outcome.TIMED_OUT:
            assert not found.deadline_met and "answer" in found.cut
    # Making the frame is not interruptible; the median forgives a machine that was elsewhere for a moment.
    frame = grounder.frame(image, color="rgb")
    assert float(np.median(late)) <= max(10 * step_ms, 25.0) + frame.preprocess_ms


def test_an_instant_is_a_deadline_too(grounder: Grounder) -> None:
    """Of `time.monotonic()`, so that whoever waited before the call need not say what is left."""
    frame = grounder.frame(picture(), color="rgb")
    assert grounder.ground(frame, "the mug", deadline_at=time.monotonic() + 60).deadline_met is True
    late = grounder.ground(frame, "the mug", deadline_at=time.monotonic() - 1)
    assert (late.outcome, late.deadline_met) == (Outcome.TIMED_OUT, False) and Truncation.ANSWER in late.truncated_by
    with pytest.raises(InputError, match="both"):
        grounder.ground(frame, "the mug", deadline_at=1.0, deadline_ms=1.0)


def test_deadlines_that_had_passed_before_they_were_asked_teach_nothing_about_stopping(grounder: Grounder) -> None:
    """Or whoever asks too late a few times would take the time from all who ask with little to spare."""
    frame = grounder.frame(picture(), color="rgb")
    for _ in range(10):
        grounder.ground(frame, "the mug", deadline_at=time.monotonic() - 100)
    assert grounder.latency.interruption_ms < 10_000


def test_a_cut_thought_still_gives_a_box(grounder: Grounder) -> None:
    whole = grounder.ground(picture(), "the leftmost mug", color="rgb")
    assert whole.tokens.think > 4
    for budget in (0, 1):
        cut = grounder.ground(picture(), "the leftmost mug", color="rgb", max_think_tokens=budget)
        assert cut.tokens.think <= budget + CLOSING_TOKENS
        assert cut.outcome in (Outcome.FOUND, Outcome.NOT_FOUND)
        assert ("thought" in cut.cut) == (budget > 0), "no thought at all was not cut short"


def test_waiting_for_another_request_counts(grounder: Grounder) -> None:
    """The engine is held; who asks with a deadline is told at the deadline, not when the engine is free."""
    held, done = threading.Event(), threading.Event()

    def hold(_event: TokenEvent) -> None:
        held.set()
        done.wait(10)

    frame, other = (grounder.frame(picture(), color="rgb") for _ in range(2))
    busy = threading.Thread(target=grounder.ground, args=(frame, "the mug"), kwargs={"on_token": hold})
    busy.start()
    try:
        assert held.wait(10)
        began = time.perf_counter()
        late = grounder.ground(other, "the mug", deadline_ms=80.0)
        waited_ms = (time.perf_counter() - began) * 1e3
    finally:
        done.set()
        busy.join()
    assert late.outcome is Outcome.TIMED_OUT and late.deadline_met is False
    assert 80.0 <= waited_ms < 10_000, "the engine is held for longer"
    assert grounder.ground(other, "the mug").outcome is not Outcome.TIMED_OUT, "the lock was left as it was"


def test_votes_agree_with_themselves_and_repeat(grounder: Grounder) -> None:
    first, second = (grounder.ground(picture(), "the leftmost mug", color="rgb", samples=4, seed=3) for _ in range(2))
    assert 0 < first.timings.ttft_ms <= first.timings.total_ms
    assert first.samples == 4 and first.agreement is not None and 0.25 <= first.agreement <= 1.0
    assert (first.text, first.box, first.agreement) == (second.text, second.box, second.agreement)


def test_a_stream_ends_with_the_same_answer(grounder: Grounder) -> None:
    whole = grounder.ground(picture(), "the leftmost mug", color="rgb")
    *events, last = grounder.stream(picture(), "the leftmost mug", color="rgb")
    assert isinstance(last, Grounding) and (last.text, last.box) == (whole.text, whole.box)
    assert all(isinstance(event, TokenEvent) for event in events)
    assert [event.count for event in events if isinstance(event, TokenEvent)] == sorted(
        event.count for event in events if isinstance(event, TokenEvent)
    )


def test_closing_a_stream_frees_the_engine(grounder: Grounder) -> None:
    with grounder.stream(picture(), "the leftmost mug", color="rgb") as stream:
        next(stream)
    assert list(stream) == []
    began = time.perf_counter()
    grounder.ground(picture(), "the mug", color="rgb", max_new_tokens=1)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "wrong",
    [{"deadline_ms": -1.0}, {"deadline_ms": 0.0}, {"deadline_ms": float("nan")}, {"samples": 0}, {"max_think_tokens": -1}],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(grounder: Grounder, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        grounder.ground(picture(), "the mug", color="rgb", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        grounder.stream(picture(), "the mug", color="rgb", **wrong)  # type: ignore[arg-type]
