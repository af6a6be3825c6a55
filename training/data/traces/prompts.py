"""What a trace is asked with: the picture with the box drawn on it, the box as numbers, and the instruction.

After EGM's recipe (one or two sentences on how to tell the target from what resembles it, written as if the answer were
not known, the drawn mark never mentioned); the wording is ours. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from egm_edge.encoding import jpeg
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from egm_edge.openai import data_url, user_message

MARK_RGB = (0, 255, 0)
MARK_PX = 5
JPEG_QUALITY = 90
SYSTEM = (
    "You are an expert in computer vision and visual grounding. You look at pictures with care and explain precisely how "
    "a described object can be located."
)
_COMMON = (
    "Referring expression: {expression}\n"
    "Target box, x1 y1 x2 y2 on a scale of 0 to 1000: {box}. For your orientation only, the same box is drawn on the "
    "picture.\n"
    "In one or two clear and concise sentences, give the visual reasoning that leads from the expression to this target, "
    "above all what sets it apart from similar objects.{amodal}\n"
    "Write as if the answer were not known yet: a small model will be trained to reason like this. Give no coordinates, "
    "and do not mention the drawn box, its colour, or that anything is marked or given."
)
_AMODAL = (
    " The target may be partly hidden: say what covers it, what its whole shape is, and in which direction and about how "
    "far it goes on behind the cover or beyond the frame."
)


def messages(row: Row, images: Path) -> list[dict[str, Any]]:
    """Chat messages for one row, the picture as a data URL.

    Raises:
        InputError: the row has no box, or its picture cannot be used.
    """
    if row.box is None:
        raise InputError("a row with a box", f"a not-there row {row.id!r}", "ask for traces of rows with boxes only")
    picture = marked_picture(load_picture(row, images), row)
    question = user_message(data_url(jpeg(picture, JPEG_QUALITY), "image/jpeg"), instruction(row))
    return [{"role": "system", "content": SYSTEM}, question]


def instruction(row: Row) -> str:
    """The user text."""
    box = [round(v) for v in row.box_norm1000 or ()]
    amodal = _AMODAL if row.task is Task.AMODAL else ""
    return _COMMON.format(expression=row.expression, box=" ".join(map(str, box)), amodal=amodal)


def request_id(row: Row, model: str, attempt: int) -> str:
    """The same for the same question, in every run: it is what an answer is filed and found under."""
    key = [model, SYSTEM, instruction(row), row.id, row.image, row.mirrored, attempt]
    return hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:32]


def marked_picture(image_rgb: NDArray[np.uint8], row: Row) -> NDArray[np.uint8]:
    """The picture with the box and a caption drawn on a copy of it."""
    import cv2

    canvas = image_rgb.copy()
    if row.box is None:
        return canvas
    x1, y1, x2, y2 = (round(v) for v in row.box.clipped(*row.size_wh).xyxy)
    cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), MARK_RGB, MARK_PX)
    cv2.putText(canvas, "Ground Truth", (x1, max(14, y1 - 8)), cv2.FONT_HERSHEY_SIMPLEX, 0.6, MARK_RGB, 2)
    return canvas
