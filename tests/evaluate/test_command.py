"""What both verbs refuse: one line on stderr, an exit code, nothing on stdout, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from egm_edge.bundle import Bundle
from egm_edge.cli import main, usage


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["evaluate", "B", "--data", "D/none.jsonl"], 2, "none.jsonl", id="no data"),
        pytest.param(["evaluate", "B", "--data", "D/none.p"], 2, "none.p", id="no pickle"),
        pytest.param(["evaluate", "D/none", "--data", "DATA", "--images", "F"], 4, "a bundle or checkpoint", id="no bundle"),
        pytest.param(["evaluate", "B", "--data", "DATA", "--images", "D"], 2, "--images DIR", id="no pictures"),
        pytest.param(
            ["evaluate", "B", "--data", "DATA", "--images", "F", "--out", "DATA"], 2, "--out", id="out is a file"
        ),
        pytest.param(["evaluate", "B"], 2, "--data", id="no --data"),
        pytest.param(
            ["evaluate", "B", "--data", "DATA", "--budgets", "8,x"], 2, "'x'", id="budgets that are no numbers"
        ),
        pytest.param(["evaluate", "compare", "D", "D"], 2, "run egm evaluate first", id="nothing to compare"),
        pytest.param(["measure", "D/none"], 4, "a bundle or checkpoint", id="measure: no bundle"),
        pytest.param(["measure", "B", "--frames", "D"], 2, "--frames", id="measure: no pictures"),
        pytest.param(["measure", "B", "--rate", "0"], 2, "0", id="measure: no rate"),
        pytest.param(["measure", "B", "--sweep", "colour=red"], 2, "colour=red", id="measure: unknown axis"),
        pytest.param(["measure", "B", "--out", "DATA"], 2, "--out", id="measure: out is a file"),
        pytest.param(["measure", "compare", "DATA", "DATA"], 2, "egm measure", id="measure: data is no report"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str],
    code: int,
    words: str,
    tiny_cpu_bundle: Bundle,
    data: Path,
    frames_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"B": str(tiny_cpu_bundle.root), "DATA": str(data), "F": str(frames_dir)}
    given = [places.get(word, word.replace("D", str(tmp_path), 1) if word[:1] == "D" else word) for word in arguments]
    before = set(tmp_path.rglob("*"))
    try:
        found = main(given)
    except SystemExit as stopped:  # usage errors
        found = int(stopped.code or 0)
    captured = capsys.readouterr()
    assert found == code
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("egm: ")
    assert words in captured.err
    assert set(tmp_path.rglob("*")) == before


def test_the_verbs_are_in_the_table() -> None:
    assert "  measure " in usage()
    assert "  evaluate " in usage()
