"""Row: one referring expression on one picture with its box. The only row type; every reader ends here.

Knows nothing of file formats beyond its own JSON form, and nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egm_edge.boxes import NORM1000_MAX, Box
from egm_edge.data.jsonl import write_objects
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.grounding import Task

EDGE_SLACK_PX = 1.0  # COCO's own boxes overhang the picture by rounding
MAX_COORDINATE_PX = 1e7


@dataclass(frozen=True, slots=True)
class Row:
    """One sample.

    Attributes:
        id: unique within a data set; joins predictions, traces and filters. Never a text comparison.
        image: the picture as the data names it, a relative POSIX path; `egm_edge.data.pictures` finds it on disk.
        image_wh: width and height of the picture, pixels, upright; None where the data does not say.
        expression: the referring text, as typed.
        box: pixels of the picture; None when the thing asked for is not there. A modal box lies inside it; of amodal rows
            the *amodal* box.
        task: modal or amodal.
        modal_box: the visible extent beside an amodal box, where the source gives it.
        dataset, split: where it is from ("refcoco+", "testA"); "" where the data does not say.
        kind: the data's own word for the kind of expression ("ordinal"), "" when it has none.
        reasoning: the thought to be learned, "" when there is none.
        mirrored: the picture is to be mirrored left to right when it is loaded; box and expression already are.
        origin: "file:line" it was read from, for messages.
    """

    id: str
    image: str
    image_wh: tuple[int, int] | None
    expression: str
    box: Box | None
    task: Task = Task.MODAL
    modal_box: Box | None = None
    dataset: str = ""
    split: str = ""
    kind: str = ""
    reasoning: str = ""
    mirrored: bool = False
    origin: str = ""

    def __post_init__(self) -> None:
        try:
            check_expression(self.expression)
        except InputError as error:
            raise InputError(error.expected, f"{error.found} in {self.origin or self.id}", error.hint) from None
        for expected, found in _box_faults(self):
            raise InputError(expected, f"{found} in {self.origin or self.id}", "correct the row")

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels, where a size is needed.

        Raises:
            InputError: the data does not state it.
        """
        if self.image_wh is None:
            raise InputError(f"'width' and 'height' of row {self.id}", "neither", "add them to the row")
        return self.image_wh

    @property
    def box_norm1000(self) -> tuple[float, float, float, float] | None:
        """The model's side of the box: 0-1000 of width and height, unrounded; None for a thing that is not there."""
        return self.box.to_norm1000(*self.size_wh) if self.box else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; empty fields are left out."""
        size = {"width": self.image_wh[0], "height": self.image_wh[1]} if self.image_wh else {}
        values: dict[str, Any] = {"id": self.id, "image": self.image, **size, "expression": self.expression}
        values |= {"box": list(self.box.xyxy) if self.box else None, "task": self.task.value}
        for key in ("dataset", "split", "kind", "reasoning", "mirrored"):
            if value := getattr(self, key):
                values[key] = value
        return values | ({"modal_box": list(self.modal_box.xyxy)} if self.modal_box else {})


def box_from(values: Any, what: str = "box") -> Box:
    """A Box from four JSON numbers, xyxy, corners in order.

    Raises:
        InputError: not four finite numbers of a picture's size, inverted, or without area.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise InputError(f"{what} as [x1, y1, x2, y2]", f"{repr(values)[:60]}, not four finite numbers", "correct the row")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= MAX_COORDINATE_PX for v in values):
        raise InputError(f"{what} of four finite numbers", repr(values)[:80], "correct the row")
    x1, y1, x2, y2 = (float(v) for v in values)
    if x1 > x2 or y1 > y2:
        raise InputError(f"{what} with x1 < x2 and y1 < y2", f"inverted {list(values)}", "order its corners")
    if x1 == x2 or y1 == y2:
        raise InputError(f"{what} with an area", f"{list(values)}", "drop the row")
    return Box(x1, y1, x2, y2)


def box_from_xywh(values: Any) -> Box:
    """A Box from COCO's x, y, width, height.

    Raises:
        InputError: as `box_from`.
    """
    numbers = list(values) if isinstance(values, (list, tuple)) else values
    if isinstance(numbers, list) and len(numbers) == 4 and all(type(v) in (int, float) for v in numbers):
        x, y, width, height = numbers
        if width <= 0 or height <= 0:
            raise InputError("box xywh with an area", f"{numbers}", "drop the object")
        numbers = [x, y, x + width, y + height]
    return box_from(numbers)


def size_from(width: Any, height: Any) -> tuple[int, int]:
    """Width and height in pixels, as positive whole numbers.

    Raises:
        InputError: anything else.
    """
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in (width, height)):
        raise InputError("width and height in whole pixels", f"{width!r} x {height!r}", "correct the row")
    return (width, height)


def settled_box(box: Box, image_wh: tuple[int, int] | None, task: Task) -> Box:
    """A modal box with overhang of up to a pixel clipped away; anything else unchanged."""
    if task is not Task.MODAL or image_wh is None:
        return box
    clipped = box.clipped(*image_wh)
    near = max(abs(a - b) for a, b in zip(box.xyxy, clipped.xyxy, strict=True)) <= EDGE_SLACK_PX
    return clipped if near and clipped.area_px2 > 0 else box


def row_from_dict(values: dict[str, Any], default_id: str, origin: str, task: Task | None = None) -> Row:
    """Inverse of `Row.to_dict`. Only image, expression and box (or bbox) must be there.

    Args:
        default_id: for a row without an id of its own.
        task: instead of the row's own.

    Raises:
        InputError: what is wrong.
    """
    chosen = task or Task.parse(values.get("task", "modal"))
    image_wh = size_from(values.get("width"), values.get("height")) if "width" in values or "height" in values else None
    key = "box" if "box" in values else "bbox"
    if key not in values:
        found = f"keys {', '.join(sorted(map(str, values))[:8])}"
        raise InputError("a target under 'box' or 'bbox'", found, "give the box, or null for a thing that is not there")
    modal = values.get("modal_box")
    return Row(
        id=id_from(values, default_id),
        image=text_from(values, "image"),
        image_wh=image_wh,
        expression=text_from(values, "expression"),
        box=settled_box(box_from(values[key]), image_wh, chosen) if values[key] is not None else None,
        task=chosen,
        modal_box=settled_box(box_from(modal, "modal_box"), image_wh, Task.MODAL) if modal else None,
        dataset=str(values.get("dataset", "")),
        split=str(values.get("split", "")),
        kind=str(values.get("kind", "")),
        reasoning=str(values.get("reasoning", "")),
        mirrored=values.get("mirrored") is True,
        origin=origin,
    )


def id_from(values: dict[str, Any], default_id: str) -> str:
    """A row's own id; EGM's files have -1 where there is none."""
    given = values.get("id", -1)
    return default_id if given in (-1, None, "") else str(given)


def text_from(values: dict[str, Any], key: str) -> str:
    """The text under a key.

    Raises:
        InputError: none there.
    """
    value = values.get(key)
    if not isinstance(value, str) or "\0" in value or (not value and key != "expression"):
        raise InputError(f"a text under {key!r}", repr(value)[:80], "correct the row")
    return value


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows atomically; returns how many."""
    return write_objects(path, (row.to_dict() for row in rows))


def _box_faults(row: Row) -> Iterator[tuple[str, str]]:
    for box, task in ((row.box, row.task), (row.modal_box, Task.MODAL)):
        if box is None:
            continue
        if box.area_px2 <= 0:
            yield "a box with an area", f"{box.xyxy}"
        elif max(box.xyxy) <= 1.0 and min(box.xyxy) >= 0.0 and row.image_wh != (1, 1):
            yield "a box in pixels", f"{box.xyxy}, which is in 0-1 units"
        elif row.image_wh is None:
            continue
        elif task is Task.MODAL and box.clipped(*row.image_wh) != box:
            unit = ", perhaps in 0-1000 units" if max(box.xyxy) <= NORM1000_MAX and min(box.xyxy) >= 0.0 else ""
            yield f"a box inside the picture of {row.image_wh[0]}x{row.image_wh[1]} pixels", f"{box.xyxy}{unit}"
        elif box.clipped(*row.image_wh).area_px2 <= 0:
            yield "an amodal box that at least touches the picture", f"{box.xyxy}"
