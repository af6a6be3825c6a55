"""The whole command on a tiny bundle: JSON, Markdown and HTML; comparing reports; transformers beside; a real browser."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from egm_edge.benchmark.compare import compare, to_markdown
from egm_edge.benchmark.html_report import to_html
from egm_edge.benchmark.limits import BUFFER_BYTES
from egm_edge.benchmark.report import load_report
from egm_edge.benchmark.sample import STAGES
from egm_edge.bundle import Bundle
from egm_edge.cli.measure import main
from egm_edge.errors import InputError
from tests.support.browser import Browser, find_browser

PLOTS = (
    "Stages of one request",
    "Latency, cumulative",
    "Latency against tokens",
    "Sweep over tokens",
    "Sweep over commands",
)


@pytest.fixture(scope="module")
def out(tiny_cpu_bundle: Bundle, frames_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`egm measure` with everything but a peer."""
    out = tmp_path_factory.mktemp("report")
    options = [
        "--frames",
        frames_dir,
        "--requests",
        6,
        "--warm-up",
        1,
        "--max-new-tokens",
        8,
        "--ignore-end",
        "--threads",
        1,
    ]
    sweep = ["--rate", 50, "--sweep", "tokens=2,6", "commands=1,2", "resolution=64x64,96x96", "prompt=3,9"]
    assert main([str(a) for a in (tiny_cpu_bundle.root, *options, *sweep, "--out", out, "--json")]) == 0
    return out


@pytest.fixture
def report(out: Path) -> dict[str, Any]:
    return load_report(out / "measure.json")


def test_the_report_identifies_everything_and_adds_up(report: dict[str, Any], tiny_cpu_bundle: Bundle) -> None:
    assert (report["schema_version"], report["kind"]) == (1, "egm-measure")
    assert report["bundle"]["hash"] == tiny_cpu_bundle.hash
    assert report["bundle"]["prompt_spec_hash"] == tiny_cpu_bundle.manifest.prompt_spec_hash
    assert {"egm-edge", "python", "onnxruntime", "numpy"} <= set(report["versions"])
    assert report["machine"]["threads"] == 1
    assert (report["plan"]["warm_up"], report["plan"]["batch"]) == (2, 1)
    assert len(report["samples"]) == report["plan"]["requests"] == 6
    for sample in report["samples"]:
        assert sum(sample["stages"][name] for name in STAGES) + sample["other_ms"] == pytest.approx(sample["total_ms"])
        assert sample["tokens"]["completion"] == 8  # exactly the cap
    assert report["memory"]["peak_mb"] >= report["memory"]["after_load_mb"] > 10.0
    grown_mb = report["memory"]["after_requests_mb"] - report["memory"]["after_load_mb"]
    assert grown_mb < BUFFER_BYTES / 1e6 / 2, "what measures the machine is not the engine's"
    assert report["cold"]["first_request_ms"] > 0 and report["cold"]["load_ms"] > 0
    assert [s["stage"] for s in report["roofline"]["stages"]] == ["vision", "prefill", "decode (per step)"]
    assert report["rate"]["answered"] == 6
    axes = [(p["axis"], p["setting"]) for p in report["sweep"]]
    assert axes[:4] == [("tokens", "2"), ("tokens", "6"), ("commands", "1"), ("commands", "2")]
    swept = {p["setting"]: p["summary"]["tokens"] for p in report["sweep"]}
    assert (swept["2"]["completion"]["max"], swept["6"]["completion"]["max"]) == (8, 6)  # commands=2 has the cap of 8
    assert swept["96x96"]["image"]["mean"] > swept["64x64"]["image"]["mean"]
    assert swept["9"]["prompt"]["mean"] > swept["3"]["prompt"]["mean"]


def test_markdown_has_every_part(out: Path) -> None:
    text = (out / "measure.md").read_text()
    for words in (
        "Milliseconds per request",
        "Tokens",
        "Roofline",
        "At a fixed frame rate",
        "Sweeps",
        "CPU used by others",
    ):
        assert words in text


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.labels += [values["aria-label"]] if tag == "svg" else []
        self.fetched += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]


def test_the_page_holds_its_plots_and_asks_for_nothing(out: Path) -> None:
    text = (out / "measure.html").read_text()
    page = _Page()
    page.feed(text)
    assert set(PLOTS) <= set(page.labels)
    assert page.fetched == []
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_escapes_what_others_wrote(report: dict[str, Any]) -> None:
    hostile = copy.deepcopy(report)
    hostile["machine"]["cpu"] = "<script>alert(1)</script>"
    assert "<script" not in to_html(hostile)


def test_a_browser_draws_the_plots_and_no_request_leaves(out: Path, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no browser is installed (Debian: apt install chromium-headless-shell)")
    address = (out / "measure.html").as_uri()
    with Browser(program, tmp_path) as browser:
        browser.open(address)
        page = _Page()
        page.feed(browser.run("document.documentElement.outerHTML"))
        assert browser.requested_urls() == [address]
        assert browser.complaints() == []
    assert set(PLOTS) <= set(page.labels)
    assert page.tags.count("polyline") > 20 and page.tags.count("circle") >= 6


def test_a_report_compared_with_itself_is_noise(report: dict[str, Any]) -> None:
    found = compare(report, report)
    assert "noise" in found.verdict
    assert all(ratio.noise and ratio.ratio == 1.0 for ratio in found.ratios.values())
    assert found.machine_differs == found.work_differs == []


def slowed(report: dict[str, Any], times: float) -> dict[str, Any]:
    changed = copy.deepcopy(report)
    for sample in changed["samples"]:
        sample["total_ms"] = times * 100.0 + sample["total_ms"] * 1e-3
    return changed


def test_a_real_difference_other_hardware_and_other_work_are_told_apart(report: dict[str, Any]) -> None:
    found = compare(slowed(report, 1.0), slowed(report, 2.0))
    assert "2.00x slower" in found.verdict
    elsewhere = slowed(report, 2.0)
    elsewhere["machine"]["cpu"] = "another"
    found = compare(slowed(report, 1.0), elsewhere)
    assert found.verdict.startswith("on different hardware")
    assert "hardware or settings differ: cpu" in to_markdown(found)
    shorter = copy.deepcopy(report)
    shorter["plan"]["max_new_tokens"] = 4
    assert compare(report, shorter).verdict.startswith("not the same work (max_new_tokens")


def test_compare_reads_only_reports_of_its_schema(
    out: Path, tmp_path: Path, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(out / "measure.json")
    assert main(["compare", path, path, "--json"]) == 0
    assert "noise" in json.loads(capsys.readouterr().out)["verdict"]
    changed = {
        "schema 9": report | {"schema_version": 9},
        "a whole report": {k: v for k, v in report.items() if k != "conditions"},
        "with requests in it": report | {"samples": []},
        "NaN where a number": report | {"samples": [report["samples"][0] | {"total_ms": float("nan")}]},
    }
    texts = {"another file": "{}", "measurement report": "[", "recursion": "[" * 100_000}
    for words, text in (texts | {words: json.dumps(values) for words, values in changed.items()}).items():
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=words):
            main(["compare", path, str(tmp_path / "bad.json")])
