"""`egm data scenes`: rows that `egm evaluate` reads, pictures beside them, the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from egm_edge.data.pictures import find_pictures
from egm_edge.data.readers import load_rows
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from egm_edge.images import load_image
from training.data_cli import main
from training.nano.held_out import write_held_out
from training.nano.suites import EVALUATION_SEED

COUNT = 3
SUITES = ("easy", "modal", "amodal-occluded", "negative")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["scenes", "--count", str(COUNT), "--suites", ",".join(SUITES), "-o", str(folder)]) == 0
    return folder


def test_every_suite_can_be_evaluated(folder: Path) -> None:
    rows = [row for name in SUITES for row in load_rows([folder / f"{name}.jsonl"])]
    pictures = find_pictures(rows, [folder])
    assert len({row.id for row in rows}) == len(pictures) == COUNT * len(SUITES)
    assert {(row.dataset, row.split) for row in rows} == {("tabletop", name) for name in SUITES}
    for row in rows:
        assert load_image(pictures[row.image]).shape == (480, 640, 3)
        assert row.image_wh == (640, 480)
        assert row.task is (Task.AMODAL if row.split == "amodal-occluded" else Task.MODAL)
        assert (row.box is None) == (row.kind == "negative") == (row.split == "negative")
        assert int(row.id.rpartition("-")[2]) > EVALUATION_SEED


def test_the_target_is_where_its_box_says(folder: Path) -> None:
    """Of easy rows: the target's colour differs from the table's somewhere inside the box."""
    for row in load_rows([folder / "easy.jsonl"]):
        assert row.box
        x1, y1, x2, y2 = (round(v) for v in row.box.xyxy)
        inside = load_image(folder / row.image)[y1:y2, x1:x2].reshape(-1, 3).astype(int)
        assert inside.std(0).max() > 8.0


def test_the_same_command_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    (path,) = write_held_out(tmp_path, COUNT, ["modal"])
    assert path.read_bytes() == (folder / "modal.jsonl").read_bytes()
    for picture in sorted((folder / "modal").iterdir()):
        assert picture.read_bytes() == (tmp_path / "modal" / picture.name).read_bytes()


def test_other_seeds_are_other_scenes(tmp_path: Path) -> None:
    def seeds(*options: str) -> set[int]:
        assert main(["scenes", "--count", "2", "--suites", "modal,negative", "-o", str(tmp_path), *options]) == 0
        rows = [row for name in ("modal", "negative") for row in load_rows([tmp_path / f"{name}.jsonl"])]
        return {int(row.id.rpartition("-")[2]) for row in rows}

    sets = [seeds(), seeds("--seed-offset", "1000000"), seeds("--fit"), seeds("--fit", "--seed-offset", "1000000")]
    assert len(set.union(*sets)) == 16
    assert min(sets[0] | sets[1]) > EVALUATION_SEED > max(sets[2] | sets[3])
    with pytest.raises(SystemExit):
        seeds("--seed-offset", "2000000")  # another suite's


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"suites of modal.*'hard'"):
        write_held_out(tmp_path, 1, ["modal", "hard"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder to write to"):
        write_held_out(tmp_path / "file", 1, ["modal"])
