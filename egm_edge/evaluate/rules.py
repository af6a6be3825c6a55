"""How others score the same replies: which box a reply gives, and what counts as right. Pure.

A table is only comparable under the rule that made it. Each rule here is this project's own implementation of what another
project's code does to a reply, its defects included: numbers in a thought, corners out of order, the box of a cut answer.

- `robot`: what a robot gets, see `egm_edge.parsing`; taken from the record.
- `egm`: `verl/scripts/sglang_infer.py` of the EGM repository, `--box_remap scale`; made the published tables of EGM.
- `vlmevalkit`: `RefCOCODataset` of VLMEvalKit with SPLIT_THINK set; `-whole`: without, its default.
- `lmms`: `refcoco_bbox_rec_*` of lmms-eval 0.7 with its default --reasoning_tags; `-whole`: with none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from egm_edge.boxes import Coordinates, iou_xyxy
from egm_edge.evaluate.records import Record

Four = tuple[float, float, float, float]
PixelWH = tuple[int, int]
DEFAULT_RULE = "robot"
_N = r"[+-]?(?:\d*\.\d+|\d+)(?:[eE][+-]?\d+)?"
_EGM_LIST = rf"\[\s*({_N})\s*,\s*({_N})\s*,\s*({_N})\s*,\s*({_N})\s*\]"
_EGM_KEYED = re.compile(rf'"bbox_2d"\s*:\s*{_EGM_LIST}')
_EGM_ANY = re.compile(_EGM_LIST)
_EGM_NUMBER = re.compile(_N)
_KIT_N = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
_KIT_SEPARATOR = r"(?:\s*,\s*|\s+)"
_KIT_LIST = re.compile(rf"\[\s*({_KIT_SEPARATOR.join([f'({_KIT_N})'] * 4)[1:-1]})\s*\]")
_KIT_NUMBER = re.compile(_KIT_N)
_LMMS_N = r"(-?\d+(?:\.\d+)?)"
_LMMS_LIST = re.compile(rf"\[\s*{_LMMS_N},\s*{_LMMS_N},\s*{_LMMS_N},\s*{_LMMS_N}\s*\]")
_LMMS_TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to score replies.

    Attributes:
        name: of `--rule`. source: whose code, in words.
        strict: right means IoU above the threshold, not at or above it.
        box: (reply, width and height of the picture, the model's unit) -> xyxy pixels as that code has them, corners perhaps
            out of order; None without one. None for the robot, whose box stands in the record.
        center_without_box: the code judges the centre of [0, 0, 0, 0] where a reply has no box.
    """

    name: str
    source: str
    strict: bool
    box: Callable[[str, PixelWH, Coordinates], Four | None] | None = None
    center_without_box: bool = False

    def right(self, iou: float, threshold: float = 0.5) -> bool:
        """Whether an IoU counts."""
        return iou > threshold if self.strict else iou >= threshold


def rescored(record: Record, rule: Rule, coordinates: Coordinates = Coordinates.NORM1000) -> Record:
    """The record as a rule reads it: its box and IoU instead of the robot's. A box whose corners are out of order has IoU 0.0:
    all three projects come to that."""
    if rule.box is None:
        return record
    box = rule.box(record.reply, record.image_wh, coordinates)
    iou = None if record.target is None else 0.0 if box is None else iou_xyxy(box, record.target)
    return replace(record, box=box, iou=iou)


def center_inside(record: Record, rule: Rule) -> bool:
    """Whether the centre of the box lies in the target, its edges included."""
    if record.target is None or (record.box is None and not rule.center_without_box):
        return False
    x1, y1, x2, y2 = record.box or (0.0, 0.0, 0.0, 0.0)
    left, top, right, bottom = record.target
    return left <= (x1 + x2) / 2 <= right and top <= (y1 + y2) / 2 <= bottom


def _egm_box(reply: str, image_wh: PixelWH, coordinates: Coordinates) -> Four | None:
    """The first `bbox_2d`, else the first list of four, else the last four numbers, thoughts included; whole pixels."""
    match = _EGM_KEYED.search(reply) or _EGM_ANY.search(reply)
    written = [float(g) for g in (match.groups() if match else _EGM_NUMBER.findall(reply)[-4:])]
    if len(written) < 4:
        return None
    if coordinates is Coordinates.PIXELS:  # --box_remap keep
        return _four(written)
    if coordinates is Coordinates.NORM1:
        written = [v * 1000.0 for v in written]
    x1, y1, x2, y2 = (_egm_pixel(value, side) for value, side in zip(written, (*image_wh, *image_wh), strict=True))
    width, height = image_wh
    if x1 == x2 and width > 1:
        x2 = min(x1 + 1, width - 1)
    if y1 == y2 and height > 1:
        y2 = min(y1 + 1, height - 1)
    return (float(x1), float(y1), float(x2), float(y2))


def _egm_pixel(value: float, side: int) -> int:
    kept = min(max(value, 0.0), 1000.0) if math.isfinite(value) else 0.0
    return max(0, min(round(kept * side / 1000.0), side - 1))


def _kit_box(reply: str, image_wh: PixelWH, coordinates: Coordinates) -> Four | None:
    """The first list of four, commas or blanks between, else the first four numbers; its unit is guessed from their size."""
    match = _KIT_LIST.search(reply)
    written = [float(v) for v in _KIT_NUMBER.findall(match.group() if match else reply)[:4]]
    if len(written) < 4:
        return None
    largest, (width, height) = max(map(abs, written)), image_wh
    if largest <= 1.5:
        written = [v * side for v, side in zip(written, (width, height) * 2, strict=True)]
    elif largest <= 1000:
        written = [v / 1000.0 * side for v, side in zip(written, (width, height) * 2, strict=True)]
    x1, y1, x2, y2 = (min(max(v, 0.0), float(side)) for v, side in zip(written, (width, height) * 2, strict=True))
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _lmms_box(reply: str, image_wh: PixelWH, coordinates: Coordinates) -> Four | None:
    """The first list of four plain numbers with commas. The code wants 0-1 units; the model's own stand for them here."""
    match = _LMMS_LIST.search(reply)
    if match is None:
        return None
    whole = {Coordinates.NORM1: (1.0, 1.0), Coordinates.NORM1000: (1000.0, 1000.0), Coordinates.PIXELS: image_wh}[
        coordinates
    ]
    return _four([float(g) / whole[i % 2] * image_wh[i % 2] for i, g in enumerate(match.groups())])


def _kit_answer(reply: str) -> str:
    return reply.rsplit("</think>", 1)[-1].strip()


def _lmms_answer(reply: str) -> str:
    for begin, end in _LMMS_TAGS:
        while (start := reply.find(begin)) >= 0 and (stop := reply.find(end, start)) >= 0:
            reply = reply[:start] + reply[stop + len(end) :]
        if end in reply and begin not in reply:
            reply = reply.rsplit(end, 1)[-1]
    return reply.strip()


def _four(values: Sequence[float]) -> Four:
    x1, y1, x2, y2 = values
    return (x1, y1, x2, y2)


RULES = {
    rule.name: rule
    for rule in (
        Rule(DEFAULT_RULE, "this project's parser, as a robot gets it", strict=True),
        Rule("egm", "EGM's evaluation script: first bbox_2d, thoughts included", strict=True, box=_egm_box),
        Rule(
            "vlmevalkit", "VLMEvalKit, SPLIT_THINK set: first list after the thought", strict=False,
            box=lambda reply, wh, unit: _kit_box(_kit_answer(reply), wh, unit),
        ),
        Rule(
            "lmms", "lmms-eval bbox_rec: first list after the thought", strict=False,
            box=lambda reply, wh, unit: _lmms_box(_lmms_answer(reply), wh, unit), center_without_box=True,
        ),
        Rule("vlmevalkit-whole", "VLMEvalKit by default: first list, thoughts included", strict=False, box=_kit_box),
        Rule(
            "lmms-whole", "lmms-eval with --reasoning_tags none: first list, thoughts included", strict=False,
            box=_lmms_box, center_without_box=True,
        ),
    )
}  # fmt: skip
