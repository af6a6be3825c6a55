"""Scores: what counts as right, and the interval around it."""

from __future__ import annotations

import pytest

from egm_edge.grounding import Task
from egm_edge.synthetic import Query
from training.nano.evaluate import iou_of, score
from training.nano.suites import AMODAL, EVALUATION_SEED, SHRUNK, SHUFFLED, UNHEARD

FOUND = Query("the mug", Task.MODAL, "attribute", 0, (100.0, 100.0, 300.0, 300.0), "mug", "")
ABSENT = Query("the mug", Task.MODAL, "negative", None, None, "mug", "")


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        pytest.param(
            'x\n</think>\n\n```json\n[{"bbox_2d": [100, 100, 300, 300], "label": "mug"}]\n```', FOUND, 1.0, id="exact"
        ),
        pytest.param(
            '\n</think>\n\n```json\n[{"bbox_2d": [100, 100, 300, 200], "label": "mug"}]\n```', FOUND, 0.5, id="half"
        ),
        pytest.param('"bbox_2d": [100, 100, 300, 300]\n</think>\n\n', FOUND, 0.0, id="box only in the thought"),
        pytest.param("", FOUND, 0.0, id="nothing"),
        pytest.param("mug: none\n</think>\n\n```json\n[]\n```", FOUND, 0.0, id="wrongly not there"),
        pytest.param("mug: none\n</think>\n\n```json\n[]\n```", ABSENT, 1.0, id="rightly not there"),
        pytest.param('\n</think>\n\n[{"bbox_2d": [1, 1, 3, 3], "label": "mug"}]', ABSENT, 0.0, id="invented"),
    ],
)
def test_iou_of(text: str, query: Query, expected: float) -> None:
    assert iou_of(text, query) == pytest.approx(expected)


def test_score_has_a_wilson_interval() -> None:
    result = score([1.0] * 85 + [0.1] * 15)
    assert result.accuracy == 0.85 and result.count == 100
    assert result.interval95 == pytest.approx((0.767, 0.907), abs=0.001)


def test_cases_are_held_out_and_amodal_ones_are_occluded() -> None:
    cases = AMODAL.cases(12)
    assert all(case.seed > EVALUATION_SEED for case in cases) and len({case.seed for case in cases}) == 12
    assert {case.query.kind for case in cases} == {"attribute", "superlative", "ordinal", "relation"}
    for case in cases:
        assert case.query.target is not None and AMODAL.layout(case.seed).visible[case.query.target] < 0.9
    assert cases[0].frame().shape == (480, 640, 3)


def test_a_shuffled_picture_holds_nothing_of_what_is_asked_for() -> None:
    """The question is another scene's: its noun, or a synonym of it, is on this one's table neither in truth nor in name."""
    for case in SHUFFLED.cases(10):
        assert case.query.target is None and case.query.box_norm1000 is None
        nouns = {thing.shape for thing in SHUFFLED.scene(case.seed).objects}
        assert case.query.label.split()[-1] not in nouns and "object" not in case.query.expression


def test_a_shrunk_frame_takes_its_boxes_along() -> None:
    """The target's box differs inside from the plain frame around the small picture."""
    for case in SHRUNK.cases(6):
        x1, y1, x2, y2 = (
            round(v * side / 1000) for v, side in zip(case.query.box_norm1000 or (), (640, 480) * 2, strict=True)
        )
        assert 128 <= x1 < x2 <= 512 and 96 <= y1 < y2 <= 384
        assert case.frame()[y1:y2, x1:x2].reshape(-1, 3).astype(int).std(0).max() > 8


def test_unheard_words_are_asked_for() -> None:
    cases = UNHEARD.cases(4)
    assert [case.query.expression.split()[-1] for case in cases] == ["dog", "woman", "rocket", "cat"]
    assert all(case.query.target is None for case in cases)
