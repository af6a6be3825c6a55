"""Step-0 checks find what they are for: a tokenizer, a target, a score or a picture that is not what it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from egm_edge.boxes import Box
from egm_edge.data.readers import load_rows
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from tests.training_stages.runs import write_data
from training import checks
from training.stage_config import ModelSettings
from training.stages.measure import Measured
from training.stages.model import load_model
from training.stages.processor import EgmProcessor


@pytest.fixture(params=["tiny_qwen3_vl", "tiny_internvl3"])
def processor(request: pytest.FixtureRequest) -> EgmProcessor:
    return EgmProcessor(request.getfixturevalue(request.param))


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return load_rows([write_data(tmp_path, 4)])


def _model(processor: EgmProcessor) -> torch.nn.Module:
    return load_model(processor.checkpoint, ModelSettings(base=str(processor.checkpoint), dtype="float32"))


def test_generated_and_scored_log_probabilities_agree(processor: EgmProcessor, rows: list[Row], tmp_path: Path) -> None:
    finding = checks.logprob_agreement(_model(processor), processor, rows[0], tmp_path / "images")
    assert finding.ok, finding


def test_wrong_positions_in_the_trainer_are_found(
    tiny_qwen3_vl: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = EgmProcessor(tiny_qwen3_vl)
    right = processor.token_types
    calls = []

    def forgetful(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append(ids)
        types = right(ids)
        return types if len(calls) == 1 else {key: torch.zeros_like(value) for key, value in types.items()}

    monkeypatch.setattr(processor, "token_types", forgetful)
    finding = checks.logprob_agreement(_model(processor), processor, rows[0], tmp_path / "images")
    assert not finding.ok and finding.fatal


def test_another_tokenizer_is_found(processor: EgmProcessor, rows: list[Row]) -> None:
    assert checks.tokenizer_agreement(processor, rows[0]).ok
    text = processor.ids.to_str().replace("<think>", "<thunk>").replace("<ref>", "<raf>")
    processor.ids = Tokenizer.from_str(text)
    assert not checks.tokenizer_agreement(processor, rows[0]).ok


def test_targets_read_back_and_one_that_cannot_is_found(processor: EgmProcessor, rows: list[Row]) -> None:
    assert checks.target_round_trip(processor, rows).ok
    # Farther out than the parser lets an amodal box reach: what is taught could never be answered.
    far = replace(rows[0], task=Task.AMODAL, box=Box(-500, 0, 20, 20))
    finding = checks.target_round_trip(processor, [*rows, far])
    assert not finding.ok and far.id in finding.seen


def test_image_tokens_are_counted(processor: EgmProcessor, rows: list[Row], tmp_path: Path) -> None:
    assert all(checks.image_tokens(processor, row, tmp_path / "images").ok for row in rows)


@pytest.mark.parametrize(
    ("seen", "blank", "failed"),
    [
        pytest.param(0.7, 0.2, [], id="sees the picture"),
        pytest.param(0.7, 0.7, ["blank picture"], id="does not look"),
        pytest.param(0.0, 0.0, ["parse rate", "blank picture"], id="cannot be read"),
    ],
)
def test_a_policy_must_read_and_look(
    seen: float, blank: float, failed: list[str], tiny_qwen3_vl: Path, rows: list[Row], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def score(*_args: object, blank: bool = False, **_options: object) -> float:
        return blank_iou if blank else seen

    blank_iou = blank
    monkeypatch.setattr(checks, "score_answers", score)
    monkeypatch.setattr(checks, "summarise", lambda iou: Measured(4, iou, iou, iou, 20.0))
    processor = EgmProcessor(tiny_qwen3_vl)
    how = {"max_tokens": 4, "strict": True}
    findings = checks.step_zero(_model(processor), processor, rows, tmp_path / "images", **how)  # type: ignore[arg-type]
    assert [f.name for f in findings if not f.ok] == failed
    if failed:
        with pytest.raises(InputError, match=failed[0]):
            checks.require_passed(findings)
    lenient = checks.step_zero(_model(processor), processor, rows, tmp_path / "images", max_tokens=4, strict=False)  # type: ignore[arg-type]
    checks.require_passed(lenient)


def test_specs_are_echoed_in_full(processor: EgmProcessor) -> None:
    seen = checks.spec_echo(processor).seen
    assert processor.pixel_spec.hash[:12] in seen and processor.prompt_spec.hash[:12] in seen and "mean" in seen
