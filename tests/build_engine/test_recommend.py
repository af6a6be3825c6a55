"""`egm recommend`: the memory plan's own figures, latencies with their source, and a table in the README that is made by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from build_engine import recommend, recommend_cli
from build_engine.memory_table import published_plan
from build_engine.recommend import MODELS, LatencySource, advise
from build_engine.targets import TARGETS
from egm_edge.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("device", TARGETS)
def test_memory_is_the_memory_plans_and_every_row_says_what_to_type(device: str) -> None:
    for row in advise(device):
        plan = published_plan(MODELS[row.model], TARGETS[device], row.precision)
        assert row.needed_gb == pytest.approx(plan.device, abs=0.05)
        assert row.precision in TARGETS[device].precisions
        assert f"--target {device} --precision {row.precision}" in row.commands[0]
        assert (row.latency_s is None) == (row.source is LatencySource.UNKNOWN)
        assert row.fits == (row.usable_gb is None or plan.device <= row.usable_gb + 0.05)


def test_a_published_rate_is_used_as_published() -> None:
    (row,) = [row for row in advise("jetson-orin-nx") if row.model == "EGM-4B"]
    assert row.source is LatencySource.PUBLISHED
    assert row.latency_s == pytest.approx((77.4 + 217.2) / 1e3 + 100 / 31.7, abs=0.01)


def test_where_the_default_precision_does_not_fit_the_next_is_named() -> None:
    (row,) = [row for row in advise("jetson-orin-nano") if row.model == "EGM-8B"]
    assert not row.fits and row.precision == "int4"


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(InputError, match="jetson-orin-nano"):
        advise("orin-nano")


@pytest.mark.parametrize(
    ("board", "target"),
    [("NVIDIA Jetson Orin NX Engineering", "jetson-orin-nx"), ("NVIDIA Jetson AGX Orin", "jetson-agx-orin")],
)
def test_a_jetson_knows_itself(board: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend, "board_name", lambda: board)
    assert recommend.this_machine()[0].name == target


def test_a_gpu_that_the_driver_shows_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend, "board_name", lambda: "")
    monkeypatch.setattr(recommend, "_gpus", lambda: iter([("sm89", 24.0)]))
    target, usable_gb = recommend.this_machine()
    assert (target.name, usable_gb) == ("rtx", 23.0)


def test_json_is_a_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend_cli.main(["--json", "--device", "jetson-thor"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["model"] for row in rows] == list(MODELS)


def test_the_readmes_table_is_made_by_it() -> None:
    assert recommend_cli.readme_table() in (ROOT / "README.md").read_text("utf-8")
