"""One object of EGM's published jsonl to a Row: training conversations, evaluation rows, generated traces.

The three forms keep their boxes in different frames: conversations hold 0-1000 of width and height, evaluation rows and
traces pixels of the picture. `box_frame` overrides that for files that were converted.
"""

from __future__ import annotations

import re
from typing import Any

from egm_edge.boxes import Box
from egm_edge.data.rows import Row, box_from, id_from, settled_box, size_from, text_from
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from egm_edge.parsing import parse_answer

PIXELS = "pixels"
NORM1000 = "norm1000"
_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_LOCATE = re.compile(r"Locate (.*?)( amodally)?, output its bbox", re.DOTALL)


def is_egm(values: dict[str, Any]) -> bool:
    """True for an object in one of EGM's forms."""
    return any(key in values for key in ("conversations", "sent", "gt_bbox_absolute", "gt_bbox_normalized"))


def egm_row(
    values: dict[str, Any], default_id: str, origin: str, *, task: Task | None = None, box_frame: str | None = None
) -> Row:
    """One row from one object of any form.

    Args:
        task: instead of what the row says.
        box_frame: "pixels" or "norm1000"; None takes the form's own.

    Raises:
        InputError: what is wrong with it.
    """
    common = {"id": id_from(values, default_id), "origin": origin}
    if "gt_bbox_absolute" in values or "gt_bbox_normalized" in values:
        return _trace_row(values, common, task, box_frame)
    if "bbox" in values or "box" in values:
        return _evaluation_row(values, common, task, box_frame)
    found = ", ".join(sorted(map(str, values))[:8])
    if "modal_bbox" in values:
        raise InputError("an amodal 'bbox'", f"only 'modal_bbox' (keys {found})", "never score against the visible box")
    if "conversations" in values:
        return _conversation_row(values, common, task, box_frame)
    raise InputError("'bbox' or 'conversations'", f"keys {found}", "check which file this is")


def _evaluation_row(values: dict[str, Any], common: dict[str, Any], task: Task | None, box_frame: str | None) -> Row:
    image_wh = size_from(values.get("width"), values.get("height")) if "width" in values or "height" in values else None
    modal, target = values.get("modal_bbox"), values["box" if "box" in values else "bbox"]
    chosen = task or Task.parse(values.get("task") or (Task.MODAL if modal is None else Task.AMODAL))
    frame = box_frame or PIXELS
    return Row(
        image=text_from(values, "image"),
        image_wh=image_wh,
        expression=values["sent"] if isinstance(values.get("sent"), str) else _expression_of(_turns(values)),
        box=_box(target, frame, image_wh, chosen) if target is not None else None,
        task=chosen,
        modal_box=_box(modal, frame, image_wh, Task.MODAL) if modal is not None else None,
        dataset=str(values.get("dataset", "")),
        split=str(values.get("split", "")),
        kind=str(values.get("kind", "")),
        mirrored=values.get("mirrored") is True,
        **common,
    )


def _conversation_row(values: dict[str, Any], common: dict[str, Any], task: Task | None, box_frame: str | None) -> Row:
    image_wh = size_from(values.get("width"), values.get("height"))
    turns = _turns(values)
    question = "\n".join(text for speaker, text in turns if speaker in ("human", "user"))
    answer = "\n".join(text for speaker, text in turns if speaker in ("gpt", "assistant"))
    chosen = task or (Task.AMODAL if re.search(r"\bamodal(ly)?\b", question) else Task.MODAL)
    # Amodal bounds also for modal rows, so that an outlying box is reported instead of clipped away.
    parsed = parse_answer(answer, task=Task.AMODAL, in_thought="</think>" in answer and "<think>" not in answer)
    if parsed.box_norm1000 is None:
        raise InputError("a box in the gpt turn", repr(answer[:80]), "correct the row")
    return Row(
        image=text_from(values, "image"),
        image_wh=image_wh,
        expression=values["sent"] if isinstance(values.get("sent"), str) else _expression_of(turns),
        box=_box(list(parsed.box_norm1000), box_frame or NORM1000, image_wh, chosen),
        task=chosen,
        reasoning=parsed.reasoning,
        split="train",
        **common,
    )


def _trace_row(values: dict[str, Any], common: dict[str, Any], task: Task | None, box_frame: str | None) -> Row:
    image_wh = size_from(values.get("image_width"), values.get("image_height"))
    chosen = task or Task.MODAL
    if "gt_bbox_absolute" in values:
        box = _box(values["gt_bbox_absolute"], box_frame or PIXELS, image_wh, chosen)
    else:
        box = _box(values["gt_bbox_normalized"], box_frame or NORM1000, image_wh, chosen)
    reasoning = values.get("gpt_analysis", "")
    if not isinstance(reasoning, str) or reasoning.startswith("Analysis failed"):
        raise InputError("a reasoning trace", repr(reasoning)[:80], "generate this trace again")
    return Row(
        image=text_from(values, "image_path"),
        image_wh=image_wh,
        expression=text_from(values, "question"),
        box=box,
        task=chosen,
        reasoning=reasoning,
        split="train",
        **common,
    )


def _box(numbers: Any, frame: str, image_wh: tuple[int, int] | None, task: Task) -> Box:
    box = box_from(numbers, f"a box in {frame}")
    if frame == NORM1000:
        if image_wh is None:
            raise InputError("'width' and 'height' of a row with a 0-1000 box", "neither", "add them to the row")
        box = Box.from_norm1000(box.xyxy, *image_wh)
    return settled_box(box, image_wh, task)


def _turns(values: dict[str, Any]) -> list[tuple[str, str]]:
    turns = values.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise InputError("'sent', or conversations of {from, value}", repr(turns)[:80], "correct the row")
    return [(str(turn.get("from", "")), turn["value"]) for turn in turns]


def _expression_of(turns: list[tuple[str, str]]) -> str:
    question = "\n".join(text for speaker, text in turns if speaker in ("human", "user"))
    if references := _REF.findall(question):
        return str(references[-1])
    if located := _LOCATE.search(question):
        return located.group(1)
    raise InputError("the expression in <ref> tags or in EGM's own sentence", repr(question[:80]), "add 'sent'")
