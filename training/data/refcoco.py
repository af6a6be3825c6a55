"""RefCOCO, RefCOCO+ and RefCOCOg as their authors distribute them (lichengunc/refer): `refs(BY).p` and `instances.json`.

One row a sentence. The pickle is read by `egm_edge.evaluate.plain_pickle`; the annotations' boxes are xywh pixels.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egm_edge.boxes import Box
from egm_edge.errors import EgmError, InputError
from egm_edge.evaluate.plain_pickle import load_plain_pickle
from egm_edge.grounding import Task
from training.data.problems import Problem
from training.data.rows import Row, settled_box, size_from

MAX_INSTANCES_BYTES = 2 << 30
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


def read_refcoco(
    refs_path: Path, problems: list[Problem], *, dataset: str = "", image_folder: str = "coco/train2014"
) -> Iterator[Row]:
    """Rows of one `refs(BY).p`, its `instances.json` beside it.

    Args:
        dataset: "refcoco", "refcoco+" or "refcocog"; "" takes the name of the folder.
        image_folder: where the COCO train2014 pictures lie under the image root.
    """
    try:
        refs = load_plain_pickle(refs_path)
        boxes, pictures = _instances(refs_path.with_name("instances.json"))
        if not isinstance(refs, list):
            raise InputError("a list of references", f"a {type(refs).__name__} in {refs_path}", "check the file")
    except EgmError as error:
        problems.append(Problem(str(refs_path), 0, error.expected, error.found))
        return
    name = dataset or refs_path.parent.name
    for number, ref in enumerate(refs, 1):
        try:
            yield from _rows_of(ref, boxes, pictures, name, image_folder, f"{refs_path}:{number}")
        except EgmError as error:
            problems.append(Problem(str(refs_path), number, error.expected, error.found))
        except (KeyError, TypeError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
            problems.append(Problem(str(refs_path), number, "a reference with its sentences", found))


def _rows_of(
    ref: Any, boxes: dict[int, Any], pictures: dict[int, Any], dataset: str, image_folder: str, origin: str
) -> Iterator[Row]:
    annotation, picture = boxes.get(ref["ann_id"]), pictures.get(ref["image_id"])
    if annotation is None or picture is None:
        what = "ann_id" if annotation is None else "image_id"
        raise InputError(f"{what} {ref[what]} in instances.json", "no such entry", "use the files of one distribution")
    image_wh = size_from(picture["width"], picture["height"])
    x, y, width, height = (float(v) for v in annotation["bbox"])
    if width <= 0 or height <= 0:
        raise InputError("a box xywh with an area", f"{annotation['bbox']}", "drop the reference")
    for sentence in ref["sentences"]:
        yield Row(
            id=f"{dataset}-{sentence['sent_id']}",
            # refs name the file with the annotation's id at its end; instances.json has the picture's own name
            image=f"{image_folder}/{picture['file_name']}",
            image_wh=image_wh,
            expression=sentence["sent"],
            box=settled_box(Box(x, y, x + width, y + height), image_wh, Task.MODAL),
            dataset=dataset,
            split=ref["split"],
            origin=origin,
        )


def _instances(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    values = read_json_object(path)
    try:
        boxes = {annotation["id"]: annotation for annotation in values["annotations"]}
        return boxes, {picture["id"]: picture for picture in values["images"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"COCO annotations and images in {path}", f"{error}", "use the original file") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size.

    Raises:
        InputError: missing, too large, damaged, or not an object.
    """
    if not path.is_file():
        raise InputError(f"{path.name} in {path.parent}", "no such file", "copy the whole distribution")
    if path.stat().st_size > MAX_INSTANCES_BYTES:
        raise InputError(f"{path} of at most {MAX_INSTANCES_BYTES >> 30} GiB", "a larger one", "check the file")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"JSON in {path}", f"{type(error).__name__}: {str(error)[:100]}", "download it again"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"a JSON object in {path}", f"a {type(values).__name__}", "check the file")
    return values
