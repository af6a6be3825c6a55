"""EvaluationRow: one expression on one picture with the box it should give. Readers of jsonl files.

Two forms of line are known: EGM's evaluation rows `{image, sent, bbox: [x1, y1, x2, y2] px, height, width}` and this
project's own `{image, expression, box | null, task, ...}`. Knows nothing of models or metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egm_edge.errors import EgmError, InputError
from egm_edge.evaluate.query_kind import query_kind
from egm_edge.grounding import Task
from egm_edge.request import check_expression

MAX_LINE_BYTES = 4 << 20
MAX_COORDINATE_PX = 1e7
PROBLEMS_SHOWN = 3
BoxPx = tuple[float, float, float, float]
_FILE_NAME = re.compile(r"(refcoco[+g]?)[_-](val|testA|testB|test)\b")
_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One row.

    Attributes:
        id: unique in a run.
        image: the picture as the data names it; `egm_edge.evaluate.pictures` finds it on disk.
        image_wh: width and height that the data states, pixels; None when it does not.
        expression: the referring text.
        box: xyxy, pixels of the picture; None when the thing asked for is not there. Of amodal rows the *amodal* box.
        task: modal or amodal.
        dataset, split: where the row is from ("refcoco+", "testA").
        kind: kind of reasoning, from the data or by `query_kind`; "negative" when box is None.
        mirrored: the picture is to be mirrored left to right; box and expression already are.
    """

    id: str
    image: str
    image_wh: tuple[int, int] | None
    expression: str
    box: BoxPx | None
    task: Task
    dataset: str
    split: str
    kind: str
    mirrored: bool = False


def read_jsonl(path: Path, task: Task | None = None) -> list[EvaluationRow]:
    """All rows of one jsonl.

    Args:
        task: overrides the task of every row; None takes the row's own, modal when it does not say.

    Raises:
        InputError: unreadable, empty, or any row unusable; the message counts them and shows the first.
    """
    named = _FILE_NAME.search(path.name)
    dataset, split = named.groups() if named else (path.stem, "all")
    rows: list[EvaluationRow] = []
    problems: list[str] = []
    for number, values in _objects(path):
        try:
            rows.append(_row(values, f"{path.stem}:{number}", dataset, split, task))
        except EgmError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        shown = " | ".join(problems[:PROBLEMS_SHOWN])
        raise InputError(
            f"usable rows in {path}", f"{len(problems)} of {len(problems) + len(rows)} unusable: {shown}", "mend them"
        )
    if not rows:
        raise InputError(f"rows in {path}", "an empty file", "check the file")
    return rows


def box_px(values: Any) -> BoxPx:
    """Four numbers of pictures' size, x1 < x2 and y1 < y2.

    Raises:
        InputError: anything else.
    """
    good = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == 4
    if not good or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= MAX_COORDINATE_PX for v in values
    ):
        raise InputError("a box of four finite numbers, xyxy pixels", repr(values)[:60], "mend the row")
    x1, y1, x2, y2 = (float(v) for v in values)
    if x1 >= x2 or y1 >= y2:
        raise InputError("a box with x1 < x2 and y1 < y2", repr(values)[:60], "order its corners")
    return (x1, y1, x2, y2)


def _row(values: dict[str, Any], default_id: str, dataset: str, split: str, task: Task | None) -> EvaluationRow:
    own = "box" in values
    chosen = task or Task.parse(values.get("task") or (Task.AMODAL if values.get("modal_bbox") else Task.MODAL))
    box_key = "box" if own else "bbox"
    if (
        box_key not in values
    ):  # EGM's own script falls back on the visible box here, and so scores amodal answers wrongly
        found = "only 'modal_bbox'" if "modal_bbox" in values else f"keys {', '.join(sorted(map(str, values))[:8])}"
        raise InputError("a target under 'bbox' or 'box'", found, "give the box to score against, null for none")
    box = None if own and values["box"] is None else box_px(values[box_key])
    expression = check_expression(_expression(values))
    given = values.get("id")
    return EvaluationRow(
        id=default_id if given in (None, "", -1) else str(given),
        image=_text(values, "image"),
        image_wh=_size(values),
        expression=expression,
        box=box,
        task=chosen,
        dataset=str(values.get("dataset") or dataset),
        split=str(values.get("split") or split),
        kind="negative" if box is None else str(values.get("kind") or query_kind(expression)),
        mirrored=values.get("mirrored") is True,
    )


def _expression(values: dict[str, Any]) -> str:
    for key in ("expression", "sent"):
        if isinstance(values.get(key), str):
            return str(values[key])
    turns = values.get("conversations")
    said = (
        " ".join(str(turn.get("value", "")) for turn in turns if isinstance(turn, dict))
        if isinstance(turns, list)
        else ""
    )
    if references := _REF.findall(said):
        return str(references[-1])
    raise InputError("the text under 'expression' or 'sent'", "neither", "mend the row")


def _size(values: dict[str, Any]) -> tuple[int, int] | None:
    if "width" not in values and "height" not in values:
        return None
    width, height = values.get("width"), values.get("height")
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise InputError("width and height in whole pixels", f"{width!r} x {height!r}", "mend the row")
    return (width, height)


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"a text under {key!r}", repr(value)[:60], "mend the row")
    return value


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as stream:
            number = 0
            while raw := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if raw.strip():
                    yield number, _object(raw, path, number)
    except OSError as error:
        raise InputError("a readable data file", f"{path}: {error.strerror or error}", "check the path") from None


def _object(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        if len(raw) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError("one JSON object a line", f"{path}:{number}: {str(error)[:80]}", "mend the line") from None
    if not isinstance(value, dict):
        raise InputError("one JSON object a line", f"{path}:{number}: {type(value).__name__}", "mend the line")
    return value
