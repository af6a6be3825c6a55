"""Evaluating a real HTTP server: prompts, parsing, retries, refusals, stalls, cut answers, SIGKILL and concurrency."""

from __future__ import annotations

import base64
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from egm_edge.cli.evaluate import main
from egm_edge.data.pictures import encoded
from egm_edge.data.rows import Row
from egm_edge.errors import BackendError, InputError
from egm_edge.evaluate.budget import Budgets
from egm_edge.evaluate.records import Record, RecordLog, read_records
from egm_edge.evaluate.server import evaluate_server
from egm_edge.grounding import TokenCounts
from egm_edge.openai import NoAnswerError, OpenAIClient, RequestRefusedError, Retry
from tests.cli.conftest import popen_with_default_signals
from tests.evaluate.conftest import egm_row, write_lines
from tests.evaluate.servers import BOX, Reply, Served, serving

QUICK = Retry(tries=3, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=5.0)
BODY = {"model": "egm-test", "messages": [{"role": "user", "content": [{}, {"type": "text", "text": "x"}]}]}


def run(url: str, data: Path, frames_dir: Path, out: Path, *options: str) -> dict[str, Record]:
    """`egm evaluate URL`, quickly; id -> record."""
    given = [
        url,
        "--data",
        data,
        "--images",
        frames_dir,
        "--out",
        out,
        "--tries",
        3,
        "--timeout-s",
        20,
        *options,
        "--json",
    ]
    assert main([str(a) for a in given]) == 0
    return {record.id: record for record in read_records(out)}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the seconds."""
    monkeypatch.setattr("egm_edge.openai.Retry.__init__.__defaults__", (6, 0.01, 0.02, 120.0, True))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Four rows: one amodal, one negative."""
    amodal = egm_row("a.png", "hidden", [0, 0, 48, 32]) | {"modal_bbox": [0, 0, 20, 32]}
    ghost = {"image": "a.png", "expression": "ghost", "box": None}
    rows = [egm_row("a.png", "exact", [0, 0, 48, 32]), egm_row("a.png", "half", [0, 0, 48, 16]), amodal, ghost]
    return write_lines(tmp_path / "rows.jsonl", rows)


def test_a_server_is_asked_in_the_familys_words_and_read_by_the_one_parser(
    rows: Path, frames_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")

    def reply_to(body: dict[str, Any], before: int) -> Reply:
        text = body["messages"][0]["content"][1]["text"]
        return Reply("It is not there.</think>[]" if "ghost" in text else f"[1, 2, 3, 4] is wrong.</think>{BOX}")

    with serving(reply_to) as served:
        found = run(served.url, rows, frames_dir, tmp_path / "out", "--concurrency", "2")
    assert sorted(served.expressions())[:2] == [
        "Locate exact, output its bbox coordinates using JSON format",
        "Locate ghost, output its bbox coordinates using JSON format",
    ]
    assert "Locate hidden amodally, output its bbox coordinates using JSON format" in served.expressions()
    body = served.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("egm-test", 4096, 0)
    assert served.headers[0]["Authorization"] == "Bearer a-key"
    head, _, data = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == (frames_dir / "a.png").read_bytes()
    assert [round(found[f"rows:{n}"].iou or 0.0, 3) for n in (1, 2, 3)] == [1.0, 0.5, 1.0]
    assert (found["rows:4"].outcome, found["rows:4"].box, found["rows:4"].iou) == ("NOT_FOUND", None, None)
    assert found["rows:1"].tokens == TokenCounts(prompt=40, completion=12)
    assert found["rows:1"].concurrency == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["server"] == served.url
    assert report["summary"]["overall"]["acc50"] == pytest.approx(2 / 3)
    assert "loaded server" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        pytest.param(
            Reply('The box [{"bbox_2d": [0, 0, 500, 500]}] may', finish="length"), "UNPARSABLE", id="cut in a thought"
        ),
        pytest.param(Reply('[{"bbox_2d": [0, 0, 500, 500], "la', finish="length"), "FOUND", id="cut after the box"),
        pytest.param(
            Reply("", message={"content": BOX, "reasoning_content": "[9, 9, 99, 99]"}), "FOUND", id="thought apart"
        ),
        pytest.param(
            Reply("", message={"content": None, "reasoning": "so it"}, finish="length"), "UNPARSABLE", id="only thought"
        ),
        pytest.param(Reply("<think>[9, 9, 99, 99]</think>" + BOX), "FOUND", id="thought inside"),
        pytest.param(Reply("I do not know"), "UNPARSABLE", id="no box"),
    ],
)
def test_thoughts_never_give_a_box(reply: Reply, outcome: str, frames_dir: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "one.jsonl", [egm_row("a.png", "exact", [0, 0, 48, 32])])
    with serving(lambda body, before: reply) as served:
        (record,) = run(served.url, data, frames_dir, tmp_path / "out").values()
    assert record.outcome == outcome
    assert record.iou == (1.0 if outcome == "FOUND" else 0.0)
    assert record.cut == ("max_new_tokens" if reply.finish == "length" else "")


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Reply(status=429, retry_after="0"), id="too many requests"),
        pytest.param(Reply(status=503), id="overloaded"),
        pytest.param(
            Reply(status=500, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), id="error with a date to come back"
        ),
        pytest.param(Reply(cut=9), id="cut connection"),
        pytest.param(Reply(raw=b"<html>"), id="no JSON"),
        pytest.param(Reply(raw=b'{"choices": []}'), id="no choice"),
        pytest.param(Reply(raw=b"[]"), id="a list"),
        pytest.param(Reply(message={"content": None}), id="no content"),
    ],
)
def test_what_passes_is_tried_again(trouble: Reply, data: Path, frames_dir: Path, tmp_path: Path) -> None:
    with serving(lambda body, before: trouble if before == 0 else Reply()) as served:
        found = run(served.url, data, frames_dir, tmp_path / "out", "--concurrency", "3")
    assert len(found) == 9
    assert len(served.bodies) == 18
    assert {record.outcome for record in found.values()} == {"FOUND"}


def test_a_silent_server_is_left_after_the_timeout() -> None:
    with serving(lambda body, before: Reply(pause_s=30.0)) as served:
        client = OpenAIClient(served.url, retry=Retry(tries=2, first_wait_s=0.0, timeout_s=0.3))
        started = time.monotonic()
        with pytest.raises(NoAnswerError, match=r"no answer within 0.3 s \(2 tries\)"):
            client.complete(BODY)
        assert time.monotonic() - started < 20.0


def test_rows_without_an_answer_are_no_wrong_answers_and_the_next_run_asks_only_them(
    data: Path, frames_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving(lambda body, before: Reply(status=503) if "thing 4" in str(body) else Reply()) as served:
        with pytest.raises(
            BackendError, match=r"answers to all 9 requests.*1 without one.*HTTP 503.*run the same command again"
        ):
            run(served.url, data, frames_dir, out)
        assert len(list(read_records(out))) == 8
        assert not (out / "report.json").exists()
        url = served.url
        served.bodies.clear()
    assert url
    with serving(lambda body, before: Reply()) as again:
        with pytest.raises(InputError, match="server"):  # another server is another run
            run(again.url, data, frames_dir, out)
        renamed = json.loads((out / "run.json").read_text()) | {"server": again.url}
        (out / "run.json").write_text(json.dumps(renamed))
        assert len(run(again.url, data, frames_dir, out)) == 9
        assert again.expressions() == ["Locate thing 4, output its bbox coordinates using JSON format"]


def test_a_request_that_is_refused_by_itself_counts_as_no_box(data: Path, frames_dir: Path, tmp_path: Path) -> None:
    with serving(lambda body, before: Reply(status=400) if "thing 4" in str(body) else Reply()) as served:
        found = run(served.url, data, frames_dir, tmp_path / "out", "--concurrency", "1")
    refused = [record for record in found.values() if record.outcome == "REFUSED"]
    assert [record.expression for record in refused] == ["thing 4"]
    assert (refused[0].iou, refused[0].box) == (0.0, None)
    summary = json.loads((tmp_path / "out" / "report.json").read_text())["summary"]
    assert summary["rules"]["REFUSED"] == 1
    answered_ms = [record.total_ms for record in found.values() if record.outcome != "REFUSED"]
    p50, p95 = np.percentile(answered_ms, (50, 95))
    assert (summary["milliseconds"]["p50"], summary["curve"][0]["p95_ms"]) == (p50, p95) and p50 > 0


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param(Reply(status=401), "HTTP 401", id="a bad key"),
        pytest.param(Reply(status=404), "HTTP 404", id="an unknown model"),
        pytest.param(Reply(status=400), "only refusals: HTTP 400", id="nothing but refusals"),
        pytest.param(Reply(status=503), "HTTP 503", id="nothing but overload"),
    ],
)
def test_a_server_that_never_answers_stops_the_run_and_leaves_no_record(
    reply: Reply, words: str, data: Path, frames_dir: Path, tmp_path: Path
) -> None:
    with serving(lambda body, before: reply) as served, pytest.raises(BackendError, match=words):
        run(served.url, data, frames_dir, tmp_path / "out", "--concurrency", "2")
    assert list(read_records(tmp_path / "out")) == []


def test_a_run_that_gives_up_does_not_wait_for_a_row_that_a_worker_took_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Raced(queue.SimpleQueue):  # what it says it holds is gone when it is asked for it
        def empty(self) -> bool:
            return False

    def unanswered(row: Row, picture: Path, budget: int) -> Record:
        raise NoAnswerError("an answer", "none", "try again")

    monkeypatch.setattr(queue, "SimpleQueue", Raced)
    rows = [Row(str(n), "a.png", None, "the mug", None) for n in range(20)]
    raised: list[BaseException] = []

    def evaluated() -> None:
        try:
            with RecordLog(tmp_path / "out", {}) as log:
                evaluate_server(unanswered, rows, {"a.png": tmp_path}, Budgets.of("max_new_tokens", [8]), log, 2)
        except BackendError as error:
            raised.append(error)

    thread = threading.Thread(target=evaluated, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and len(raised) == 1


def test_nobody_there(data: Path, frames_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="ConnectionRefusedError"):
        run("http://127.0.0.1:9/v1", data, frames_dir, tmp_path / "out")
    for address in ("http://", "http://:8000", "http://h:notaport/v1"):
        with pytest.raises(InputError, match="an address such as"):
            run(address, data, frames_dir, tmp_path / "out")


def test_requests_run_at_once_and_no_more_than_asked_for(data: Path, frames_dir: Path, tmp_path: Path) -> None:
    with serving(lambda body, before: Reply(pause_s=0.2)) as served:
        run(served.url, data, frames_dir, tmp_path / "out", "--concurrency", "4")
    assert 2 <= served.most_at_once <= 4


def start(served: Served, data: Path, frames_dir: Path, out: Path) -> subprocess.Popen[str]:
    given = [served.url, "--data", data, "--images", frames_dir, "--out", out, "--concurrency", "3", "--json"]
    return popen_with_default_signals([sys.executable, "-m", "egm_edge.cli", "evaluate", *map(str, given)])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_and_resumed_gives_the_report_of_an_unbroken_run(
    how: signal.Signals, data: Path, frames_dir: Path, tmp_path: Path
) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    stalled = {"on": True}

    def reply_to(body: dict[str, Any], before: int) -> Reply:
        late = stalled["on"] and body["messages"][0]["content"][1]["text"][7:14] >= "thing 5"
        return Reply(pause_s=60.0 if late else 0.0)

    with serving(reply_to) as served:
        process = start(served, data, frames_dir, broken)
        waited = time.monotonic() + 120
        while len(list(read_records(broken)) if (broken / "records.jsonl").exists() else []) < 4:
            assert time.monotonic() < waited and process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-how if how is signal.SIGKILL else 130), errors
        answered = {record.expression for record in read_records(broken)}
        stalled["on"] = False
        served.bodies.clear()
        run(served.url, data, frames_dir, broken)
        assert not {text[7:14] for text in served.expressions()} & answered  # nothing evaluated twice
        run(served.url, data, frames_dir, unbroken)
    summaries = [json.loads((out / "report.json").read_text())["summary"] for out in (broken, unbroken)]
    for summary in summaries:
        del summary["milliseconds"], summary["curve"], summary["concurrency"]
    assert summaries[0] == summaries[1]


def test_streams_are_read_piece_by_piece_and_a_cut_one_is_no_answer() -> None:
    pieces: list[str] = []
    with serving(lambda body, before: Reply(cut=2 if before == 0 else 0)) as served:
        client = OpenAIClient(served.url + "/chat/completions", retry=QUICK)
        found = client.complete(BODY, on_token=lambda token: pieces.append(token.text))
    assert (found.text, found.completion_tokens, found.finish_reason) == (BOX, 12, "stop")
    assert "".join(pieces[-2:]) == BOX and len(pieces) == 4
    assert len(served.bodies) == 2
    assert served.bodies[0]["stream"] is True


def test_the_client_tells_refusals_from_failures() -> None:
    with (
        serving(lambda body, before: Reply(status=413)) as served,
        pytest.raises(RequestRefusedError, match="HTTP 413"),
    ):
        OpenAIClient(served.url, retry=QUICK).complete(BODY)
    huge = Reply(raw=b" " * ((16 << 20) + 1))
    with serving(lambda body, before: huge) as served, pytest.raises(NoAnswerError, match="more than 16 MiB"):
        OpenAIClient(served.url, retry=Retry(tries=1)).complete(BODY)


def test_pictures_are_sent_upright_and_without_loss(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    data, kind, image_wh = encoded(tmp_path / "plain.png", mirrored=True)
    assert (kind, image_wh) == ("image/png", (8, 6))
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == pixels[:, ::-1]).all()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    assert encoded(tmp_path / "turned.png")[1:] == ("image/png", (6, 8))
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    assert encoded(tmp_path / "a.bmp")[1] == "image/png"
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    assert encoded(tmp_path / "a.jpg")[:2] == ((tmp_path / "a.jpg").read_bytes(), "image/jpeg")


@pytest.mark.parametrize(
    ("unit", "box"), [("norm1", "[0, 0, 0.5, 0.5]"), ("pixels", "[0, 0, 48, 32]"), ("norm1000", "[0, 0, 500, 500]")]
)
def test_models_of_other_units_are_read_in_theirs_with_or_without_the_version_in_the_address(
    unit: str, box: str, rows: Path, frames_dir: Path, tmp_path: Path
) -> None:
    with serving(lambda body, before: Reply(f"It is there.</think>{box}")) as served:
        found = run(served.url.removesuffix("/v1"), rows, frames_dir, tmp_path / "out", "--coordinates", unit)
    assert found["rows:1"].box == (0.0, 0.0, 48.0, 32.0)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    by_rule = {scores["rule"]: scores["acc50"] for scores in report["summary"]["by_rule"]}
    assert by_rule["robot"] == by_rule["egm"] == pytest.approx(2 / 3)
    assert by_rule["lmms"] == 1.0  # the box of exactly 0.5 counts there


def test_several_boxes_are_kept_with_the_record(rows: Path, frames_dir: Path, tmp_path: Path) -> None:
    def reply_to(body: dict[str, Any], before: int) -> Reply:
        asked = body["messages"][0]["content"][1]["text"].split()[1].rstrip(",")
        other = '{"bbox_2d": [500, 500, 900, 900], "label": "other"}'
        return Reply(f'[{{"bbox_2d": [0, 0, 500, 500], "label": "{asked}"}}, {other}]')

    with serving(reply_to) as served:
        found = run(served.url, rows, frames_dir, tmp_path / "out")
    assert found["rows:1"].box == (0.0, 0.0, 48.0, 32.0)
    assert len(found["rows:1"].candidates) == 2
    text = (tmp_path / "out" / "report.md").read_text()
    assert "3 replies name several boxes, 0 of them without saying which: Acc@0.5 66.7" in text


@pytest.mark.parametrize(
    ("box", "words"),
    [
        pytest.param([0.1, 0.2, 0.5, 0.9], "0-1 units", id="0-1 units"),
        pytest.param([100, 100, 900, 700], "a box inside the picture of 96x64 pixels", id="0-1000 units"),
        pytest.param([10, 10, 10.5, 30], "at least a pixel", id="under a pixel"),
    ],
)
def test_targets_in_another_unit_are_refused_with_their_row(
    box: list[float], words: str, frames_dir: Path, tmp_path: Path
) -> None:
    row = {"image": "a.png", "expression": "x", "box": box}
    data = write_lines(tmp_path / "d.jsonl", [row | {"box": [0, 0, 9, 9]}, row])
    with pytest.raises(InputError) as refused:
        run("http://127.0.0.1:9", data, frames_dir, tmp_path / "out")
    assert words in str(refused.value)
    assert "d.jsonl:2" in str(refused.value)
    assert not (tmp_path / "out").exists()
