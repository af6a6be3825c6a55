"""The dispatcher, without ROS: order, frames, policies, cancel and deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from egm_ros.dispatcher import ENGINE_WAIT_S, Dispatcher
from egm_ros.mailbox import Mailbox
from egm_ros.requests import Answer, BusyError, Request, Ticket
from egm_ros.settings import Settings
from egm_ros.standing_queries import StandingQuery
from fake_node import FakeGrounder
from local_engine import LocalEngine
from test_conversion import memory_of, message

from egm_edge.grounding import Outcome, Task


class Bench:
    """A dispatcher with a fake engine, and everything it answered."""

    def __init__(self) -> None:
        self.settings = Settings(max_frame_age_s=60.0)
        self.mailbox = Mailbox()
        self.answers: list[Answer] = []
        self.engine = LocalEngine(FakeGrounder(self.settings))
        self.dispatcher = Dispatcher(self.engine, self.mailbox.wake, lambda: self.settings)
        self.source = self.dispatcher.add_source(self.mailbox, self.answers.append)

    def show(self) -> None:
        """A new frame arrives."""
        frame = message(memory_of("rgb8"), "rgb8")
        frame.header = _Header(int(time.monotonic() * 1e9))  # type: ignore[attr-defined]
        self.mailbox.put(frame)

    def submit(self, expression: str, left_s: float | None = None) -> Ticket:
        self.dispatcher.reserve()
        deadline_s = None if left_s is None else time.monotonic() + left_s
        return self.dispatcher.submit(self.source, Request("r", expression, Task.MODAL, deadline_s))

    def ask(self, expression: str, left_s: float | None = None) -> Answer:
        return self.dispatcher.wait(self.submit(expression, left_s))


def command(request_id: str, expression: str, task: Task = Task.MODAL) -> StandingQuery:
    return StandingQuery(Request(request_id, expression, task))


class _Header:
    def __init__(self, stamp_ns: int) -> None:
        self.stamp = self
        self.sec, self.nanosec = divmod(stamp_ns, 1_000_000_000)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    assert made.dispatcher.stop(60.0)


def wait_for(ready: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def test_a_request_is_answered_on_the_newest_frame_and_reuses_it(bench: Bench) -> None:
    bench.show()
    first, second = bench.ask("red thing"), bench.ask("blue thing")
    assert first.grounding is not None
    assert second.grounding is not None
    assert first.frame is second.frame
    assert first.grounding.stamp_ns == first.frame.stamp_ns  # type: ignore[union-attr]
    assert not first.grounding.timings.frame_reused
    assert second.grounding.timings.frame_reused


def test_without_a_frame_a_request_fails_after_the_frame_age(bench: Bench) -> None:
    bench.settings = replace(bench.settings, max_frame_age_s=0.3)
    start = time.monotonic()
    answer = bench.ask("red thing")
    assert answer.grounding is None
    assert "expected a camera frame within 0.3 s; found none" in answer.error
    assert 0.25 < time.monotonic() - start < ENGINE_WAIT_S


def test_a_request_waits_for_a_frame_that_comes_in_time(bench: Bench) -> None:
    threading.Timer(0.1, bench.show).start()
    assert bench.ask("red thing").grounding is not None


def test_each_frame_is_grounded_once_for_a_standing_command(bench: Bench) -> None:
    bench.source.say(command("c", "red thing tokens=1", Task.MODAL))
    for number in range(3):
        bench.show()
        wait_for(lambda: len(bench.answers) > number)  # noqa: B023
    time.sleep(0.1)
    assert [answer.frame.sequence for answer in bench.answers if answer.frame] == [1, 2, 3]


def test_repeating_a_command_does_not_interrupt_it(bench: Bench) -> None:
    bench.show()
    for _ in range(8):
        bench.source.say(command("c", "red thing tokens=20", Task.MODAL))
        time.sleep(0.05)
    wait_for(lambda: bench.answers)
    assert bench.answers[0].grounding is not None
    assert bench.answers[0].grounding.outcome is not Outcome.CANCELLED


def test_a_frame_is_forgotten_when_everything_is_dropped(bench: Bench) -> None:
    bench.show()
    assert bench.ask("red thing").grounding is not None
    bench.dispatcher.drop_all()
    wait_for(lambda: bench.engine.cache._opened is None)


def test_a_pause_returns_once_what_ran_is_answered(bench: Bench) -> None:
    bench.source.say(command("c", "red thing tokens=500", Task.MODAL))
    bench.show()
    wait_for(lambda: bench.engine.cache._opened is not None)
    bench.mailbox.clear()
    bench.dispatcher.pause(5.0)
    assert [answer.grounding and answer.grounding.outcome for answer in bench.answers] == [Outcome.CANCELLED]
    bench.show()
    bench.source.say(command("d", "red thing tokens=1", Task.MODAL))
    wait_for(lambda: len(bench.answers) > 1)


def test_on_demand_means_one_answer_per_command(bench: Bench) -> None:
    bench.settings = replace(bench.settings, reground="on_demand")
    bench.source.say(command("c", "red thing tokens=1", Task.MODAL))
    for _ in range(4):
        bench.show()
        time.sleep(0.05)
    wait_for(lambda: bench.answers)
    assert len(bench.answers) == 1


def test_the_period_holds_a_standing_command_back(bench: Bench) -> None:
    bench.settings = replace(bench.settings, reground_period_s=0.2)
    start = time.monotonic()
    bench.source.say(command("c", "red thing tokens=1", Task.MODAL))
    wait_for(lambda: bench.show() or len(bench.answers) >= 4)
    assert time.monotonic() - start > 0.6


def test_cancel_and_deadline_stop_between_two_tokens(bench: Bench) -> None:
    bench.show()
    cancelled = bench.submit("red thing tokens=500")
    time.sleep(0.1)
    answer = bench.dispatcher.wait(cancelled, is_cancelled=lambda: True)
    assert answer.grounding is not None
    assert answer.grounding.outcome is Outcome.CANCELLED
    bench.show()
    late = bench.ask("red thing tokens=500", left_s=0.2).grounding
    assert late is not None
    assert (late.outcome, late.deadline_met) == (Outcome.TIMED_OUT, False)
    bench.show()
    early = bench.ask("red thing", left_s=60.0).grounding
    assert early is not None
    assert early.deadline_met is True


def test_more_requests_than_allowed_are_refused(bench: Bench) -> None:
    bench.settings = replace(bench.settings, max_pending_requests=2)
    bench.show()
    tickets = [bench.submit("red thing tokens=5000") for _ in range(2)]
    with pytest.raises(BusyError, match="found 2 already waiting"):
        bench.submit("red thing")
    for ticket in tickets:
        bench.dispatcher.wait(ticket, is_cancelled=lambda: True)


def test_an_engine_failure_is_an_answer_and_the_dispatcher_lives(bench: Bench) -> None:
    bench.show()
    failed = bench.ask("explode")
    assert failed.grounding is None
    assert "RuntimeError: the fake engine was told to" in failed.error
    assert "Traceback" in failed.trace
    assert bench.ask("red thing").grounding is not None


def test_stopping_answers_everybody(bench: Bench) -> None:
    bench.show()
    tickets = [bench.submit("red thing tokens=500") for _ in range(3)]
    assert bench.dispatcher.stop(60.0)
    outcomes = [ticket.answer.grounding.outcome for ticket in tickets if ticket.answer and ticket.answer.grounding]
    assert outcomes == [Outcome.CANCELLED] * 3


def test_a_place_whose_goal_never_comes_is_free_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """rclpy forgets a goal that it could not answer, because its client has vanished, after it was accepted."""
    bench.settings = Settings(max_pending_requests=1)
    bench.dispatcher.reserve()
    with pytest.raises(BusyError):
        bench.dispatcher.reserve()
    monkeypatch.setattr("egm_ros.dispatcher.RESERVED_S", 0.0)
    wait_for(lambda: time.monotonic() > bench.dispatcher._reserved[0])
    bench.dispatcher.reserve()
