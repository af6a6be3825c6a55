"""The trace client against a real HTTP server that answers, stalls, errors and cuts connections; and SIGKILL."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.data.rows import Row, write_rows
from egm_edge.errors import BackendError, InputError
from egm_edge.grounding import Task
from egm_edge.openai import Retry
from tests.training_data.chat_server import GOOD, ChatServer, chat_server
from tests.training_data.data_files import picture, row
from tests.training_data.trace_corpus import CASES
from training.data.traces.ledger import Entry, Ledger
from training.data.traces.prompts import instruction, request_id
from training.data.traces.run import TraceRun, run_traces
from training.data.traces.trace_filter import reject_reason

FAST = Retry(tries=4, first_wait_s=0.02, longest_wait_s=0.1, timeout_s=30.0)


def _rows(root: Path, count: int) -> list[Row]:
    picture(root, "a.png")
    return [row(id=f"r{i}", image="a.png", expression=f"red mug {'abcdefghij'[i % 10]}{i}") for i in range(count)]


def _run(server: ChatServer, root: Path, **changes: Any) -> TraceRun:
    values = {"endpoint": server.url, "model": "m", "images": root, "ledger": root / "ledger.jsonl", "retry": FAST}
    return TraceRun(**(values | {"progress": False, "price_per_million": (2.0, 8.0)} | changes))


def test_traces_of_all_rows_with_tokens_and_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    rows = _rows(tmp_path, 12)
    with chat_server(delay_s=0.05) as server:
        reasoned, report = run_traces(rows, _run(server, tmp_path, concurrency=4))
    assert [r.id for r in reasoned] == [r.id for r in rows] and {r.reasoning for r in reasoned} == {GOOD}
    assert (report.accepted, report.asked, report.prompt_tokens, report.completion_tokens) == (12, 12, 1200, 240)
    assert report.cost == pytest.approx((1200 * 2 + 240 * 8) / 1e6)
    assert 2 <= server.most_in_flight <= 4
    body = server.requests[0]
    assert body["path"] == "/v1/chat/completions" and body["auth"] == "Bearer k" and body["temperature"] == 0.7


def test_the_box_is_drawn_on_the_picture_and_given_as_numbers(tmp_path: Path) -> None:
    rows = [row(image="big.png", image_wh=(320, 240), box=Box(80, 60, 240, 180))]
    picture(tmp_path, "big.png", 320, 240)
    with chat_server() as server:
        run_traces(rows, _run(server, tmp_path))
    url, text = (part for part in server.requests[0]["messages"][1]["content"])
    data = base64.b64decode(url["image_url"]["url"].partition(",")[2])
    sent = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert sent.shape == (240, 320, 3)
    assert sent[60, 100:220, 1].mean() > 200 > sent[60, 100:220, 2].mean()
    assert "250 250 750 750" in text["text"] and "the red mug" in text["text"]


def test_amodal_rows_are_asked_about_what_is_hidden() -> None:
    assert "hidden" in instruction(row(task=Task.AMODAL)) and "hidden" not in instruction(row())


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(("error500", "error500", "answer"), id="server errors"),
        pytest.param(("error429", "answer"), id="overload with Retry-After"),
        pytest.param(("stall", "answer"), id="stall beyond the timeout"),
        pytest.param(("cut", "cut_in_answer", "answer"), id="cut connections"),
        pytest.param(("garbage", "empty", "answer"), id="answers that are no completion"),
    ],
)
def test_what_passes_is_tried_again_under_the_same_id(tmp_path: Path, script: tuple[str, ...]) -> None:
    retry = replace(FAST, timeout_s=2.0) if "stall" in script else FAST
    with chat_server(script) as server:
        reasoned, report = run_traces(_rows(tmp_path, 1), _run(server, tmp_path, retry=retry))
    assert len(reasoned) == 1 and report.asked == 1
    assert len(server.requests) == len(script) and len(server.seen) == 1


def test_a_request_that_keeps_failing_costs_one_row_and_is_tried_again_next_time(tmp_path: Path) -> None:
    rows = _rows(tmp_path, 3)
    with chat_server(("error500",) * 4) as server:
        reasoned, report = run_traces(rows, _run(server, tmp_path, concurrency=1))
        assert len(reasoned) == 2 and sum(report.failed.values()) == 1 and "HTTP 500" in str(report)
        again, second = run_traces(rows, _run(server, tmp_path))
    assert len(again) == 3 and (second.asked, second.reused) == (1, 2)


def test_one_refused_request_does_not_stop_the_others(tmp_path: Path) -> None:
    with chat_server(("error400",)) as server:
        reasoned, report = run_traces(_rows(tmp_path, 3), _run(server, tmp_path, concurrency=1))
    assert len(reasoned) == 2 and "picture too large" in str(report) and len(server.requests) == 3


def test_a_refused_key_ends_the_run_with_what_was_paid_kept(tmp_path: Path) -> None:
    rows = _rows(tmp_path, 5)
    with chat_server(("answer", "answer", "error401")) as server:
        with pytest.raises(BackendError, match="HTTP 401"):
            run_traces(rows, _run(server, tmp_path, concurrency=1))
        _, report = run_traces(rows, _run(server, tmp_path))
    assert (report.reused, report.asked) == (2, 3)


def test_rejected_answers_are_asked_again_and_counted(tmp_path: Path) -> None:
    replies = iter(["The green box shows it is the mug.", "Analysis failed: timeout", GOOD, "[1, 2, 3, 4]"])
    with chat_server(reply=lambda body: next(replies, "Analysis failed: again")) as server:
        reasoned, report = run_traces(_rows(tmp_path, 2), _run(server, tmp_path, concurrency=1))
    assert [r.id for r in reasoned] == ["r0"] and reasoned[0].reasoning == GOOD
    assert report.rejected["names the drawn mark"] == 1 and report.rejected["an error or a refusal"] == 3
    assert report.prompt_tokens == 600


def test_only_one_run_may_hold_a_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.jsonl"), pytest.raises(InputError, match="only writer"):
        Ledger(tmp_path / "l.jsonl")


def test_half_a_line_left_by_a_kill_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:
        ledger.add(Entry("a", "r1", "ä" * 100_000))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"request_id": "b", "te')
    with Ledger(path) as ledger:
        assert list(ledger.entries) == ["a"]
        ledger.add(Entry("c", "r2", GOOD))
    assert len(path.read_bytes().splitlines()) == 2


def test_sigkill_in_the_middle_loses_nothing_and_pays_nothing_twice(tmp_path: Path) -> None:
    rows = _rows(tmp_path, 40)
    write_rows(tmp_path / "rows.jsonl", rows)
    ledger, out = tmp_path / "ledger.jsonl", tmp_path / "out.jsonl"
    with chat_server(delay_s=0.05) as server:
        command = [sys.executable, "-m", "egm_edge.cli", "data", "traces", str(tmp_path / "rows.jsonl"), "--images"]
        command += [str(tmp_path), "--endpoint", server.url, "--model", "m", "--ledger", str(ledger), "-o", str(out)]
        command += ["--concurrency", "4"]
        for kill_at in (8, 20):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not (ledger.exists() and ledger.read_bytes().count(b"\n") >= kill_at):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not out.exists()
            on_disk = ledger.read_bytes().count(b"\n")
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(entries) == len({e["request_id"] for e in entries}) == 40
    assert len(out.read_text().splitlines()) == 40 and "40 of 40 rows have a trace" in finished.stdout
    reused = int(finished.stdout.split(" from the ledger")[0].rpartition(" ")[2])
    assert reused >= on_disk >= 20
    # An answer on disk is never asked for again; one in flight at the kill is repeated under its own id.
    assert set(server.seen) == {request_id(r, "m", 0) for r in rows}
    assert sum(server.seen.values()) <= 40 + 2 * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("Analysis failed: Error code 429", "an error or a refusal"),
        ("I'm sorry, I can't help with identifying objects.", "an error or a refusal"),
        ("", "an error or a refusal"),
        ("The mug.", "2 words"),
        ("It is the mug highlighted in green beside the jug.", "names the drawn mark"),
        ("The ground truth is the red mug beside the jug.", "names the drawn mark"),
        ("The red mug lies at (125, 250) beside the jug.", "leaks the box"),
        ("The red mug spans 125 to 625 from side to side here.", "leaks the box"),
        ("There is no such red mug to be seen on this table.", "contradicts the answer"),
        ("The red mug stands on the right side of the image.", "contradicts the answer"),
        ("The red mug stands on the far left of the image, not on the right of the image.", ""),
        ('The mug is here. ```json [{"bbox_2d"', "holds answer syntax"),
        ("The mug </think> is the red one beside the jug.", "holds answer syntax"),
    ],
)
def test_judge(text: str, reason: str) -> None:
    assert reject_reason(text, row(box=Box(8, 12, 20, 36))) == reason or reason == "leaks the box"
    if reason == "leaks the box":
        assert reject_reason(text, row()) == reason


def test_judge_catches_the_wrong_side_of_the_expression() -> None:
    asked = row(expression="mug on the left", box=Box(8, 12, 20, 36))
    assert reject_reason("Of the two mugs the right one is nearer to the jug.", asked) == "contradicts the answer"
    assert reject_reason("Of the two mugs the left one is nearer to the jug.", asked) == ""


def test_a_not_there_row_needs_a_trace_that_says_so() -> None:
    absent = row(box=None)
    assert reject_reason("I see a blue mug and a bowl, but there is no red mug here.", absent) == ""
    assert reject_reason("I see the red mug standing beside the jug.", absent) == "contradicts the answer"


def test_the_published_set_is_told_apart() -> None:
    """The filter's confusion table over good and bad traces: no bad one may pass, and no good one may be lost."""
    table: Counter[str] = Counter()
    wrong = []
    for case in CASES:
        one = Row("r", "a.jpg", (640, 480), case.expression, Box(*case.box))
        reason = reject_reason(case.text, one)
        table[f"{'good' if case.good else 'bad'}: {'rejected' if reason else 'passed'}"] += 1
        wrong += [] if bool(reason) != case.good else [(case, reason)]
    assert wrong == []
    assert table == {"good: passed": 33, "bad: rejected": 39}
