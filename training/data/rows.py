"""Row: one referring expression on one picture with its box. The only row type; every adapter ends here.

Knows nothing of file formats beyond its own JSON form, and nothing of models or prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egm_edge.boxes import Box
from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Task
from egm_edge.request import check_expression
from training.data.jsonl import read_objects, write_objects
from training.data.problems import Problem

EDGE_SLACK_PX = 1.0  # COCO's own boxes overhang the picture by rounding
VALIDATION_SPLIT = "val"


@dataclass(frozen=True, slots=True)
class Row:
    """One sample.

    Attributes:
        id: unique within a data set; joins predictions, traces and filters. Never a text comparison.
        image: path of the picture relative to the image root, POSIX.
        image_wh: width and height of the picture, pixels.
        expression: the referring text, as typed.
        box: pixels of the picture; None when the thing asked for is not there. Modal boxes lie inside it.
        task: modal or amodal.
        modal_box: the visible extent beside an amodal box, where the source gives it.
        dataset, split: where it is from ("refcoco+", "testA").
        reasoning: the thought to be learned, "" when there is none.
        mirrored: the picture is to be mirrored left to right when it is loaded; box and expression already are.
        origin: "file:line" it was read from, for messages.
    """

    id: str
    image: str
    image_wh: tuple[int, int]
    expression: str
    box: Box | None
    task: Task = Task.MODAL
    modal_box: Box | None = None
    dataset: str = ""
    split: str = ""
    reasoning: str = ""
    mirrored: bool = False
    origin: str = ""

    def __post_init__(self) -> None:
        try:
            check_expression(self.expression)
        except InputError as error:
            raise InputError(error.expected, f"{error.found} in {self.origin or self.id}", error.mend) from None
        for fact in _box_faults(self):
            raise InputError(fact[0], f"{fact[1]} in {self.origin or self.id}", "mend the row")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; empty fields are left out."""
        values: dict[str, Any] = {
            "id": self.id,
            "image": self.image,
            "width": self.image_wh[0],
            "height": self.image_wh[1],
            "expression": self.expression,
            "box": list(self.box.xyxy) if self.box else None,
            "task": self.task.value,
        }
        optional = {
            "dataset": self.dataset,
            "split": self.split,
            "reasoning": self.reasoning,
            "mirrored": self.mirrored,
        }
        values |= {key: value for key, value in optional.items() if value}
        return values | ({"modal_box": list(self.modal_box.xyxy)} if self.modal_box else {})


def box_from(values: Any, what: str) -> Box:
    """A Box from four JSON numbers, xyxy, corners in order.

    Raises:
        InputError: not four finite numbers, inverted, or without area.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise InputError(f"{what} as [x1, y1, x2, y2]", repr(values)[:80], "mend the row")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise InputError(f"{what} of four finite numbers", repr(values)[:80], "mend the row")
    x1, y1, x2, y2 = (float(v) for v in values)
    if x1 > x2 or y1 > y2:
        raise InputError(f"{what} with x1 < x2 and y1 < y2", f"inverted {list(values)}", "order its corners")
    if x1 == x2 or y1 == y2:
        raise InputError(f"{what} with an area", f"{list(values)}", "drop the row")
    return Box(x1, y1, x2, y2)


def size_from(width: Any, height: Any) -> tuple[int, int]:
    """Width and height in pixels, as positive whole numbers."""
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in (width, height)):
        raise InputError("width and height in pixels", f"{width!r} x {height!r}", "mend the row")
    return (width, height)


def settled_box(box: Box, image_wh: tuple[int, int], task: Task) -> Box:
    """A modal box with overhang of up to a pixel clipped away; anything else unchanged."""
    clipped = box.clipped(*image_wh)
    near = max(abs(a - b) for a, b in zip(box.xyxy, clipped.xyxy, strict=True)) <= EDGE_SLACK_PX
    return clipped if task is Task.MODAL and near and clipped.area_px2 > 0 else box


def row_from_dict(values: dict[str, Any], origin: str, line: int, size: tuple[int, int] | None = None) -> Row:
    """Inverse of `Row.to_dict`. Only image, expression and box must be there; `size` stands in for width and height.

    Raises:
        InputError: what is wrong.
    """
    for key in ("image", "expression"):
        if not isinstance(values.get(key), str):
            raise InputError(f"a text under {key!r}", repr(values.get(key))[:80], "mend the row")
    if "box" not in values:
        raise InputError("a box, or null for a thing that is not there", "no key 'box'", "mend the row")
    task = Task.parse(values.get("task", "modal"))
    image_wh = size if size and "width" not in values else size_from(values.get("width"), values.get("height"))
    box = box_from(values["box"], "box") if values["box"] is not None else None
    modal = values.get("modal_box")
    return Row(
        id=str(values.get("id", f"{Path(origin).stem}-{line}")),
        image=values["image"],
        image_wh=image_wh,
        expression=values["expression"],
        box=settled_box(box, image_wh, task) if box else None,
        task=task,
        modal_box=settled_box(box_from(modal, "modal_box"), image_wh, Task.MODAL) if modal else None,
        dataset=str(values.get("dataset", "")),
        split=str(values.get("split", "")),
        reasoning=str(values.get("reasoning", "")),
        mirrored=values.get("mirrored") is True,
        origin=f"{origin}:{line}",
    )


def read_rows(path: Path, problems: list[Problem]) -> Iterator[Row]:
    """Rows of a jsonl in this module's own form; whatever is wrong is collected."""
    for line, values in read_objects(path, problems):
        try:
            yield row_from_dict(values, str(path), line)
        except EgmError as error:
            problems.append(Problem(str(path), line, error.expected, error.found))


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows atomically; returns how many."""
    return write_objects(path, (row.to_dict() for row in rows))


def validation_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows that may be looked at during training: `val` splits only, never a test split."""
    return [row for row in rows if row.split == VALIDATION_SPLIT]


def _box_faults(row: Row) -> Iterator[tuple[str, str]]:
    if min(row.image_wh) < 1:
        yield "a picture of at least one pixel", f"{row.image_wh}"
    width, height = row.image_wh
    inside = f"a box inside the picture of {width}x{height} pixels"
    for box, task in ((row.box, row.task), (row.modal_box, Task.MODAL)):
        if box is None:
            continue
        if box.area_px2 <= 0:
            yield "a box with an area", f"{box.xyxy}"
        elif task is Task.MODAL and box.clipped(width, height) != box:
            yield inside, f"{box.xyxy}"
        elif box.clipped(width, height).area_px2 <= 0:
            yield "an amodal box that at least touches the picture", f"{box.xyxy}"
