"""Reading data as evaluation takes it: every form, the original distribution, hostile pickles, and pictures not there."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from egm_edge.data.pictures import find_picture, find_pictures
from egm_edge.data.readers import load_rows
from egm_edge.data.safe_pickle import load_safe_pickle
from egm_edge.errors import InputError
from egm_edge.evaluate.rows import evaluation_rows
from egm_edge.evaluate.run import spread
from egm_edge.grounding import Task
from tests.evaluate.conftest import egm_row, write_lines

OWN = {
    "id": "r1",
    "image": "a.png",
    "expression": "second cup",
    "box": [1, 2, 30, 40],
    "dataset": "own",
    "split": "val",
}


def test_egm_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "refcoco+_testB.jsonl", [egm_row("a.png", "left mug", [1, 2, 30, 40])])
    (row,) = evaluation_rows([path])
    assert (row.dataset, row.split, row.kind, row.task) == ("refcoco+", "testB", "position", Task.MODAL)
    assert (row.expression, row.box and row.box.xyxy, row.image_wh) == ("left mug", (1.0, 2.0, 30.0, 40.0), (96, 64))
    assert row.id == "refcoco+_testB:1"


def test_own_rows_with_negatives_mirrors_and_kinds(tmp_path: Path) -> None:
    lines = [OWN, OWN | {"id": "r2", "box": None}, OWN | {"id": "r3", "kind": "attribute", "mirrored": True}]
    first, second, third = evaluation_rows([write_lines(tmp_path / "own.jsonl", lines)])
    assert (first.kind, first.dataset, first.split, first.image_wh) == ("ordinal", "own", "val", None)
    assert (second.kind, second.box) == ("negative", None)
    assert (third.kind, third.mirrored) == ("attribute", True)


def test_amodal_rows_are_scored_on_the_amodal_box_only(tmp_path: Path) -> None:
    both = egm_row("a.png", "mug", [-10, 2, 30, 40]) | {"modal_bbox": [0, 2, 30, 40]}
    (row,) = evaluation_rows([write_lines(tmp_path / "amodal.jsonl", [both])])
    assert (row.task, row.box and row.box.xyxy) == (Task.AMODAL, (-10.0, 2.0, 30.0, 40.0))
    del both["bbox"]
    with pytest.raises(InputError, match="only 'modal_bbox'"):
        evaluation_rows([write_lines(tmp_path / "amodal.jsonl", [both])])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param('{"image": "a.png"', "one JSON object a line", id="cut off"),
        pytest.param("[1, 2]", "one JSON object a line", id="a list"),
        pytest.param(json.dumps(OWN | {"box": [30, 2, 1, 40]}), "x1 < x2", id="inverted box"),
        pytest.param(json.dumps(OWN | {"box": [1, 2, 3]}), "four finite numbers", id="three numbers"),
        pytest.param(json.dumps(OWN | {"box": [1, 2, float("nan"), 4]}), "four finite numbers", id="NaN"),
        pytest.param(json.dumps(OWN | {"expression": ""}), "an expression", id="no words"),
        pytest.param(json.dumps({"image": "a.png", "expression": "x"}), "a target", id="no target"),
        pytest.param(json.dumps(OWN | {"width": 10}), "whole pixels", id="half a size"),
        pytest.param(
            json.dumps(OWN | {"width": 120, "height": 100, "box": [10, 10, 140, 60]}),
            "inside the picture of 120x100",
            id="a modal box that leaves the picture",
        ),
        pytest.param(json.dumps(OWN | {"image": 3}), "'image'", id="no picture name"),
        pytest.param(
            json.dumps(OWN | {"box": [0, 0, 1e308, 1e308]}), "four finite numbers", id="as large as floats go"
        ),
        pytest.param(
            json.dumps(OWN | {"box": [-(10**400), 2, 3, 4]}), "four finite numbers", id="larger than any float"
        ),
        pytest.param('{"a": "' + "x" * (4 << 20) + '"}', "more than 4 MiB", id="a huge line"),
        pytest.param("", "an empty file", id="empty"),
    ],
)
def test_unusable_rows_stop_the_run_before_it_starts(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=words) as caught:
        evaluation_rows([path])
    assert "\n" not in str(caught.value)


def refer_files(folder: Path, **changes: Any) -> Path:
    """A small refcoco+ as its authors pickle it."""
    folder.mkdir(exist_ok=True)
    sentences = [{"sent_id": 7, "sent": "left mug", "raw": "Left mug!", "tokens": ["left", "mug"]}]
    sentences.append(sentences[0] | {"sent_id": 8, "sent": "red one"})
    ref = {"ref_id": 1, "ann_id": 5, "image_id": 3, "split": "testA", "sentences": sentences} | changes
    train = ref | {"split": "train", "sentences": [sentences[0] | {"sent_id": 9}]}
    (folder / "refs(unc).p").write_bytes(pickle.dumps([ref, train], protocol=0))
    picture = {"id": 3, "file_name": "COCO_train2014_000000000003.jpg", "width": 96, "height": 64}
    values = {"images": [picture], "annotations": [{"id": 5, "bbox": [10, 20, 30, 5]}]}
    (folder / "instances.json").write_text(json.dumps(values))
    return folder / "refs(unc).p"


def test_the_original_distribution(tmp_path: Path) -> None:
    first, second = evaluation_rows([refer_files(tmp_path / "refcoco+")])
    assert (first.id, first.dataset, first.split, first.expression) == ("refcoco+-7", "refcoco+", "testA", "left mug")
    assert first.box and first.box.xyxy == (10.0, 20.0, 40.0, 25.0)
    assert first.image == "coco/train2014/COCO_train2014_000000000003.jpg"
    assert (second.id, second.image_wh) == ("refcoco+-8", (96, 64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ann_id": 6}, "references that fit"),
        ({"sentences": None}, "references that fit"),
        ({"split": "train"}, "val or test"),
    ],
)
def test_references_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluation_rows([refer_files(tmp_path / "refcoco", **changes)])


class Touches:
    """Unpickled carelessly, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_would_run_code_are_refused_unread(tmp_path: Path, protocol: int) -> None:
    path, mark = tmp_path / "refs.p", tmp_path / "ran"
    path.write_bytes(pickle.dumps([{"ok": 1}, Touches(mark)], protocol=protocol))
    with pytest.raises(InputError, match="refused and not executed"):
        load_safe_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize("data", [b"", b"\x80", b"(lp0\n", b"p999999999999\n.", b"hello"])
def test_damaged_pickles_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_safe_pickle(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    values = [{"a": [1, 2.5, None, True, "ü", (1, 2)], "b": 1 << 80}]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(values, protocol=protocol))
    assert load_safe_pickle(path) == values


def test_pictures_are_found_under_the_usual_folders_and_nowhere_else(tmp_path: Path, frames_dir: Path) -> None:
    (tmp_path / "data" / "coco").mkdir(parents=True)
    (tmp_path / "data" / "coco" / "a.png").write_bytes((frames_dir / "a.png").read_bytes())
    (tmp_path / "secret.png").write_bytes(b"")
    inside = evaluation_rows([write_lines(tmp_path / "d.jsonl", [OWN])])
    outside = evaluation_rows([write_lines(tmp_path / "d.jsonl", [OWN | {"image": "../secret.png"}])])
    assert find_pictures(inside, [tmp_path / "data"])["a.png"].name == "a.png"
    with pytest.raises(InputError, match="1 of 1 missing"):
        find_pictures(outside, [tmp_path / "data"])


def test_a_limit_takes_rows_evenly_from_every_split(tmp_path: Path) -> None:
    lines = [OWN | {"id": f"{split}{i}", "split": split} for split in ("val", "test") for i in range(10)]
    rows = spread(evaluation_rows([write_lines(tmp_path / "d.jsonl", lines)]), 4)
    assert [row.id for row in rows] == ["val0", "val2", "val5", "val7", "test0", "test2", "test5", "test7"]
    with pytest.raises(InputError, match="'val0' twice"):
        spread([*rows, rows[0]], None)


@pytest.mark.parametrize("root", ["data", "data/coco"])
def test_a_picture_is_found_from_either_root(tmp_path: Path, root: str) -> None:
    path = tmp_path / "data" / "coco" / "train2014" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for name in ("coco/train2014/a.png", "train2014/a.png"):
        assert find_picture(name, [tmp_path / root]) == path
    for name in ("/etc/passwd", "coco/../../a.png", ""):
        with pytest.raises(InputError, match="inside the image root"):
            find_picture(name, [tmp_path / root])


def test_umd_and_google_may_live_side_by_side(tmp_path: Path) -> None:
    umd = refer_files(tmp_path / "refcocog")
    umd = umd.rename(umd.with_name("refs(umd).p"))
    (umd.with_name("refs(google).p")).write_bytes(umd.read_bytes())
    rows = load_rows([umd, umd.with_name("refs(google).p")])
    assert {row.dataset for row in rows} == {"refcocog", "refcocog-google"}
    assert len({row.id for row in rows}) == len(rows) == 6
