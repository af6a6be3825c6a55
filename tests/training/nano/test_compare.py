"""The comparison of checkpoints: resumed without asking twice, and only what was measured on these very weights counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from egm_edge.grounding import Task
from egm_edge.synthetic import Query
from training.nano import compare
from training.nano.compare import Asked, SuiteScore, measure, pair
from training.nano.suites import Suite, SuiteCase

SUITE = Suite("few", (3, 6), ("attribute", "ordinal"), Task.MODAL, 990_500_000)
CPU = torch.device("cpu")
FOUND = Query("the mug", Task.MODAL, "attribute", 0, (100.0, 100.0, 300.0, 300.0), "mug", "")


@pytest.fixture
def asked(nano_folder: Path, tmp_path: Path) -> list[Asked]:
    shutil.copytree(nano_folder, tmp_path / "b")
    return [Asked("a", nano_folder, True), Asked("b", tmp_path / "b", False)]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts what is asked; the answers are a box that is sometimes right."""
    calls: list[str] = []

    def write(_fast: object, _patches: object, cases: list[SuiteCase], *, reasoning: bool) -> list[str]:
        calls.extend("a" if reasoning else "b" for _ in cases)
        boxes = [[round(v) for v in case.query.box_norm1000 or ()] for case in cases]
        return [f'</think>[{{"bbox_2d": {box if i % 2 else [1, 1, 5, 5]}}}]' for i, box in enumerate(boxes)]

    monkeypatch.setattr(compare, "write", write)
    monkeypatch.setattr(compare, "_CHUNK", 4)
    monkeypatch.setattr(compare, "_SAVE_EVERY", 1)
    return calls


def test_all_answer_the_same_scenes(asked: list[Asked], written: list[str], tmp_path: Path) -> None:
    found = measure(asked, [SUITE], 8, tmp_path / "answers", CPU)["few"]
    assert written.count("a") == written.count("b") == 8
    assert found["a"] == found["b"]
    assert found["a"].by_kind()["all"].accuracy == 0.5
    assert set(found["a"].by_kind()) == {"all", "attribute", "ordinal"}
    assert pair({"few": found}, "few", "a", "b").mcnemar_p == 1.0


def test_what_is_known_is_not_asked_again(asked: list[Asked], written: list[str], tmp_path: Path) -> None:
    first = measure(asked[:1], [SUITE], 8, tmp_path / "answers", CPU)
    written.clear()
    second = measure(asked, [SUITE], 8, tmp_path / "answers", CPU)
    assert written.count("a") == 0 and written.count("b") == 8
    assert second["few"]["a"] == first["few"]["a"]
    written.clear()
    measure(asked[1:], [SUITE], 12, tmp_path / "answers", CPU)
    measure(asked[:1], [SUITE], 8, tmp_path / "answers", CPU)
    assert written == ["b"] * 4, "what one knows of the first is lost when only the second is asked"


def test_a_kill_costs_a_chunk(
    asked: list[Asked], written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(asked[:1], [SUITE], 12, tmp_path / "whole", CPU)
    real, count = compare.patches_of, 0

    def dies(cases: list[SuiteCase]) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(cases)

    monkeypatch.setattr(compare, "patches_of", dies)
    with pytest.raises(KeyboardInterrupt):
        measure(asked[:1], [SUITE], 12, tmp_path / "answers", CPU)
    written.clear()
    monkeypatch.setattr(compare, "patches_of", real)
    assert measure(asked[:1], [SUITE], 12, tmp_path / "answers", CPU) == whole
    assert len(written) == 4


def test_other_weights_are_measured_anew(asked: list[Asked], written: list[str], tmp_path: Path) -> None:
    measure(asked[1:], [SUITE], 4, tmp_path / "answers", CPU)
    written.clear()
    weights = asked[1].checkpoint / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    measure(asked[1:], [SUITE], 4, tmp_path / "answers", CPU)
    assert len(written) == 4


def test_wrong_rejections_are_counted_with_an_interval() -> None:
    measured = SuiteScore()
    for text in ("x</think>[]", '</think>[{"bbox_2d": [100, 100, 300, 300]}]', "</think>nonsense", "</think>[]"):
        measured.add(SuiteCase(SUITE, 1, FOUND), text)
    share, (low, high) = measured.rejection
    assert share == 0.5 and 0 < low < 0.5 < high < 1
    assert measured.by_kind()["all"].accuracy == 0.25
