"""The model's process and its supervisor, without ROS: it may die, hang or fail to load, and the node's side lives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from egm_ros.engine import EngineFailedError, EngineLostError
from egm_ros.engine_process import EngineChange, EngineProcess
from egm_ros.mailbox import CameraFrame
from egm_ros.requests import Progress, Request
from egm_ros.settings import Settings
from egm_ros.shared_frame import SharedFrame
from egm_ros.wire import Failed, GroundRequest, Heartbeat, Ready, ReleaseFrame, Result, Stop, decode, encode
from test_conversion import memory_of, message, rgb_message

from egm_edge.errors import BackendError, EgmError
from egm_edge.grounding import Grounding, Outcome, Task

FACTORY = "fake_node:FakeGrounder"


class Bench:
    """An engine process with the fake grounder, and what it reported."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.said: list[EngineChange] = []
        self.engine = EngineProcess(lambda: self.settings, FACTORY, self.said.append)
        self.number = 0

    def frame(self) -> CameraFrame:
        self.number += 1
        image = message(memory_of("rgb8"), "rgb8")
        image.header = _Header()  # type: ignore[attr-defined]
        return CameraFrame(image, self.number, time.monotonic())

    def ground(
        self,
        expression: str,
        frame: CameraFrame | None = None,
        left_s: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Grounding:
        return self.engine.ground(
            frame or self.frame(),
            Request("r", expression, Task.MODAL, None if left_s is None else time.monotonic() + left_s),
            should_stop=should_stop,
            on_progress=on_progress,
        )

    def wait_ready(self) -> None:
        end = time.monotonic() + 60.0
        while not self.engine.ready:
            assert time.monotonic() < end, self.said
            time.sleep(0.01)


class _Header:
    def __init__(self) -> None:
        self.stamp = self
        self.sec, self.nanosec = 7, 5


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    made = Bench()
    made.engine.start()
    yield made
    made.engine.stop()


@pytest.fixture
def bench(shared: Bench) -> Bench:
    shared.settings = Settings()
    shared.wait_ready()
    return shared


def test_it_answers_and_a_second_sentence_reuses_the_frame(bench: Bench) -> None:
    frame = bench.frame()
    first, second = bench.ground("red thing", frame), bench.ground("blue thing", frame)
    assert first.outcome is Outcome.FOUND
    assert first.stamp_ns == frame.stamp_ns == 7_000_000_005
    assert not first.timings.frame_reused
    assert second.timings.frame_reused
    bench.engine.release_frame()
    assert not bench.ground("red thing", frame).timings.frame_reused


def test_a_listener_that_fails_does_not_leave_its_answer_to_the_next_request(bench: Bench) -> None:
    def fail(_progress: Progress) -> None:
        raise RuntimeError("the listener was told to")

    with pytest.raises(RuntimeError, match="the listener"):
        bench.ground("nothing tokens=1000", on_progress=fail)
    assert bench.ground("red thing").outcome is Outcome.FOUND
    assert bench.engine.health().hangs == 0


def test_progress_carries_the_whole_text_so_far(bench: Bench) -> None:
    heard: list[Progress] = []
    bench.ground("red thing tokens=30", on_progress=heard.append)
    assert heard[0] == Progress("look", 0, "")
    tokens = [progress.tokens for progress in heard]
    assert tokens == sorted(tokens)
    assert heard[-1].text.startswith("t1 t2 t3 ")
    assert heard[-1].text.split()[-1] == f"t{heard[-1].tokens}"


def test_cancel_and_deadline_end_a_request_in_mid_decode(bench: Bench) -> None:
    started_s = time.monotonic()
    cancelled = bench.ground("red thing tokens=2000", should_stop=lambda: time.monotonic() - started_s > 0.2)
    assert cancelled.outcome is Outcome.CANCELLED
    late = bench.ground("red thing tokens=2000", left_s=0.2)
    assert (late.outcome, late.deadline_met) == (Outcome.TIMED_OUT, False)


def test_the_models_own_failure_is_an_error_with_its_traceback_and_the_process_lives(bench: Bench) -> None:
    pid = bench.engine.health().pid
    with pytest.raises(EngineFailedError, match="the fake engine was told to") as failure:
        bench.ground("explode")
    assert "Traceback" in failure.value.trace
    assert bench.ground("red thing").outcome is Outcome.FOUND
    assert bench.engine.health().pid == pid


def test_killed_in_mid_request_the_request_ends_and_the_process_comes_back(bench: Bench) -> None:
    before = bench.engine.health()
    threading.Timer(0.3, os.kill, (before.pid, signal.SIGKILL)).start()
    with pytest.raises(EngineLostError) as lost:
        bench.ground("red thing tokens=2000")
    assert "no sign of life" not in str(lost.value), "it ends at once, not at a timeout"
    with pytest.raises(EngineLostError):
        bench.ground("red thing")
    bench.wait_ready()
    after = bench.engine.health()
    assert after.restarts == before.restarts + 1
    assert after.pid not in (0, before.pid)
    assert bench.ground("red thing").outcome is Outcome.FOUND


def test_killed_while_idle_it_comes_back_by_itself(bench: Bench) -> None:
    before = bench.engine.health()
    os.kill(before.pid, signal.SIGKILL)
    end = time.monotonic() + 60.0
    while bench.engine.health().restarts == before.restarts and time.monotonic() < end:
        time.sleep(0.01)
    bench.wait_ready()
    assert any(said.lost and "signal 9" in said.text for said in bench.said)
    assert bench.ground("red thing").outcome is Outcome.FOUND


def test_a_model_that_hangs_is_killed_and_started_again(bench: Bench) -> None:
    bench.settings = replace(bench.settings, hang_timeout_s=2.0)
    hangs = bench.engine.health().hangs
    with pytest.raises(EngineLostError, match="no sign of life"):
        bench.ground("hang")
    assert bench.engine.health().hangs == hangs + 1
    bench.settings = Settings()
    bench.wait_ready()
    assert bench.ground("red thing").outcome is Outcome.FOUND


def test_a_slow_model_that_gives_signs_of_life_is_not_killed(bench: Bench) -> None:
    bench.settings = replace(bench.settings, hang_timeout_s=4.0)
    assert bench.ground("red thing tokens=450").outcome is Outcome.FOUND, "longer than that, with a token every 10 ms"


def test_a_larger_frame_makes_the_shared_memory_grow(bench: Bench) -> None:
    pixels = np.full((1200, 1600, 3), 60, np.uint8)
    pixels[300:500, 400:700] = (220, 20, 20)
    large = rgb_message(pixels)
    large.header = _Header()  # type: ignore[attr-defined]
    bench.number += 1
    found = bench.ground("red thing", CameraFrame(large, bench.number, time.monotonic()))
    assert found.box is not None
    assert found.box.xyxy == (400, 300, 700, 500)
    assert bench.ground("red thing").image_wh != (1600, 1200)


def test_a_bundle_that_cannot_be_opened_is_said_in_its_own_words() -> None:
    engine = EngineProcess(lambda: Settings(bundle_path="missing"), FACTORY)
    with pytest.raises(EgmError, match="expected a bundle; found nothing at missing"):
        engine.start()
    assert engine.health().state == "stopped"
    engine.stop()


def test_the_models_process_gives_way(bench: Bench) -> None:
    bench.wait_ready()
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    pid = bench.engine.health().pid
    assert {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()} == {
        min(19, ours + Settings().model_nice)
    }


def test_stop_ends_the_process_and_start_works_again() -> None:
    engine = EngineProcess(lambda: Settings(), FACTORY)
    for _ in range(2):
        engine.start()
        pid = engine.health().pid
        engine.stop()
        assert not Path(f"/proc/{pid}").exists()
        assert (engine.ready, engine.health().state) == (False, "stopped")


def test_stop_in_the_middle_of_a_slow_start_ends_both() -> None:
    engine = EngineProcess(lambda: Settings(bundle_path="slow"), FACTORY)
    raised: list[Exception] = []

    def start() -> None:
        try:
            engine.start()
        except EgmError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while not engine.health().pid:
        time.sleep(0.01)
    started_s = time.monotonic()
    engine.stop()
    thread.join()
    assert raised
    assert time.monotonic() - started_s < 30.0, "it would be ready after 60"
    assert engine.health() == replace(engine.health(), state="stopped", pid=0)


@pytest.mark.parametrize(
    "record",
    [
        GroundRequest(1, 2, 3, 4, 5, "rgb", 6, "a \0 é", "modal", None, 0, 0, 0.5),
        Stop(1),
        ReleaseFrame(),
        Ready("b", "c", "d"),
        Heartbeat("think", 3, "text"),
        Result({"outcome": "FOUND"}),
        Failed("a", "b", "c"),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_survive_the_wire(record: object) -> None:
    assert decode(encode(record)) == record  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"{}", b'["GroundRequest", {}]', b'["eval", {}]', b"\xff\xfe", b"[1]"])
def test_anything_else_on_the_wire_is_refused(data: bytes) -> None:
    with pytest.raises(BackendError):
        decode(data)


def test_pixels_cross_between_two_mappings_of_one_memory() -> None:
    ours = SharedFrame()
    theirs = SharedFrame(os.dup(ours.descriptor))
    for size in ((2, 3), (700, 900), (5, 5)):
        array = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        ours.write(array[:, ::-1])
        theirs.follow(ours.byte_count)
        np.testing.assert_array_equal(theirs.read(*size), array[:, ::-1])
    ours.close()
    theirs.close()
