"""EGM's published jsonl, in all its forms, to rows: training conversations, evaluation rows, generated traces.

The three forms keep their boxes in different frames: conversations hold 0-1000 of width and height, evaluation rows and
traces pixels of the picture. `box_frame` overrides that for files that were converted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from egm_edge.boxes import Box
from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Task
from egm_edge.parsing import parse_answer
from training.data.jsonl import read_objects
from training.data.problems import Problem
from training.data.rows import Row, box_from, settled_box, size_from

PIXELS = "pixels"
NORM1000 = "norm1000"
_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_LOCATE = re.compile(r"Locate (.*?)( amodally)?, output its bbox", re.DOTALL)
_FILE_NAME = re.compile(r"(refcoco[+g]?)[_-](val|testA|testB|test|train)")


def read_egm_jsonl(path: Path, problems: list[Problem], *, box_frame: str | None = None) -> Iterator[Row]:
    """Rows of one file; whatever is wrong is collected in `problems` and passed over.

    Args:
        box_frame: "pixels" or "norm1000" for every box; None takes each form's own.

    Rows without an id of their own get `FILE-LINE`. Data set and split come from file names such as
    `refcoco+_testA.jsonl`; anything else is split "train" when it holds conversations.
    """
    if box_frame not in (None, PIXELS, NORM1000):
        raise InputError("box_frame 'pixels' or 'norm1000'", repr(box_frame), "pass one of the two")
    named = _FILE_NAME.search(path.name)
    dataset, split = named.groups() if named else ("egm", "")
    seen: Counter[str] = Counter()
    for line, values in read_objects(path, problems):
        try:
            row = egm_row(values, f"{path.stem}-{line}", f"{path}:{line}", box_frame)
        except EgmError as error:
            problems.append(Problem(str(path), line, error.expected, error.found))
            continue
        seen[row.id] += 1
        if seen[row.id] > 1:
            problems.append(Problem(str(path), line, "ids that are unique", f"id {row.id!r} again"))
        else:
            yield replace(row, dataset=dataset, split=split or row.split)


def is_egm(values: dict[str, Any]) -> bool:
    """True for an object in one of EGM's forms."""
    return any(key in values for key in ("conversations", "sent", "gt_bbox_absolute"))


def egm_row(values: dict[str, Any], default_id: str, origin: str, box_frame: str | None = None) -> Row:
    """One row from one object of any form.

    Raises:
        InputError: what is wrong with it.
    """
    given = values.get("id", -1)
    common = {"id": default_id if given in (-1, None, "") else str(given), "origin": origin}
    if "gt_bbox_absolute" in values or "gt_bbox_normalized" in values:
        return _trace_row(values, common, box_frame)
    if "bbox" in values:
        return _evaluation_row(values, common, box_frame)
    if "conversations" in values:
        return _conversation_row(values, common, box_frame)
    found = ", ".join(sorted(map(str, values))[:8])
    if "modal_bbox" in values:
        raise InputError("an amodal 'bbox'", f"only 'modal_bbox' (keys {found})", "never score against the visible box")
    raise InputError("'bbox' or 'conversations'", f"keys {found}", "check which file this is")


def _evaluation_row(values: dict[str, Any], common: dict[str, Any], box_frame: str | None) -> Row:
    image_wh = size_from(values.get("width"), values.get("height"))
    modal = values.get("modal_bbox")
    task = Task.AMODAL if modal is not None else Task.MODAL
    frame = box_frame or PIXELS
    return Row(
        image=_text(values, "image"),
        image_wh=image_wh,
        expression=values["sent"] if isinstance(values.get("sent"), str) else _expression_of(_turns(values)),
        box=_box(values["bbox"], frame, image_wh, task),
        task=task,
        modal_box=_box(modal, frame, image_wh, Task.MODAL) if modal is not None else None,
        **common,
    )


def _conversation_row(values: dict[str, Any], common: dict[str, Any], box_frame: str | None) -> Row:
    image_wh = size_from(values.get("width"), values.get("height"))
    turns = _turns(values)
    question = "\n".join(text for speaker, text in turns if speaker in ("human", "user"))
    answer = "\n".join(text for speaker, text in turns if speaker in ("gpt", "assistant"))
    task = Task.AMODAL if re.search(r"\bamodal(ly)?\b", question) else Task.MODAL
    # Amodal bounds also for modal rows, so that an outlying box is reported instead of clipped away.
    parsed = parse_answer(answer, task=Task.AMODAL, in_thought="</think>" in answer and "<think>" not in answer)
    if parsed.box_norm1000 is None:
        raise InputError("a box in the gpt turn", repr(answer[:80]), "mend the row")
    return Row(
        image=_text(values, "image"),
        image_wh=image_wh,
        expression=values["sent"] if isinstance(values.get("sent"), str) else _expression_of(turns),
        box=_box(list(parsed.box_norm1000), box_frame or NORM1000, image_wh, task),
        task=task,
        reasoning=parsed.reasoning,
        split="train",
        **common,
    )


def _trace_row(values: dict[str, Any], common: dict[str, Any], box_frame: str | None) -> Row:
    image_wh = size_from(values.get("image_width"), values.get("image_height"))
    if "gt_bbox_absolute" in values:
        box = _box(values["gt_bbox_absolute"], box_frame or PIXELS, image_wh, Task.MODAL)
    else:
        box = _box(values["gt_bbox_normalized"], box_frame or NORM1000, image_wh, Task.MODAL)
    reasoning = values.get("gpt_analysis", "")
    if not isinstance(reasoning, str) or reasoning.startswith("Analysis failed"):
        raise InputError("a reasoning trace", repr(reasoning)[:80], "generate this trace again")
    return Row(
        image=_text(values, "image_path"),
        image_wh=image_wh,
        expression=_text(values, "question"),
        box=box,
        reasoning=reasoning,
        split="train",
        **common,
    )


def _box(numbers: Any, frame: str, image_wh: tuple[int, int], task: Task) -> Box:
    box = box_from(list(numbers) if isinstance(numbers, (list, tuple)) else numbers, f"a box in {frame}")
    scaled = box if frame == PIXELS else Box.from_norm1000(box.xyxy, *image_wh)
    return settled_box(scaled, image_wh, task)


def _turns(values: dict[str, Any]) -> list[tuple[str, str]]:
    turns = values.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise InputError("'sent', or conversations of {from, value}", repr(turns)[:80], "mend the row")
    return [(str(turn.get("from", "")), turn["value"]) for turn in turns]


def _expression_of(turns: list[tuple[str, str]]) -> str:
    question = "\n".join(text for speaker, text in turns if speaker in ("human", "user"))
    if references := _REF.findall(question):
        return str(references[-1])
    if located := _LOCATE.search(question):
        return located.group(1)
    raise InputError("the expression in <ref> tags or in EGM's own sentence", repr(question[:80]), "add 'sent'")


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"a text under {key!r}", repr(value)[:80], "mend the row")
    return value
