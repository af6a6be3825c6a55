"""`egm data convert` and `split` on files written in the public formats' own structure, with counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from egm_edge.boxes import Box
from egm_edge.cli import main as egm
from egm_edge.data.problems import Problem
from egm_edge.data.readers import load_rows
from egm_edge.errors import InputError
from tests.training_data.data_files import generic, jsonl, picture, refcoco_distribution
from training.data.grounding_json import read_lisa, read_mdetr
from training.data.hf_parquet import read_hf_parquet
from training.data.sources import convert
from training.data.splits import by_split

BOX = Box(8.0, 12.0, 40.0, 36.0)


def lmms_lab(folder: Path, *names: str) -> Path:
    """Parquet files as lmms-lab/RefCOCO has them: two objects each, the second with three expressions."""
    import pyarrow as pa
    from pyarrow import parquet

    data = picture(folder.parent / "raw", "x.jpg").read_bytes()
    folder.mkdir(parents=True)
    for name in names:
        lines = [
            {
                "question_id": str(number),
                "image": {"bytes": data, "path": None},
                "question": "Please carefully observe the area circled in the image and come up with a caption for the area.",
                "answer": [f"mug {i}" for i in range(1 + 2 * number)],
                "segmentation": [8.0, 12.0, 40.0, 12.0, 40.0, 36.0],
                "bbox": [8.0, 12.0, 32.0, 24.0],
                "iscrowd": 0,
                "file_name": f"COCO_train2014_00000058185{number}_16.jpg",
            }
            for number in (0, 1)
        ]
        schema = pa.schema(
            [
                ("question_id", pa.string()),
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("question", pa.string()),
                ("answer", pa.list_(pa.string())),
                ("segmentation", pa.list_(pa.float32())),
                ("bbox", pa.list_(pa.float32())),
                ("iscrowd", pa.int8()),
                ("file_name", pa.string()),
            ]
        )
        parquet.write_table(pa.Table.from_pylist(lines, schema=schema), folder / name)
    return folder


def test_lmms_labs_parquet_with_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = lmms_lab(tmp_path / "RefCOCOplus" / "data", "val-00000-of-00002.parquet", "testA-00000-of-00001.parquet")
    out = tmp_path / "rows.jsonl"
    command = [
        "convert",
        str(source),
        "--kind",
        "refcoco-parquet",
        "-o",
        str(out),
        "--pictures",
        str(tmp_path / "images"),
    ]
    assert egm(["data", *command]) == 0
    assert "8 rows kept, 0 passed over" in capsys.readouterr().out
    rows = load_rows([out])
    assert [row.split for row in rows] == ["testA"] * 4 + ["val"] * 4 and {row.dataset for row in rows} == {"refcoco+"}
    assert {row.box for row in rows} == {BOX}
    assert rows[0].image == "coco/train2014/COCO_train2014_000000581850.jpg"
    assert egm(["data", "check", str(out.parent), "--images", str(tmp_path / "images")]) == 0


def test_parquet_that_is_damaged_or_another(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    source = lmms_lab(tmp_path / "refcoco", "val-00000-of-00001.parquet") / "val-00000-of-00001.parquet"
    data = bytearray(source.read_bytes())
    data[40:400] = bytes(360)
    (tmp_path / "torn.parquet").write_bytes(data)
    lines = parquet.read_table(source).to_pylist()
    lines[0] |= {"answer": "a mug", "image": b"no struct"}
    columns = {name: [line[name] for line in lines[:1]] for name in lines[0]}
    parquet.write_table(pa.table(columns), tmp_path / "plain.parquet")
    for name, line in (("torn", 0), ("plain", 1)):
        problems: list[Problem] = []
        assert list(read_hf_parquet(tmp_path / f"{name}.parquet", problems, Counter())) == []
        assert [(p.file, p.line) for p in problems] == [(str(tmp_path / f"{name}.parquet"), line)]


def test_a_kill_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lmms_lab(tmp_path / "refcoco", "val-00000-of-00001.parquet") / "val-00000-of-00001.parquet"
    out = tmp_path / "out"
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        list(read_hf_parquet(source, [], Counter(), pictures=out))
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("shapes", [[5], ["target"], [None], {"a": 1}])
def test_lists_that_hold_no_objects(tmp_path: Path, shapes: Any) -> None:
    picture(tmp_path, "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps({"text": ["the mug"], "shapes": shapes}))
    (tmp_path / "m.json").write_text(json.dumps({"images": [], "annotations": shapes}))
    for read, name in ((read_lisa, "a.json"), (read_mdetr, "m.json")):
        problems: list[Problem] = []
        assert list(read(tmp_path / name, problems, Counter())) == [] and len(problems) == 1


def odvg() -> list[dict[str, Any]]:
    regions = [{"bbox": [8, 12, 40, 36], "phrase": "the red mug"}, {"bbox": [1, 2, 9, 9], "phrase": "a chair"}]
    twins = [*regions, {"bbox": [20, 2, 30, 9], "phrase": "A chair"}]
    picture = {"filename": "a.jpg", "height": 48, "width": 64}
    detection = {"instances": [{"bbox": [1, 2, 3, 4], "label": 0, "category": "cup"}]}
    return [
        picture | {"grounding": {"caption": "the red mug near a chair", "regions": twins}},
        picture | {"filename": "b.jpg", "grounding": {"caption": "the red mug near a chair", "regions": regions}},
        picture | {"detection": detection},
    ]


def test_odvg_keeps_phrases_that_name_one_region(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = jsonl(tmp_path / "flickr_train_vg.jsonl", *odvg())
    found = convert([source], "odvg")
    assert [row.expression for row in found.rows] == ["the red mug", "the red mug", "a chair"]
    assert found.rows[0].box == BOX and {row.split for row in found.rows} == {"train"}
    assert str(found) == (
        "3 rows kept, 3 passed over (50% of what is there); 2 phrases that name several regions; "
        "1 lines of detection, without phrases"
    )


def test_shikras_rec_lines(tmp_path: Path) -> None:
    line = {
        "img_path": "train2014/COCO_train2014_000000000001.jpg",
        "expression": "red mug",
        "bbox": [8.0, 12.0, 40.0, 36.0],
    }
    line |= {"dataset_name": "refcocog", "height": 48, "width": 64}
    found = convert([jsonl(tmp_path / "REC_refcocog_umd_test.jsonl", line, line)], "shikra")
    assert [(row.box, row.dataset, row.split) for row in found.rows] == [(BOX, "refcocog", "test")] * 2


def test_mdetrs_captioned_images(tmp_path: Path) -> None:
    image = {"file_name": "COCO_train2014_000000000001.jpg", "height": 48, "width": 64, "original_id": 1}
    image |= {"caption": "red mug", "dataset_name": "refcoco", "tokens_negative": [[0, 7]]}
    annotation = {"area": 768.0, "iscrowd": 0, "category_id": 1, "bbox": [8.0, 12.0, 32.0, 24.0]}
    annotation |= {"tokens_positive": [[0, 7]], "original_id": 9}
    values = {
        "info": [], "licenses": [], "categories": [{"id": 1, "name": "object"}],
        "images": [image | {"id": 0}, image | {"id": 1, "caption": "two mugs"}],
        "annotations": [annotation | {"id": 0, "image_id": 0}, *(annotation | {"id": n, "image_id": 1} for n in (1, 2))],
    }  # fmt: skip
    path = tmp_path / "finetune_refcoco_train.json"
    path.write_text(json.dumps(values))
    found = convert([path], "mdetr")
    assert [(row.expression, row.box, row.split) for row in found.rows] == [("red mug", BOX, "train")]
    assert found.skipped.total() == 2


def test_lisas_folders(tmp_path: Path) -> None:
    folder = tmp_path / "ReasonSeg" / "val"
    picture(folder, "1.jpg")
    shapes = [
        {"label": "target", "shape_type": "polygon", "points": [[8, 12], [30, 12], [30, 36]]},
        {"label": "target", "shape_type": "polygon", "points": [[20, 20], [40, 20], [40, 36]]},
        {"label": "ignore", "shape_type": "polygon", "points": [[0, 0], [60, 0], [60, 40]]},
    ]
    (folder / "1.json").write_text(
        json.dumps({"text": ["what one drinks from", "the mug"], "is_sentence": True, "shapes": shapes})
    )
    found = convert([tmp_path / "ReasonSeg"], "lisa")
    assert [(row.expression, row.box, row.split) for row in found.rows] == [
        ("what one drinks from", BOX, "val"),
        ("the mug", BOX, "val"),
    ]


def test_tao_amodal_and_cocoa_cls_take_category_names(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "baseball_bat", "synset": "bat.n.05"}, {"id": 4, "name": "car_(automobile)"}]
    tao = {
        "categories": categories, "videos": [{"id": 1, "name": "val/YFCC100M/v_1"}],
        "images": [{"id": 7, "video_id": 1, "file_name": "val/YFCC100M/v_1/frame0001.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "track_id": 1, "bbox": [0, 2, 20, 28], "amodal_bbox": [-4, 2, 24, 28]},
            *({"id": n, "image_id": 7, "category_id": 4, "bbox": [1, 2, 9, 9], "amodal_bbox": [1, 2, 9, 9]} for n in (2, 3)),
        ],
    }  # fmt: skip
    (tmp_path / "tao").mkdir()
    (tmp_path / "tao" / "validation.json").write_text(json.dumps(tao))
    found = convert([tmp_path / "tao"], "coco-amodal")
    assert [(row.expression, row.split, row.box) for row in found.rows] == [("baseball bat", "val", Box(-4, 2, 20, 30))]
    assert found.skipped["objects that share their name with another"] == 2
    cls = {
        "categories": [{"id": 1, "name": "cup"}],
        "images": [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [-4, 2, 24, 28], "inmodal_bbox": [0, 2, 20, 28]}
        ],
    }
    path = tmp_path / "COCO_amodal_val2014_with_classes.json"
    path.write_text(json.dumps(cls))
    (row,) = convert([path], "coco-amodal").rows
    assert (row.expression, row.split, row.modal_box) == ("cup", "val", Box(0, 2, 20, 30))


def test_a_converted_test_split_does_not_train(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for split in ("train", "testA"):
        refcoco_distribution(tmp_path / split / "refcoco", split=split)
    assert egm(["data", "convert", str(tmp_path / "testA"), "--kind", "refcoco", "-o", str(tmp_path / "a.jsonl")]) == 0
    assert egm(["data", "convert", str(tmp_path / "train"), "--kind", "refcoco", "-o", str(tmp_path / "t.jsonl")]) == 0
    both = jsonl(tmp_path / "both.jsonl", *(line for name in "at" for line in (tmp_path / f"{name}.jsonl").open()))
    text = both.read_text().replace('"refcoco-', '"x-', 3)
    both.write_text(text)
    assert egm(["data", "split", str(both), "-o", str(tmp_path / "splits")]) == 0
    assert sorted(path.name for path in (tmp_path / "splits").iterdir()) == ["testA.jsonl", "train.jsonl"]
    assert {row.split for row in load_rows([tmp_path / "splits" / "train.jsonl"])} == {"train"}


def test_val_is_taken_by_picture_and_stays_the_same(tmp_path: Path) -> None:
    rows = load_rows([
        jsonl(tmp_path / "r.jsonl", *(generic(id=f"{n}-{i}", image=f"p{n}.jpg", split="train") for n in range(200) for i in (0, 1)))
    ])  # fmt: skip
    parts = by_split(rows, 0.1)
    pictures = {name: {row.image for row in part} for name, part in parts.items()}
    assert not pictures["train"] & pictures["val"] and 10 <= len(pictures["val"]) <= 32
    assert by_split(rows, 0.1) == parts
    with pytest.raises(InputError, match="a split on every row"):
        by_split([*rows, load_rows([jsonl(tmp_path / "n.jsonl", generic(id="n", split=""))])[0]])


def test_a_conversion_that_keeps_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = jsonl(tmp_path / "d.jsonl", odvg()[2])
    assert egm(["data", "convert", str(source), "--kind", "odvg", "-o", str(tmp_path / "o.jsonl")]) == 2
    assert "found none (1 lines of detection" in capsys.readouterr().err and not (tmp_path / "o.jsonl").exists()
    with pytest.raises(InputError, match=r"files \*\.parquet under"):
        convert([tmp_path], "refcoco-parquet")


def test_bad_rows_refuse_all_or_are_counted(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "r.jsonl", generic(), generic(id="b", box=[9, 9, 1, 1]))
    with pytest.raises(InputError, match="x1 < x2"):
        convert([source], "rows")
    assert (
        str(convert([source], "rows", skip_bad=True))
        == "1 rows kept, 1 passed over (50% of what is there); 1 unusable ones"
    )
