"""Flips, leaks and the difficulty filter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.data.pictures import load_picture
from egm_edge.data.problems import DataError
from egm_edge.errors import InputError
from tests.training_data.data_files import jsonl, picture, row
from tests.training_data.flip_corpus import CASES
from training.data.difficulty import DifficultyRule, filter_by_difficulty, read_ious
from training.data.flip import flipped, mirror_box, mirror_text, unsafe_to_mirror
from training.data.leaks import find_leaks, picture_key, without_leaks


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("left mug", "right mug"),
        ("The LEFTMOST one, right-hand side", "The RIGHTMOST one, left-hand side"),
        ("turned anti-clockwise", "turned clockwise"),
        ("bright kettle", "bright kettle"),
        ("second bowl from the left", "second bowl from the right"),
        ("man with his left arm raised on right", "man with his right arm raised on left"),
    ],
)
def test_words_are_mirrored(text: str, mirrored: str) -> None:
    assert unsafe_to_mirror(text) == ""
    assert mirror_text(text) == mirrored


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("player 23", "writing or digits"),
        ('sign that says "stop"', "writing or digits"),
        ("the third zebra", "ordinal without a side"),
        ("cup right next to the jug", "right or left as another word"),
        ("the only one left over", "right or left as another word"),
        ("guy on l", "abbreviated side"),
        ("at 3 o'clock", "writing or digits"),
        ("passenger side door", "vehicle or stage side"),
        ("the western tower", "clock or compass"),
        ("leftish pear", "unknown word with a side"),
    ],
)
def test_unsafe_words_are_dropped_with_their_reason(text: str, reason: str) -> None:
    assert unsafe_to_mirror(text) == reason


def test_flipping_twice_is_no_change_and_drops_are_counted(tmp_path: Path) -> None:
    rows = [
        row(id="a", expression="mug on the left", reasoning="It stands left of the jug."),
        row(id="b", expression="player 23"),
        row(id="c", expression="the mug", reasoning="It is the third one."),
    ]
    mirrored, report = flipped(rows)
    assert [r.id for r in mirrored] == ["a-flip"] and report.mirrored == 1
    assert dict(report.dropped) == {"writing or digits": 1, "ordinal without a side": 1}
    assert mirrored[0].expression == "mug on the right" and mirrored[0].reasoning == "It stands right of the jug."
    assert mirrored[0].box == Box(24, 12, 56, 36)
    again, _ = flipped(mirrored)
    assert (again[0].expression, again[0].box, again[0].mirrored) == (rows[0].expression, rows[0].box, False)


def test_the_box_of_a_mirrored_row_holds_the_same_pixels(tmp_path: Path) -> None:
    original = row(image="a.png")
    picture(tmp_path, "a.png")
    (mirrored,), _ = flipped([original])
    crops = []
    for sample in (original, mirrored):
        assert sample.box is not None
        x1, y1, x2, y2 = (int(v) for v in sample.box.xyxy)
        crops.append(load_picture(sample, tmp_path)[y1:y2, x1:x2])
    np.testing.assert_array_equal(crops[0], crops[1][:, ::-1])


def test_an_amodal_box_is_mirrored_beyond_the_edge() -> None:
    assert mirror_box(Box(-10, 0, 20, 5), 64) == Box(44, 0, 74, 5)


def test_leaks_are_found_across_data_sets_and_through_mirrored_copies() -> None:
    training = [
        row(id="a"),
        row(id="b", image="coco_flip/train2014/COCO_train2014_000000000002.jpg"),
        row(id="c", image="coco/train2014/COCO_train2014_000000000003.jpg"),
    ]
    evaluation = [
        row(dataset="refcocog", split="test", image="train2014/COCO_train2014_000000000002.jpg"),
        row(dataset="refcoco+", split="testA"),
    ]
    kept, report = without_leaks(training, evaluation)
    assert [r.id for r in kept] == ["c"]
    assert report.images_by_split == {("refcocog", "test"): 1, ("refcoco+", "testA"): 1}
    assert find_leaks(kept, evaluation).rows == ()


def test_picture_key_of_other_pictures_is_their_path() -> None:
    assert picture_key("scenes/000001.png") == "scenes/000001.png"


def _ious(pairs: dict[str, float], path: Path) -> dict[str, float]:
    return read_ious(jsonl(path, *({"id": k, "iou": v} for k, v in pairs.items())))


def test_difficulty_filter_takes_all_hard_rows_and_as_many_easy_ones_by_band(tmp_path: Path) -> None:
    rows = [row(id=f"r{i}") for i in range(400)]
    own = {f"r{i}": (0.2 if i < 100 else 0.5 + 0.5 * (i - 100) / 300) for i in range(400)}
    oracle = {f"r{i}": (0.9 if i < 60 else 0.1) for i in range(100)}
    chosen, report = filter_by_difficulty(rows, _ious(own, tmp_path / "own.jsonl"), _ious(oracle, tmp_path / "o.jsonl"))
    assert (report.hard, report.unsolvable, report.easy) == (60, 40, 60)
    assert [taken for _, taken, _ in report.taken_by_band] == [9, 12, 12, 12, 15]
    assert len({r.id for r in chosen}) == 120
    same, _ = filter_by_difficulty(rows, own, oracle)
    assert [r.id for r in same] == [r.id for r in chosen]
    other, _ = filter_by_difficulty(rows, own, oracle, DifficultyRule(seed=1))
    assert [r.id for r in other] != [r.id for r in chosen]


def test_difficulty_filter_refuses_a_row_without_prediction(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none for 1 of them, first 'r2'"):
        filter_by_difficulty([row(id="r1"), row(id="r2")], {"r1": 0.9}, {})


def test_predictions_with_problems_are_all_listed(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "p.jsonl", {"id": "a", "iou": 0.5}, {"id": "a", "iou": 0.6}, {"id": "b", "iou": 7}, {"iou": 1}
    )
    with pytest.raises(DataError) as caught:
        read_ious(path)
    assert [p.line for p in caught.value.problems] == [2, 3, 4]


def test_the_published_set_is_mirrored_or_dropped_as_it_should_be() -> None:
    """The flipper's confusion table: what is mirrored wrongly is learned, what is dropped needlessly is only lost."""
    table: Counter[str] = Counter()
    wrong = []
    for text, wanted in CASES:
        rows, _ = flipped([row(expression=text)])
        found = rows[0].expression if rows else None
        verdict = "right" if found == wanted else "needless drop" if found is None else "mirrored wrongly"
        table[f"{'drop' if wanted is None else 'mirror'}: {verdict}"] += 1
        wrong += [] if found == wanted else [(text, found)]
    assert wrong == []
    assert table == {"mirror: right": 36, "drop: right": 27}


def test_other_languages_are_mirrored_when_told_so() -> None:
    rows, report = flipped([row(expression="кружка")], any_language=True)
    assert [r.expression for r in rows] == ["кружка"] and report.mirrored == 1
    assert flipped([row(expression="кружка")])[1].dropped == {"not English": 1}
