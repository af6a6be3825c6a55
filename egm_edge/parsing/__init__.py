"""Model text to boxes: the one parser, for every family, task and backend. Never raises, linear in the text.

Knows nothing of images. What counts:

1. Thoughts never give a box. Text before the first `</think>` and every `<think>` … `</think>` is reasoning. A thought that
   is never closed lasts to `<answer>` or to the end; `in_thought` says that the prompt opened one.
2. What is left is the answer: first the part after the last `<answer>`, then all of it.
3. Shapes in order: JSON (`json`; `json_other` under another key than `bbox_2d`), nearly JSON and a key of broken JSON
   (`bbox_2d`, `other_key`), marks (`box_tag` for `<box>` and `<|box_start|>`, `other_tag`) and, where none of those stands in
   the answer, lists of four numbers in the text (`bracket_list`); three points and more in a list are a path. The first
   shape with a usable box gives all the candidates.
4. A usable box has four finite numbers on the 0-1000 grid and, after corners are put in order and clipped, a width and a
   height above zero. Modal boxes are clipped to 0, amodal ones to one frame beyond each side (-1000 to 2000). An answer with
   a modal value beyond 1000 is written in pixels, so none of its boxes counts; one with all values up to 1 is in 0-1 units.
5. Which candidate is the answer: `egm_edge.parsing.choice`, the same for every shape.
6. No usable box, but an empty one (`[]`, `null`, `<box></box>`, `[0, 0, 0, 0]`), a flag (`"found": false`) or words that say
   so: NOT_FOUND; denying it of the picture, or of what was asked for by name, holds against a box too. Otherwise UNPARSABLE,
   with its reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from egm_edge.boxes import NORM1000_MAX, Box, Coordinates
from egm_edge.grounding import Candidate, Outcome, Task, UnparsableReason
from egm_edge.parsing.absence import denies_it, means_nothing, says_absent
from egm_edge.parsing.choice import EXACT, NO_MATCH, Match, choose, label_match
from egm_edge.parsing.json_shape import json_boxes
from egm_edge.parsing.mark_shapes import bare_boxes, key_boxes, tag_boxes
from egm_edge.parsing.raw import RawBox

__all__ = ["AMODAL_MARGIN", "BoxNorm1000", "LabelledBox", "Parsed", "parse_answer"]

AMODAL_MARGIN = 1000.0  # norm1000 units beyond each side: a hidden part larger than the frame is no grounding
MAX_CANDIDATES = 64
LARGEST_UNIT = 1.5  # fractions up to here are 0-1 units that overshoot the frame
BoxNorm1000 = tuple[float, float, float, float]
_THOUGHT_MARKS = re.compile(r"</?think>|<answer>")
_OTHER_THOUGHT_MARKS = re.compile(r"[<◁](/?)think(?:ing)?[>▷]")  # Kimi-VL's, and others'
_BEGINS_A_BOX = re.compile(r"[\[{<`]")
_EMPTY_ALONE = re.compile(r"(?:^|[\s`:])(?:\[\s{0,8}\]|\{\s{0,8}\})(?:[\s`.]|$)")
_NO_BOX_VALUES = ((0.0,) * 4, (-1.0,) * 4)


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """One box of an answer: xyxy on the 0-1000 grid, x1 < x2 and y1 < y2, and the label beside it, "" when none."""

    box_norm1000: BoxNorm1000
    label: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a model's text says.

    Attributes:
        outcome: FOUND, NOT_FOUND, AMBIGUOUS or UNPARSABLE.
        box_norm1000: xyxy on the 0-1000 grid, x1 < x2 and y1 < y2, clipped for its task; set if and only if FOUND.
        label: the label written beside the box, "" when none.
        reasoning: the thoughts, without their tags.
        rule: the shape that gave the boxes; "empty" or "absence" (words, flags) for NOT_FOUND, "" for UNPARSABLE.
        candidates: all usable boxes in the order written, the last MAX_CANDIDATES of them; empty unless FOUND or AMBIGUOUS.
        reason: why an answer is UNPARSABLE, None otherwise.
    """

    outcome: Outcome
    box_norm1000: BoxNorm1000 | None = None
    label: str = ""
    reasoning: str = ""
    rule: str = ""
    candidates: tuple[LabelledBox, ...] = ()
    reason: UnparsableReason | None = None

    def candidates_of(self, image_wh: tuple[int, int]) -> tuple[Candidate, ...]:
        """The candidates in pixels of a picture of `image_wh`."""
        return tuple(Candidate(Box.from_norm1000(c.box_norm1000, *image_wh), c.label) for c in self.candidates)


def parse_answer(
    text: str,
    *,
    task: Task = Task.MODAL,
    in_thought: bool = False,
    expression: str = "",
    coordinates: Coordinates = Coordinates.NORM1000,
    image_wh: tuple[int, int] | None = None,
) -> Parsed:
    """The box that the answer gives, and all others it names.

    Args:
        text: everything the model generated, special tokens kept or left out.
        task: decides how far a box may reach beyond the image.
        in_thought: the prompt already opened the thought (PromptSpec.suffix ends with `<think>`).
        expression: what was asked for; decides between several boxes by their labels. "" takes the last.
        coordinates: the unit that the model writes boxes in. image_wh: needed for pixels, of the picture they are of.

    Example:
        >>> parse_answer('It is left of it.</think>[{"bbox_2d": [10, 20, 300, 400], "label": "mug"}]').box_norm1000
        (10.0, 20.0, 300.0, 400.0)
        >>> parse_answer('{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}').reason.value
        'unit_interval'
    """
    if "◁" in text or "<thinking" in text:
        text = _OTHER_THOUGHT_MARKS.sub(r"<\1think>", text)
    if 'bbox_2d\\"' in text:  # JSON within a JSON string
        text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t")
    thoughts, answer = _split_thoughts(text, in_thought)
    reasoning = "\n".join(t for t in (t.replace("<think>", "").strip() for t in thoughts) if t)
    marked = answer.rfind("<answer>")
    regions = [answer] if marked < 0 else [answer[marked + len("<answer>") :], answer]
    unit_wh = _unit_wh(coordinates, image_wh)
    reason = None
    for region in regions:
        parsed = _read(region, task, unit_wh, expression, reasoning)
        if parsed.outcome is not Outcome.UNPARSABLE:
            return parsed
        reason = reason or parsed.reason
    if reason is None:
        reason = UnparsableReason.OPEN_THOUGHT if thoughts and not answer.strip() else UnparsableReason.NO_BOX
    return Parsed(Outcome.UNPARSABLE, reasoning=reasoning, reason=reason)


def _read(region: str, task: Task, unit_wh: tuple[float, float] | None, expression: str, reasoning: str) -> Parsed:
    """One region of the answer; `reason` stays None where nothing in it looks like a box."""
    seen: list[RawBox] = []
    reasons: list[UnparsableReason] = []
    denied = denies_it(_before_boxes(region), expression)
    for boxes_of in _SHAPES:
        if boxes_of is bare_boxes and seen:
            break  # an unusable explicit box is not made up for by a list in a label
        raws = [raw for raw in boxes_of(region) if not (boxes_of is key_boxes and seen)]
        seen += raws
        usable, faults = _judged(raws, task, unit_wh)
        reasons += faults
        if usable and not denied and not _absent_by_name(raws, usable, expression):
            usable = usable[-MAX_CANDIDATES:]
            candidates = tuple(LabelledBox(box, _label(raw, expression)) for raw, box in usable)
            chosen = choose([box for _, box in usable], [(raw.label, *raw.names) for raw, _ in usable], expression)
            rule = usable[-1 if chosen is None else chosen][0].rule
            if chosen is None:
                return Parsed(Outcome.AMBIGUOUS, reasoning=reasoning, rule=rule, candidates=candidates)
            box, label = candidates[chosen].box_norm1000, candidates[chosen].label
            return Parsed(Outcome.FOUND, box, label, reasoning, rule, candidates)
    rule = _absence_rule(region, seen, reasons, denied)
    if rule:
        return Parsed(Outcome.NOT_FOUND, reasoning=reasoning, rule=rule)
    return Parsed(Outcome.UNPARSABLE, reason=reasons[-1] if reasons else None)


def _absent_by_name(raws: Sequence[RawBox], usable: Sequence[tuple[RawBox, BoxNorm1000]], expression: str) -> bool:
    """Whether what was asked for is there without a box, beside boxes of other things: {"mug": [], "cup": [[…]]}."""
    denied = any(raw.absent and _best_match(raw, expression)[0] == EXACT for raw in raws)
    return denied and all(_best_match(raw, expression) == NO_MATCH for raw, _ in usable)


def _best_match(raw: RawBox, expression: str) -> Match:
    return max(label_match(name, expression) for name in (raw.label, *raw.names))


def _label(raw: RawBox, expression: str) -> str:
    """Of an object's names the one that fits the expression best, its label where none does."""
    return max((raw.label, *raw.names), key=lambda name: label_match(name, expression)) if expression else raw.label


def _judged(
    raws: Sequence[RawBox], task: Task, unit_wh: tuple[float, float] | None
) -> tuple[list[tuple[RawBox, BoxNorm1000]], list[UnparsableReason]]:
    usable, faults = [], []
    for raw in raws:
        if raw.absent or means_nothing(raw.label) or tuple(_finite(raw.values)) in _NO_BOX_VALUES:
            continue
        box = raw.fault or _box_or_fault(raw.values, task, unit_wh)
        if isinstance(box, UnparsableReason):
            faults.append(box)
        else:
            usable.append((raw, box))
    # One value in pixels says that its neighbours are pixels as well.
    return ([] if UnparsableReason.BEYOND_GRID in faults else usable), faults


def _box_or_fault(
    numbers: Sequence[Any], task: Task, unit_wh: tuple[float, float] | None
) -> BoxNorm1000 | UnparsableReason:
    written = list(_finite(numbers))
    if len(numbers) != 4 or len(written) != 4:
        return UnparsableReason.MALFORMED
    values = written
    if unit_wh is not None:
        values = [v * NORM1000_MAX / unit_wh[i % 2] for i, v in enumerate(written)]
    elif all(0.0 <= v <= 1.0 for v in values) or (
        max(map(abs, values)) <= LARGEST_UNIT and any(v % 1.0 for v in values)
    ):
        return UnparsableReason.UNIT_INTERVAL
    if task is Task.MODAL and max(values) > NORM1000_MAX:
        return UnparsableReason.BEYOND_GRID
    low, high = (0.0, NORM1000_MAX) if task is Task.MODAL else (-AMODAL_MARGIN, NORM1000_MAX + AMODAL_MARGIN)
    x1, y1, x2, y2 = (min(max(v, low), high) for v in values)
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    return box if box[0] < box[2] and box[1] < box[3] else UnparsableReason.ZERO_SIZE


def _absence_rule(region: str, seen: Sequence[RawBox], reasons: Sequence[UnparsableReason], denied: bool) -> str:
    """The rule by which a region without a usable box says that the thing is not there, "" when it does not."""
    alone = not seen and _EMPTY_ALONE.search(region)
    if alone or any(raw.absent and raw.rule == "empty" for raw in seen) or means_nothing(region):
        return "empty"
    boxless = any(not raw.absent and not raw.fault for raw in seen) and not reasons  # every one of them 0, 0, 0, 0
    if boxless:
        return "empty"
    return "absence" if denied or any(raw.absent for raw in seen) or says_absent(_words(region, seen)) else ""


def _words(region: str, seen: Sequence[RawBox]) -> str:
    """What is prose in a region: what stands before its boxes, all of it where it has none."""
    return _before_boxes(region) if seen else region


def _before_boxes(region: str) -> str:
    begins = _BEGINS_A_BOX.search(region)
    return region[: begins.start()] if begins else region


def _unit_wh(coordinates: Coordinates, image_wh: tuple[int, int] | None) -> tuple[float, float] | None:
    """What the whole width and height are in the model's unit; None on the 0-1000 grid."""
    if coordinates is Coordinates.NORM1000:
        return None
    if coordinates is Coordinates.NORM1:
        return (1.0, 1.0)
    if image_wh is None:
        raise ValueError("image_wh is needed for boxes in pixels")
    return image_wh


def _split_thoughts(text: str, in_thought: bool) -> tuple[list[str], str]:
    """Thoughts, and what is left of the text."""
    opened, closed, last_closed = text.find("<think>"), text.find("</think>"), text.rfind("</think>")
    inside = in_thought or (closed >= 0 and (opened < 0 or closed < opened))
    thoughts: list[str] = []
    answer: list[str] = []
    at = 0
    for mark in _THOUGHT_MARKS.finditer(text):
        kind = mark.group()
        if inside and (kind == "</think>" or (kind == "<answer>" and mark.start() > last_closed)):
            thoughts.append(text[at : mark.start()])
            inside = False
            at = mark.start() if kind == "<answer>" else mark.end()
        elif not inside and kind == "<think>":
            answer.append(text[at : mark.start()])
            inside, at = True, mark.end()
    (thoughts if inside else answer).append(text[at:])
    return thoughts, "".join(answer)


def _finite(numbers: Sequence[Any]) -> Iterator[float]:
    for number in numbers:
        if isinstance(number, (int, float, str)) and not isinstance(number, bool):
            try:
                value = float(number)
            except (ValueError, OverflowError):
                continue
            if math.isfinite(value):
                yield value + 0.0  # -0.0 becomes 0.0


_SHAPES: tuple[Callable[[str], list[RawBox]], ...] = (json_boxes, key_boxes, tag_boxes, bare_boxes)
