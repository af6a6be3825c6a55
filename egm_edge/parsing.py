"""Model text to box: the one parser, for every family, task and backend. Never raises, linear in the text.

Knows nothing of images: boxes stay on the model's 0-1000 grid. What counts:

1. Thoughts never give a box. Text before the first `</think>` and every `<think>` … `</think>` is reasoning. A thought that
   is never closed lasts to `<answer>` or to the end; `in_thought` says that the prompt opened one.
2. What is left is the answer: first the part after the last `<answer>`, then all of it.
3. Rules in order, each giving its *last* usable box: `json` (the answer is JSON with `bbox_2d`), `bbox_2d` (that key in
   broken JSON), `box_tag` (`<box>` or `<|box_start|>`) and, where none of those marks stands in the answer, `bracket_list`
   (a bracket list of exactly four numbers).
4. No usable box, but an explicit empty one (`[]`, `"bbox_2d": []`, `<box></box>`, "none"): NOT_FOUND. Otherwise UNPARSABLE.

A usable box has four finite numbers and, after corners are put in order and clipped, a width and a height above zero: a
collapsed or wholly outlying box is no box. Modal boxes are clipped to 0-1000, amodal ones to one frame beyond each side
(-1000 to 2000).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from egm_edge.boxes import NORM1000_MAX
from egm_edge.grounding import Outcome, Task

AMODAL_MARGIN = 1000.0  # norm1000 units beyond each side: a hidden part larger than the frame is no grounding
MAX_JSON_CHARS = 1 << 16
MAX_LABEL_CHARS = 4096

BoxNorm1000 = tuple[float, float, float, float]

# Every quantifier is bounded, so one match attempt costs a constant.
_N = r"[-+]?(?:[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})(?:[eE][-+]?[0-9]{1,3})?"
_S = r"\s{0,8}"
_COMMA = rf"(?:{_S},{_S}|\s{{1,8}})"
_FOUR = rf"{_S}({_N}){_COMMA}({_N}){_COMMA}({_N}){_COMMA}({_N}){_S}"
_OPEN, _CLOSE = r"[\[(]", r"[\])]"
_PAIRS = rf"{_S}({_N}){_COMMA}({_N}){_S}{_CLOSE}{_S},?{_S}{_OPEN}{_S}({_N}){_COMMA}({_N}){_S}"
_LIST = rf"{_S}[\"']?{_OPEN}{{0,2}}(?:{_FOUR}|{_PAIRS})"
_THOUGHT_MARKS = re.compile(r"</?think>|<answer>")
_KEY = re.compile(r"bbox_2d[\"']?\s{0,8}[:=]")
_TAG = re.compile(r"<box>|<\|box_start\|>")
_KEY_LIST = re.compile(_LIST + _CLOSE)
_TAG_LIST = re.compile(_LIST + rf"(?:{_CLOSE}{{1,2}}|{_S}</box>|{_S}<\|box_end\|>)")
_EMPTY = re.compile(rf"{_S}(?:[\[(]{{1,2}}{_S}[\])]|null\b|None\b|</box>|<\|box_end\|>)")
_BRACKETS = re.compile(r"\[([^\[\]]{0,120})\]")
_FOUR_ONLY = re.compile(_FOUR)
_LABEL_AFTER = re.compile(r"[\])]?\s{0,8},\s{0,8}[\"']label[\"']\s{0,8}:\s{0,8}\"")
_LABEL_BEFORE = re.compile(r"\"label\"\s{0,8}:\s{0,8}\"")
_LABEL_END = re.compile(r"\"\s{0,8}(?:[,}\]]|$)")
_REF = re.compile(r"(?:<ref>|<\|object_ref_start\|>)([^<]{0,4096})(?:</ref>|<\|object_ref_end\|>)\s{0,8}$")
_NOTHING = {"[]", "{}", "()", "null", "none", "not found", "n/a", "no match", "no such object"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a model's text says.

    Attributes:
        outcome: FOUND, NOT_FOUND or UNPARSABLE.
        box_norm1000: xyxy on the 0-1000 grid, x1 < x2 and y1 < y2, clipped for its task; set if and only if FOUND.
        label: the label written beside the box, "" when none.
        reasoning: the thoughts, without their tags.
        rule: "json", "bbox_2d", "box_tag" or "bracket_list" for a box, "empty" for NOT_FOUND, "" otherwise.
    """

    outcome: Outcome
    box_norm1000: BoxNorm1000 | None = None
    label: str = ""
    reasoning: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Four numbers, or what stands in their place; `label` is None while it is not looked up yet."""

    numbers: Sequence[Any]
    label: str | None = ""
    mark_at: int = 0


def parse_answer(text: str, *, task: Task = Task.MODAL, in_thought: bool = False) -> Parsed:
    """The last box that the answer gives.

    Args:
        text: everything the model generated, special tokens kept or left out.
        task: decides how far a box may reach beyond the image.
        in_thought: the prompt already opened the thought (PromptSpec.suffix ends with `<think>`).

    Example:
        >>> parse_answer('It is left of it.</think>[{"bbox_2d": [10, 20, 300, 400], "label": "mug"}]').box_norm1000
        (10.0, 20.0, 300.0, 400.0)
    """
    thoughts, answer = _split_thoughts(text, in_thought)
    reasoning = "\n".join(t for t in (t.replace("<think>", "").strip() for t in thoughts) if t)
    marked = answer.rfind("<answer>")
    regions = [answer] if marked < 0 else [answer[marked + len("<answer>") :], answer]
    for region in regions:
        for rule, candidates_of in _RULES.items():
            for candidate in reversed(candidates_of(region)):
                box = _usable_box(candidate.numbers, task)
                if box is not None:
                    label = _label_before(region, candidate.mark_at) if candidate.label is None else candidate.label
                    return Parsed(Outcome.FOUND, box, label, reasoning, rule)
        if _says_nothing(region):
            return Parsed(Outcome.NOT_FOUND, reasoning=reasoning, rule="empty")
    return Parsed(Outcome.UNPARSABLE, reasoning=reasoning)


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


def _from_json(region: str) -> list[_Candidate]:
    """Boxes of an answer that is well-formed JSON, fenced or not: [{"bbox_2d": …}, …] or one such object."""
    body = _json_body(region)
    if body is None or "bbox_2d" not in body:
        return []
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(body)
    except (ValueError, RecursionError):
        return []
    found = []
    for entry in value if isinstance(value, list) else [value]:
        numbers = entry.get("bbox_2d") if isinstance(entry, dict) else None
        if isinstance(numbers, list):
            nested = numbers[0] if len(numbers) == 1 and isinstance(numbers[0], list) else numbers
            label = entry.get("label", "")
            found.append(_Candidate(nested, label if isinstance(label, str) else ""))
    return found


def _json_body(region: str) -> str | None:
    """The region from its first bracket or brace on, bounded; None when there is none."""
    starts = [at for at in (region.find("["), region.find("{")) if at >= 0]
    return region[min(starts) :][:MAX_JSON_CHARS] if starts else None


def _after_marks(region: str, mark: re.Pattern[str], numbers_after: re.Pattern[str]) -> list[_Candidate]:
    """Boxes that directly follow a mark, skipping marks inside the label of an earlier box."""
    found = []
    at = 0
    while match := mark.search(region, at):
        at = match.end()
        if numbers := numbers_after.match(region, at):
            label, at = _label_after(region, numbers.end())
            found.append(_Candidate([g for g in numbers.groups() if g is not None], label, match.start()))
    return found


def _label_after(region: str, at: int) -> tuple[str | None, int]:
    """The JSON label that follows a box (None when none does), and where to read on."""
    opening = _LABEL_AFTER.match(region, at)
    if not opening:
        return None, at
    limit = opening.end() + MAX_LABEL_CHARS
    closing = _LABEL_END.search(region, opening.end(), limit)
    stop = closing.start() if closing else min(len(region), limit)
    return _unescaped(region[opening.end() : stop]), stop


def _label_before(region: str, mark_at: int) -> str:
    """The label that stands before a box: a reference tag, or a JSON label in the same object."""
    before = region[max(0, mark_at - MAX_LABEL_CHARS) : mark_at]
    if reference := _REF.search(before):
        return reference.group(1).strip()
    opening = _LABEL_BEFORE.search(before, max(0, before.rfind("{")))
    closing = _LABEL_END.search(before, opening.end()) if opening else None
    return _unescaped(before[opening.end() : closing.start()]) if opening and closing else ""


def _unescaped(label: str) -> str:
    try:
        value = json.loads(f'"{label}"', strict=False)
    except ValueError:
        return label
    return value if isinstance(value, str) else label


def _from_bracket_lists(region: str) -> list[_Candidate]:
    if _KEY.search(region) or _TAG.search(region):
        return []  # an unusable explicit box is not made up for by a list in a label
    matches = (_FOUR_ONLY.fullmatch(match.group(1)) for match in _BRACKETS.finditer(region))
    return [_Candidate(match.groups()) for match in matches if match]


def _usable_box(numbers: Sequence[Any], task: Task) -> BoxNorm1000 | None:
    values = list(_finite(numbers))
    if len(numbers) != 4 or len(values) != 4:
        return None
    low, high = (0.0, NORM1000_MAX) if task is Task.MODAL else (-AMODAL_MARGIN, NORM1000_MAX + AMODAL_MARGIN)
    x1, y1, x2, y2 = (min(max(v, low), high) for v in values)
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    return box if box[0] < box[2] and box[1] < box[3] else None


def _finite(numbers: Sequence[Any]) -> Iterator[float]:
    for number in numbers:
        if isinstance(number, (int, float, str)) and not isinstance(number, bool):
            try:
                value = float(number)
            except (ValueError, OverflowError):
                continue
            if math.isfinite(value):
                yield value + 0.0  # -0.0 becomes 0.0


def _says_nothing(region: str) -> bool:
    """True for an explicit "there is no such object"."""
    plain = region.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    if plain.removesuffix("</answer>").strip().strip(".").lower() in _NOTHING:
        return True
    return any(_EMPTY.match(region, match.end()) for mark in (_KEY, _TAG) for match in mark.finditer(region))


_RULES: dict[str, Callable[[str], list[_Candidate]]] = {
    "json": _from_json,
    "bbox_2d": partial(_after_marks, mark=_KEY, numbers_after=_KEY_LIST),
    "box_tag": partial(_after_marks, mark=_TAG, numbers_after=_TAG_LIST),
    "bracket_list": _from_bracket_lists,
}
