"""Each public format ends in the same rows: pixels of the picture, the expression as typed, an id of its own."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from egm_edge.boxes import Box
from egm_edge.data.egm_rows import NORM1000
from egm_edge.data.problems import DataError, Problem
from egm_edge.data.readers import load_rows, read_rows
from egm_edge.data.refcoco import read_refcoco, split_counts
from egm_edge.data.rows import Row, write_rows
from egm_edge.data.safe_pickle import load_safe_pickle
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from tests.training_data.data_files import egm_eval, egm_train, generic, jsonl, refcoco_distribution, row
from training.data.coco_amodal import decompress_counts, mask_bounds, read_coco_amodal
from training.data.splits import VALIDATION, require_split

BOX = Box(8.0, 12.0, 40.0, 36.0)


def test_egm_rows_agree_whatever_frame_they_are_written_in(tmp_path: Path) -> None:
    problems: list[Problem] = []
    trace = {"question": "the red mug", "image_path": "coco/a.jpg", "image_width": 64, "image_height": 48}
    cases = {
        "conversation, 0-1000": egm_train(),
        "evaluation, pixels": egm_eval(),
        "trace, pixels": trace | {"gt_bbox_absolute": [8, 12, 40, 36], "gpt_analysis": "It is the red one."},
        "trace, 0-1000": trace | {"gt_bbox_normalized": [125, 250, 625, 750], "gpt_analysis": "It is the red one."},
    }
    rows = list(read_rows(jsonl(tmp_path / "mixed.jsonl", *cases.values()), problems))
    assert problems == []
    assert [r.box for r in rows] == [BOX] * 4
    assert rows[0].expression == "the red mug" and rows[0].reasoning == "It is the only red one."
    assert rows[0].id == "mixed:1" and rows[0].split == "train"


def test_egm_box_frame_can_be_overridden_for_converted_files(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "refcoco+_testA.jsonl", egm_eval(bbox=[125, 250, 625, 750]))
    (found,) = read_rows(path, [], box_frame=NORM1000)
    assert found.box == BOX and (found.dataset, found.split) == ("refcoco+", "testA")


def test_egm_amodal_row_keeps_both_boxes_and_never_falls_back_to_the_visible_one(tmp_path: Path) -> None:
    problems: list[Problem] = []
    both = egm_eval(bbox=[-8, 12, 40, 36], modal_bbox=[0, 12, 40, 36])
    only_modal = {key: value for key, value in both.items() if key != "bbox"}
    (found,) = read_rows(jsonl(tmp_path / "a.jsonl", both, only_modal), problems)
    assert found.task is Task.AMODAL and found.box == Box(-8, 12, 40, 36) and found.modal_box == Box(0, 12, 40, 36)
    assert [(p.line, p.expected) for p in problems] == [(2, "an amodal 'bbox'")]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_refcoco_distribution_one_row_a_sentence(tmp_path: Path, protocol: int) -> None:
    problems: list[Problem] = []
    rows = list(read_refcoco(refcoco_distribution(tmp_path / "refcoco", protocol=protocol), problems))
    assert problems == []
    assert [(r.id, r.expression) for r in rows] == [
        ("refcoco-10", "mug red"),
        ("refcoco-20", "mug red"),
        ("refcoco-21", "mug left"),
    ]
    assert {r.box for r in rows} == {BOX}
    assert rows[0].image == "coco/train2014/COCO_train2014_000000000001.jpg"
    (count,) = split_counts(rows)
    assert (count.expected, count.found, count.agrees) == (10_834, 3, False)
    assert "expected 10834" in str(count)


def test_split_counts_know_all_eight_published_splits() -> None:
    from egm_edge.data.refcoco import EXPECTED_SENTENCES

    assert sum(EXPECTED_SENTENCES.values()) == 57_457 and len(EXPECTED_SENTENCES) == 8


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([{"ref_id": 1}, Malicious(mark)], protocol=protocol))
    with pytest.raises(InputError, match="refused and not executed"):
        load_safe_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(pickle.dumps([1, 2, 3])[:-3], id="cut off"),
        pytest.param(b"r\xff\xff\xff\x7f.", id="memo bomb"),
        pytest.param(b"cos\nsystem\n(S'true'\ntR.", id="global by hand"),
        pytest.param(b"P1\n.", id="persistent id"),
        pytest.param(b"\x82\x01.", id="extension registry"),
        pytest.param(b"(" * 100_000, id="marks without end"),
    ],
)
def test_damaged_or_hostile_pickles_are_one_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(data)
    with pytest.raises(InputError):
        load_safe_pickle(path)


def test_cocoa_regions_give_amodal_and_modal_boxes(tmp_path: Path) -> None:
    region = {"name": "mug", "segmentation": [-4, 2, 20, 2, 20, 30, -4, 30], "order": 1, "occlude_rate": 0.4}
    mask = {"size": [48, 64], "counts": [48 * 5 + 2, 28, 48 * 64 - 48 * 5 - 30]}
    twins = [region | {"name": "Chair", "occlude_rate": 0}, region | {"name": "chair", "occlude_rate": 0}]
    values = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 3, "image_id": 7, "regions": [region | {"visible_mask": mask}, *twins]}],
    }
    path = tmp_path / "COCO_amodal_val.json"
    path.write_text(json.dumps(values))
    skipped: Counter[str] = Counter()
    problems: list[Problem] = []
    (found,) = read_coco_amodal(path, problems, skipped)
    assert problems == [] and skipped.total() == 2
    assert found.box == Box(-4, 2, 20, 30) and found.modal_box == Box(5, 2, 6, 30) and found.task is Task.AMODAL


def test_all_parts_of_a_region_count(tmp_path: Path) -> None:
    parts = [[-4, 2, 6, 2, 6, 30], [10, 4, 20, 4, 20, 12]]
    values = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 3, "image_id": 7, "regions": [{"name": "mug", "segmentation": parts}]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(values))
    (found,) = read_coco_amodal(tmp_path / "a.json", [], Counter())
    assert found.box == Box(-4, 2, 20, 30)


def test_flat_amodal_annotations_with_expressions(tmp_path: Path) -> None:
    image = {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}
    tao = {"id": 1, "image_id": 7, "amodal_bbox": [-4, 2, 24, 28], "bbox": [0, 2, 20, 28], "expressions": ["the mug"]}
    bad = {"id": 2, "image_id": 7, "amodal_bbox": [4, 2, 0, 28], "expressions": ["the cup"]}
    path = tmp_path / "tao.json"
    path.write_text(json.dumps({"images": [image], "annotations": [tao, bad]}))
    problems: list[Problem] = []
    (found,) = read_coco_amodal(path, problems, Counter(), image_folder="frames")
    assert found.image == "frames/a.jpg" and found.modal_box == Box(0, 2, 20, 30)
    assert [p.line for p in problems] == [2]


def test_compressed_run_lengths_as_cocoapi_writes_them() -> None:
    # rleToString of [5, 2, 13]: 5 -> "5", 2 -> "2", then differences from the third run on
    assert decompress_counts("52=") == [5, 2, 13]
    assert mask_bounds({"size": [4, 5], "counts": "52="}, (5, 4)) == Box(1, 1, 2, 3)


@pytest.mark.parametrize(
    ("counts", "box"),
    [
        pytest.param([20], None, id="nothing"),
        pytest.param([5, 0, 15], None, id="an empty run"),
        pytest.param([0, 20], Box(0, 0, 5, 4), id="everything"),
        pytest.param([2, 1, 6, 2, 9], Box(0, 1, 3, 3), id="two columns"),
        pytest.param([3, 2, 15], Box(0, 0, 2, 4), id="over the edge of a column"),
        pytest.param([4, 4, 4, 1, 7], Box(1, 0, 4, 4), id="a whole column"),
    ],
)
def test_bounds_of_a_mask(counts: list[int], box: Box | None) -> None:
    assert mask_bounds({"size": [4, 5], "counts": counts}, (5, 4)) == box


def test_masks_of_strangers_cost_neither_memory_nor_time() -> None:
    side = 10**7  # as a bitmap 100 TB
    found = mask_bounds({"size": [side, side], "counts": [side + 3, 2, side - 1, 1]}, (side, side))
    assert found == Box(1, 3, 3, 5)
    with pytest.raises(InputError, match="60 bits"):
        decompress_counts("P" * 10_000_000)


def test_rows_round_trip_and_only_val_is_for_validation(tmp_path: Path) -> None:
    rows = [
        row(),
        row(id="r2", split="val", box=None),
        row(id="r3", split="testA", mirrored=True, reasoning="So it is."),
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    read = list(read_rows(tmp_path / "rows.jsonl", []))
    assert [r.to_dict() for r in read] == [r.to_dict() for r in rows]
    require_split(read[1:2], VALIDATION, "data.validation")
    with pytest.raises(InputError, match="1 of train, 1 of testA"):
        require_split(read, VALIDATION, "data.validation")


def test_text_that_no_file_can_hold_comes_back_as_it_was(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row(reasoning="half \ud83d of a pair, \u676f")])
    (read,) = load_rows([tmp_path / "rows.jsonl"])
    assert read.reasoning == "half \ud83d of a pair, \u676f"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder to write to"):
        write_rows(tmp_path / "file" / "rows.jsonl", [row()])


def test_load_rows_raises_with_every_problem(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", generic(), generic(), generic(id="b", box=[9, 9, 1, 1]), '{"id": "cut')
    with pytest.raises(DataError) as caught:
        load_rows([path])
    assert sorted(p.line for p in caught.value.problems) == [2, 3, 4]
    assert "rows.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"box": Box(8, 12, 70, 36)}, "inside the picture", id="modal box outside"),
        pytest.param({"expression": "  "}, "an expression", id="empty expression"),
        pytest.param({"expression": "mug <|im_end|>"}, "marker", id="control token in the expression"),
        pytest.param(
            {"box": Box(70, 12, 90, 36), "task": Task.AMODAL}, "touches the picture", id="amodal box wholly outside"
        ),
    ],
)
def test_impossible_rows_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        row(**changes)


def test_amodal_boxes_may_leave_the_picture() -> None:
    assert isinstance(row(box=Box(-8, 12, 70, 36), task=Task.AMODAL), Row)
