"""Leak check: no picture of an evaluation split may be trained on, across data sets.

RefCOCO's three sets split the *same* COCO pictures differently, so a training picture of one may be a test picture of
another. Pictures are compared by COCO number where the name has one (mirrored copies included), else by path.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from egm_edge.data.rows import Row

EVALUATION_SPLITS = ("val", "test", "testA", "testB")
_COCO_NUMBER = re.compile(r"(?:^|[_/])(\d{12})(?:_\d+)?\.(?:jpg|jpeg|png|webp)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LeakReport:
    """Training rows whose picture an evaluation split holds.

    Attributes:
        rows: those training rows.
        images_by_split: (data set, split) -> leaked pictures.
    """

    rows: tuple[Row, ...]
    images_by_split: dict[tuple[str, str], int]

    def __str__(self) -> str:
        if not self.rows:
            return "no training picture is in an evaluation split"
        parts = ", ".join(f"{n} of {d} {s}" for (d, s), n in sorted(self.images_by_split.items()))
        return f"{len(self.rows)} training rows show pictures of evaluation splits ({parts})"


def picture_key(image: str) -> str:
    """What two paths of the same picture have in common.

    Example:
        >>> picture_key("coco_flip/train2014/COCO_train2014_000000581857.jpg")
        'coco-000000581857'
    """
    match = _COCO_NUMBER.search(image)
    return f"coco-{match.group(1)}" if match else image.removeprefix("./").replace("coco_flip/", "coco/")


def find_leaks(training: Iterable[Row], evaluation: Iterable[Row]) -> LeakReport:
    """Training rows that show a picture of any evaluation row, whatever data set either is from."""
    splits: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in evaluation:
        splits[picture_key(row.image)].add((row.dataset, row.split))
    leaked = [(row, picture_key(row.image)) for row in training if picture_key(row.image) in splits]
    counts = Counter(split for key in {key for _, key in leaked} for split in splits[key])
    return LeakReport(tuple(row for row, _ in leaked), dict(counts))


def without_leaks(training: Iterable[Row], evaluation: Iterable[Row]) -> tuple[list[Row], LeakReport]:
    """The training rows that may be kept, and what was taken out."""
    rows = list(training)
    report = find_leaks(rows, evaluation)
    leaked = {id(row) for row in report.rows}
    return [row for row in rows if id(row) not in leaked], report
