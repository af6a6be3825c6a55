"""The loop and the report on scripted answers: scores known by hand, frames shared, negatives apart, pages self-contained."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from egm_edge.bundle import Bundle
from egm_edge.cli.evaluate import main
from egm_edge.errors import InputError
from egm_edge.evaluate.budget import Budgets
from egm_edge.evaluate.gallery import gallery, worst
from egm_edge.evaluate.metrics import EIGHT_SPLITS
from egm_edge.evaluate.records import Record, RecordLog
from egm_edge.evaluate.report import EvaluationReport, beside_published, curve_svgs, to_markdown
from egm_edge.evaluate.rows import evaluation_rows
from egm_edge.evaluate.rules import RULES
from egm_edge.evaluate.run import evaluate_rows
from egm_edge.evaluate.summary import summarise
from egm_edge.grounder import Grounder
from tests.benchmark.scripted import scripted_grounder
from tests.evaluate.conftest import egm_row, write_lines

BOX = '</think>[{"bbox_2d": [0, 0, 500, 500]}]'  # of a.png, 96x64: [0, 0, 48, 32]
ROWS = [
    egm_row("a.png", "exact", [0, 0, 48, 32]),
    egm_row("a.png", "half", [0, 0, 48, 16]),  # IoU exactly 0.5: wrong
    egm_row("a.png", "three quarters", [0, 0, 48, 25.6]),  # IoU 0.8
    egm_row("a.png", "mumble", [0, 0, 48, 32]),  # unparsable
    egm_row("a.png", "nothing", [0, 0, 48, 32]),  # says there is none
    {"image": "a.png", "expression": "ghost", "box": None},
    {"image": "a.png", "expression": "nothing here", "box": None},
]


def reply_to(words: str) -> str:
    return "</think>I do not know" if "mumble" in words else "</think>[]" if "nothing" in words else BOX


class Free:
    """A grounder that decodes freely, so that an answer may be unreadable."""

    def __init__(self, grounder: Grounder) -> None:
        self.frame = grounder.frame
        self.ground = partial(grounder.ground, force_syntax=False)


@pytest.fixture
def records(tiny_cpu_bundle: Bundle, frames_dir: Path, tmp_path: Path) -> list[Record]:
    rows = evaluation_rows([write_lines(tmp_path / "scripted.jsonl", ROWS)])
    pictures = {"a.png": frames_dir / "a.png"}
    with RecordLog(tmp_path / "out", {"of": "a test"}) as log:
        evaluate_rows(
            Free(scripted_grounder(tiny_cpu_bundle, reply_to)),
            rows,
            pictures,
            Budgets.of("max_new_tokens", [12, 200]),
            log,
        )
        return log.records


def test_scores_equal_those_worked_by_hand(records: list[Record]) -> None:
    summary = summarise(records)
    assert summary.budget == 200
    assert summary.overall
    assert (summary.overall.rows, summary.overall.acc50, summary.overall.acc75) == (5, 0.4, 0.4)
    assert summary.overall.mean_iou == pytest.approx((1.0 + 0.5 + 0.8) / 5)
    assert (summary.overall.no_box, summary.overall.truncated) == (2, 0)
    assert summary.negatives
    assert (summary.negatives.rows, summary.negatives.false_positives) == (2, 1)
    assert summary.rules == {"json": 4, "NOT_FOUND": 2, "UNPARSABLE": 1}
    assert summary.average is None


def test_a_budget_that_cuts_answers_loses_them(records: list[Record]) -> None:
    small, large = summarise(records).curve
    assert (small.budget, large.budget) == (12, 200)
    assert (small.acc50, large.acc50) == (0.0, 0.4)
    assert small.truncated == 5  # all but the two short "[]"
    assert small.mean_tokens <= 12
    names = {"accuracy_by_budget.svg", "accuracy_by_tokens.svg", "accuracy_by_milliseconds.svg"}
    assert set(curve_svgs(summarise(records))) == names


def test_rows_of_one_picture_share_its_frame_and_pay_it_in_total_ms(records: list[Record]) -> None:
    assert [r.timings.frame_reused for r in records] == [False] + [True] * (len(records) - 1)
    assert all(r.total_ms >= r.timings.total_ms for r in records)


def test_a_picture_of_another_size_than_the_data_says_stops_the_run(
    tiny_cpu_bundle: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    rows = evaluation_rows([write_lines(tmp_path / "d.jsonl", [ROWS[0] | {"width": 97}])])
    with RecordLog(tmp_path / "o", {}) as log, pytest.raises(InputError, match="97x64 pixels"):
        evaluate_rows(
            scripted_grounder(tiny_cpu_bundle),
            rows,
            {"a.png": frames_dir / "a.png"},
            Budgets.of("max_new_tokens", [8]),
            log,
        )


def test_reports_say_what_the_metric_is_and_have_no_nan(records: list[Record]) -> None:
    summary = summarise(records)
    text = to_markdown(EvaluationReport({"bundle_hash": "abc"}, summary))
    assert "IoU strictly above 0.5" in text
    assert "false-positive rate 50.0" in text
    json.loads(json.dumps(EvaluationReport({}, summary).to_dict(), allow_nan=False))
    looser = to_markdown(EvaluationReport({}, summarise(records, RULES["vlmevalkit"])))
    assert "IoU of at least 0.5" in looser
    assert "| **vlmevalkit** | 60.0 |" in looser  # the box of exactly 0.5 counts there
    assert "| robot | 40.0 |" in looser


def test_published_tables_stand_beside_matching_splits_only(records: list[Record]) -> None:
    assert beside_published(summarise(records)) == ""
    positives = [r for r in records if r.target and r.budget == 200]
    one = [replace(r, dataset="refcoco", split="testA") for r in positives]
    table = beside_published(summarise(one))
    assert "| **this run** |  | robot | 40.0 | - |" in table
    assert "| **this run** |  | egm | 40.0 | - |" in table
    assert "| EGM-8B | README | egm | 95.0 | 91.4 |" in table
    eight = [replace(r, dataset=d, split=s, id=f"{d}{s}{r.id}") for d, s in EIGHT_SPLITS for r in positives]
    summary = summarise(eight)
    assert summary.average == pytest.approx(0.4)
    assert "93.9 | 95.0 | 91.2 | 90.1 | 93.3 | 85.9 | 90.4 | 91.2 | 91.4" in beside_published(summary)


class _Addresses(HTMLParser):
    """Collects everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action")]


def test_the_gallery_is_one_page_with_pictures_inside(records: list[Record], frames_dir: Path) -> None:
    shown = worst(records)
    assert [r.expression for r in shown] == ["mumble", "nothing", "ghost", "half"]
    hostile = [replace(shown[0], expression="<script>alert(1)</script>", text="</pre><img src=x>"), *shown[1:]]
    text = gallery(hostile, {"a.png": frames_dir / "a.png"})
    parser = _Addresses()
    parser.feed(text)
    assert parser.tags.count("image") == 4
    assert all(address.startswith("data:image/jpeg;base64,") for address in parser.fetched)
    assert not {"script", "img", "link", "iframe"} & set(parser.tags)
    assert "default-src 'none'" in text


def test_the_command_writes_all_files_and_compare_pairs_the_rows(
    tiny_cpu_bundle: Bundle, data: Path, frames_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        arguments = [
            tiny_cpu_bundle.root,
            "--data",
            data,
            "--images",
            frames_dir,
            "--out",
            out,
            "--budgets",
            "2,4",
            "--limit",
            4,
        ]
        assert main([*map(str, arguments), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[0])
    assert report["summary"]["splits"][0]["name"] == "refcoco testA"
    assert report["run"]["bundle_hash"] == tiny_cpu_bundle.hash
    names = {path.name for path in outs[0].iterdir()}
    assert names >= {"records.jsonl", "run.json", "report.json", "report.md", "gallery.html", "accuracy_by_budget.svg"}
    assert main(["compare", *map(str, outs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for path in outs[0].glob("report.*"):
        path.unlink()
    assert main(["score", str(outs[0]), "--rule", "lmms", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["summary"]["rule"] == "lmms"
    assert again["summary"]["by_rule"] == report["summary"]["by_rule"]
    assert [s["rule"] for s in again["summary"]["by_rule"]] == list(RULES)
    assert (found["rows"], found["differs"], found["acc50_gain"], found["mcnemar_p"]) == (4, False, 0.0, 1.0)
