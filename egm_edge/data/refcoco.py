"""RefCOCO, RefCOCO+ and RefCOCOg as their authors distribute them (lichengunc/refer): `refs(BY).p` and `instances.json`.

One row a sentence. The pickle is read by `egm_edge.data.safe_pickle`; the annotations' boxes are xywh pixels. RefCOCOg's
two ways of splitting may lie in one folder: `refs(umd).p` is "refcocog", `refs(google).p` "refcocog-google".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egm_edge.data.problems import Problem, collected
from egm_edge.data.rows import Row, box_from_xywh, settled_box, size_from
from egm_edge.data.safe_pickle import load_safe_pickle
from egm_edge.errors import InputError
from egm_edge.files import read_json_object
from egm_edge.grounding import Task

# Sentences per split (unc for RefCOCO and RefCOCO+, umd for RefCOCOg); several public manifests agree on them.
EXPECTED_SENTENCES = {
    ("refcoco", "val"): 10_834,
    ("refcoco", "testA"): 5_657,
    ("refcoco", "testB"): 5_095,
    ("refcoco+", "val"): 10_758,
    ("refcoco+", "testA"): 5_726,
    ("refcoco+", "testB"): 4_889,
    ("refcocog", "val"): 4_896,
    ("refcocog", "test"): 9_602,
}
EXPECTED_TRAIN_SENTENCES = {
    ("refcoco", "train"): 120_624,
    ("refcoco+", "train"): 120_191,
    ("refcocog", "train"): 80_512,
}
IMAGE_FOLDER = "coco/train2014"
REFS_FILE = re.compile(r"refs\((unc|umd|google)\)\.p$")


@dataclass(frozen=True, slots=True)
class SplitCount:
    """How many sentences one split holds; `expected` is None where no published number is known."""

    dataset: str
    split: str
    found: int
    expected: int | None

    @property
    def agrees(self) -> bool:
        return self.expected is None or self.found == self.expected

    def __str__(self) -> str:
        wanted = f", expected {self.expected}" if self.expected is not None else ""
        return f"{self.dataset} {self.split}: {self.found} expressions{wanted}{'' if self.agrees else ' (differs)'}"


def split_counts(rows: Iterable[Row]) -> list[SplitCount]:
    """Counts of every split found beside the published ones, in the published order."""
    found = Counter((row.dataset, row.split) for row in rows if not row.mirrored)
    expected = EXPECTED_SENTENCES | EXPECTED_TRAIN_SENTENCES
    known = [key for key in expected if key in found]
    others = sorted(key for key in found if key not in expected)
    return [SplitCount(*key, found[key], expected.get(key)) for key in [*known, *others]]


def read_refcoco(refs_path: Path, problems: list[Problem]) -> Iterator[Row]:
    """Rows of one `refs(BY).p`, its `instances.json` beside it; the data set is named by the folder, and the splitter where it
    is google."""
    splitter = REFS_FILE.search(refs_path.name)
    google = splitter is not None and splitter.group(1) == "google"
    name = refs_path.resolve().parent.name + ("-google" if google else "")
    with collected(problems, refs_path, 0):
        refs = load_safe_pickle(refs_path)
        boxes, pictures = _instances(refs_path.with_name("instances.json"))
        if not isinstance(refs, list):
            raise InputError("a list of references", f"a {type(refs).__name__} in {refs_path}", "check the file")
        fitting = {"expected": "references that fit instances.json"}
        for number, ref in enumerate(refs, 1):
            with collected(problems, refs_path, number, KeyError, TypeError, ValueError, **fitting):
                yield from _rows_of(ref, boxes, pictures, name, f"{refs_path}:{number}")


def _rows_of(ref: Any, boxes: dict[int, Any], pictures: dict[int, Any], dataset: str, origin: str) -> Iterator[Row]:
    annotation, picture = boxes.get(ref["ann_id"]), pictures.get(ref["image_id"])
    if annotation is None or picture is None:
        what = "ann_id" if annotation is None else "image_id"
        found = f"no {what} {ref[what]} there"
        raise InputError("references that fit instances.json", found, "use the files of one distribution")
    image_wh = size_from(picture["width"], picture["height"])
    box = settled_box(box_from_xywh(annotation["bbox"]), image_wh, Task.MODAL)
    for sentence in ref["sentences"]:
        yield Row(
            id=f"{dataset}-{sentence['sent_id']}",
            # refs name the file with the annotation's id at its end; instances.json has the picture's own name
            image=f"{IMAGE_FOLDER}/{picture['file_name']}",
            image_wh=image_wh,
            expression=sentence["sent"],
            box=box,
            dataset=dataset,
            split=str(ref["split"]),
            origin=origin,
        )


def _instances(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    values = read_json_object(path)
    try:
        boxes = {annotation["id"]: annotation for annotation in values["annotations"]}
        return boxes, {picture["id"]: picture for picture in values["images"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"COCO annotations and images in {path}", f"{error}", "use the original file") from None
