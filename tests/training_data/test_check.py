"""`egm data check` on a data set with every fault: all of them listed, none of them executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from egm_edge.cli import main as egm
from tests.training_data.data_files import egm_eval, egm_train, generic, jsonl, picture, refcoco_distribution
from tests.training_data.test_adapters import Malicious

IMAGE = "coco/train2014/COCO_train2014_000000000001.jpg"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    picture(root, IMAGE)
    picture(root, "coco/train2014/small.jpg", 10, 10)
    (root / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    jsonl(
        root / "train.jsonl",
        generic(id="good"),
        generic(id="missing", image="coco/train2014/gone.jpg"),
        generic(id="size", image="coco/train2014/small.jpg"),
        generic(id="outside", box=[8, 12, 90, 36]),
        generic(id="inverted", box=[40, 12, 8, 36]),
        generic(id="empty", expression="  "),
        generic(id="good"),
        generic(id="escape", image="../../etc/passwd"),
        generic(id="damaged", image="damaged.jpg"),
        json.dumps(generic(id="cut"))[:-20],
    )
    jsonl(root / "refcoco_val.jsonl", egm_eval(), egm_eval(bbox=[40, 36, 8, 12]), egm_eval(bbox=[1, 2, 3]))
    jsonl(root / "sft.jsonl", egm_train(), egm_train(conversations=[{"from": "gpt", "value": "no box"}]))
    (root / "evil").mkdir()
    (root / "evil" / "refs(unc).p").write_bytes(pickle.dumps([Malicious(tmp_path / "executed")]))
    (root / "cache.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
    return root


def test_every_problem_is_listed_with_file_and_line(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert egm(["data", "check", str(broken), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    found = {(Path(p["file"]).name, p["line"], p["expected"]) for p in report["problems"]}
    expected = {
        ("train.jsonl", 2, "a picture"),
        ("train.jsonl", 3, "coco/train2014/small.jpg of 64x48 pixels"),
        ("train.jsonl", 4, "a box inside the picture of 64x48 pixels"),
        ("train.jsonl", 5, "box with x1 < x2 and y1 < y2"),
        ("train.jsonl", 6, "an expression"),
        ("train.jsonl", 7, "ids that are unique in a file"),
        ("train.jsonl", 8, "a picture path inside the image root"),
        ("train.jsonl", 9, "a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image, complete and undamaged"),
        ("train.jsonl", 10, "one JSON object a line"),
        ("refcoco_val.jsonl", 2, "a box in pixels with x1 < x2 and y1 < y2"),
        ("refcoco_val.jsonl", 3, "a box in pixels as [x1, y1, x2, y2]"),
        ("sft.jsonl", 2, "a box in the gpt turn"),
        ("refs(unc).p", 0, "a pickle of plain containers, texts and numbers"),
        ("cache.pkl", 0, "a pickle of plain containers, texts and numbers"),
        ("train.jsonl", 1, "no training picture in an evaluation split"),
        ("sft.jsonl", 1, "no training picture in an evaluation split"),
    }
    assert expected == found
    assert not report["ok"]
    assert not (tmp_path / "executed").exists()


def test_text_output_is_one_line_a_problem(broken: Path, capsys: pytest.CaptureFixture) -> None:
    assert egm(["data", "check", str(broken)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any(
        "train.jsonl:5: expected box with x1 < x2" in line and "inverted [40, 12, 8, 36]" in line for line in lines
    )
    assert lines[-1].startswith("16 problems; ")


def test_a_good_data_set_passes_and_counts_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture(tmp_path, IMAGE)
    refcoco_distribution(tmp_path / "refcoco")
    assert egm(["data", "check", str(tmp_path), "--decode"]) == 0
    output = capsys.readouterr().out
    assert "refcoco val: 3 expressions, expected 10834 (differs)" in output
    assert "no problems; 1 files, 3 usable rows, 1 pictures" in output


def test_nothing_to_check_is_a_problem(tmp_path: Path) -> None:
    assert egm(["data", "check", str(tmp_path)]) == 2
    assert egm(["data", "check", str(tmp_path / "nowhere")]) == 2


def test_convert_flip_leaks_and_filter_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    refs = refcoco_distribution(tmp_path / "refcoco", split="train")
    rows, more, kept, hard = (tmp_path / f"{name}.jsonl" for name in ("rows", "more", "kept", "hard"))
    assert egm(["data", "convert", str(refs), "--kind", "refcoco", "-o", str(rows)]) == 0
    assert egm(["data", "flip", str(rows), "-o", str(more)]) == 0
    assert "3 rows mirrored" in capsys.readouterr().out
    other = "coco/train2014/COCO_train2014_000000000009.jpg"
    evaluation = jsonl(tmp_path / "val.jsonl", generic(split="val", image=other))
    assert egm(["data", "leaks", str(more), "--evaluation", str(evaluation), "-o", str(kept)]) == 0
    names = [json.loads(line)["id"] for line in kept.read_text().splitlines()]
    own = jsonl(tmp_path / "own.jsonl", *({"id": n, "iou": 0.2} for n in names))
    assert egm(["data", "filter", str(kept), "--own", str(own), "--oracle", str(own), "-o", str(hard)]) == 0
    assert "6 left out as unsolvable" in capsys.readouterr().out and hard.read_text() == ""


def test_bad_input_is_one_line_and_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out.jsonl"
    assert egm(["data", "flip", str(tmp_path / "nothing.jsonl"), "-o", str(out)]) == 2
    assert "nothing.jsonl:0: expected a readable file" in capsys.readouterr().err
    assert not out.exists()
