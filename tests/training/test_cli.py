"""`egm train`: exit codes and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from egm_edge.cli import main

pytest.importorskip("torch", reason="training needs torch; install the train extra")


def test_a_bad_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("seed: 1\narms: [a]\nruns: [{name: a, stages: [{name: s, cpu_minutes: 1, lrr: 2}]}]\n")
    assert main(["train", "nano", "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "stages.0.lrr: an unknown key" in message and message.count("\n") == 1


def test_a_seed_that_would_reach_held_out_scenes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "seed.yaml"
    path.write_text("seed: 14\narms: [a]\nruns: [{name: a, stages: [{name: s, cpu_minutes: 1}]}]\n")
    assert main(["train", "nano", "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "at most 11, found seed: 14" in capsys.readouterr().err


def test_evaluating_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nano", "--evaluate", str(tmp_path)]) == 3
    assert "config.json" in capsys.readouterr().err


def test_an_unknown_verb_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "giant"])
    assert caught.value.code == 2
