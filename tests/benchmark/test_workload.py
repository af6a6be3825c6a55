"""Which frames and expressions are measured, and how many of them are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from egm_edge.benchmark.benchmark import BenchmarkPlan
from egm_edge.benchmark.comparison import PeerChoice
from egm_edge.benchmark.workload import Workload, expression_of_words, read_workload
from egm_edge.cli import measure
from egm_edge.errors import InputError


def test_workloads(frames_dir: Path, tmp_path: Path) -> None:
    assert [q.name for q in read_workload(frames_dir).take(3)] == ["a.png", "b.png", "a.png"]
    assert len(expression_of_words(7).split()) == 7
    assert read_workload(None).describe()[0]["frame"] == "synthetic"
    shipped = Path(__file__).parents[2] / "examples" / "frames"
    assert len(read_workload(shipped).questions) > 6
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="--frames"):
            read_workload(bad)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(InputError):
        read_workload(tmp_path)


def test_only_pictures_that_are_asked_about_are_read(
    frames_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = shutil.copytree(frames_dir, tmp_path / "frames")
    (frames / "z.png").write_bytes(b"no picture")
    assert [q.name for q in read_workload(frames, at_most=2).questions] == ["a.png", "b.png"]
    shipped = Path(__file__).parents[2] / "examples" / "frames"
    assert read_workload(shipped, at_most=3).questions == read_workload(shipped).questions[:3]
    taken: list[Workload] = []
    monkeypatch.setattr(
        "egm_edge.benchmark.benchmark.measure_bundle", lambda bundle, workload, plan, **_: taken.append(workload) or {}
    )
    monkeypatch.setattr("egm_edge.cli.measure._written", lambda *_: "")
    assert measure.main(["--frames", str(frames), "--requests", "2", "--warm-up", "1", "--json"]) == 0
    assert [q.name for q in taken[0].questions] == ["a.png", "b.png"]
    with pytest.raises(InputError):
        measure.main(["--frames", str(frames), "--requests", "2", "--warm-up", "3", "--json"])


@pytest.mark.parametrize(
    ("plan", "questions"),
    [
        (BenchmarkPlan(requests=2, warm_up=1), 2),
        (BenchmarkPlan(requests=2, warm_up=5), 5),
        (BenchmarkPlan(requests=1, warm_up=1, sweeps=[("tokens", "4")]), 4),
        (BenchmarkPlan(requests=40, sweeps=[("tokens", "4")]), 40),
        (BenchmarkPlan(requests=2, warm_up=1, beside=PeerChoice("http://localhost:1/v1"), pairs=7), 7),
    ],
    ids=["requests", "warm-up", "a sweep's rounds", "requests above a sweep's rounds", "pairs beside a peer"],
)
def test_a_plan_knows_how_many_questions_it_takes(plan: BenchmarkPlan, questions: int) -> None:
    assert plan.most_questions == questions
