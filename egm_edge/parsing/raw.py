"""RawBox: what stands where a box should, before it is judged; and the patterns of four numbers that all shapes share.

Every quantifier is bounded, so one match attempt costs a constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from egm_edge.grounding import UnparsableReason

MAX_LIST_CHARS = 160

_N = r"[-+]?(?:[0-9]{1,12}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?"
_S = r"\s{0,8}"
_COMMA = rf"(?:{_S}[,，、;；]{_S}|\s{{1,8}})"
_OPEN, _CLOSE = r"[\[(（]", r"[\])）]"
_BETWEEN_CORNERS = rf"{_CLOSE}[\s`*]{{0,8}}(?:[,，;-]|–|to|and|至|到)?[\s`*]{{0,8}}{_OPEN}"
_QN = rf"[\"']?({_N})[\"']?"
FOUR = rf"{_S}{_QN}{_COMMA}{_QN}{_COMMA}{_QN}{_COMMA}{_QN}{_S}"
PAIRS = rf"{_S}({_N}){_COMMA}({_N}){_S}{_BETWEEN_CORNERS}{_S}({_N}){_COMMA}({_N}){_S}"
_NAME = r"\b(?:[xXyY][ _-]?(?:[012]|(?i:min|max|left|right|top|bottom|tl|br))|(?i:left|right|top|bottom))"
_IS = r"[\"'*`]{0,3}\s{0,4}[:=>]\s{0,4}[\"'*`]{0,3}"
_THEN = r"(?:</\w{1,16}>\s{0,8}<|[\"'`\s,;|*•-]{0,12}(?:(?:and|to|from)\s){0,2}[\"'\s]{0,2})"
NAMED = rf"(?P<named>{_NAME}{_IS}{_N}(?:{_THEN}{_NAME}{_IS}{_N}){{3}})"  # in any order, as Pascal VOC's elements too
_OVER = rf"(?:{_IS}|\s(?:from|between)\s)"
_TO = r"\s?(?:-|–|to|and)\s?"
SPANS = rf"\b[xX]{_OVER}(?P<x1>{_N}){_TO}({_N}){_THEN}[yY]{_OVER}({_N}){_TO}({_N})"
_NAMED_ONE = re.compile(rf"({_NAME}){_IS}({_N})")
SIZED = rf"\b[xX]{_IS}({_N}){_THEN}[yY]{_IS}({_N}){_THEN}w(?:idth)?{_IS}(?P<w>{_N}){_THEN}h(?:eight)?{_IS}(?P<h>{_N})"
ANGLED = r"(?<!\{)<(\d{1,4})>\s?<(\d{1,4})>\s?<(\d{1,4})>\s?<(\d{1,4})>"
_FIRST, _SECOND = r"(?:(?i:top|upper)[ _-]?(?i:left)|左上)", r"(?:(?i:bottom|lower)[ _-]?(?i:right)|右下)"
_PLAIN = r"[^\[\](){}<>（）]"
_CORNER = rf"{_OPEN}{_S}({_N}){_COMMA}({_N}){_S}{_CLOSE}"
CORNERS = (
    rf"{_FIRST}{_PLAIN}{{0,40}}{_CORNER}[^{{}}<>]{{0,160}}?{_SECOND}{_PLAIN}{{0,40}}{_CORNER}"
    rf"|{_CORNER}{_PLAIN}{{0,30}}\(?{_FIRST}\)?{_PLAIN}{{0,60}}{_CORNER}{_PLAIN}{{0,30}}\(?{_SECOND}"
)
AT_END = rf"(?:^|[:：]){_S}({_N}),\s?({_N}),\s?({_N}),\s?({_N})[.\s]{{0,8}}(?=$|</answer>|<\|im_end\|>)"
LISTED = rf"\s{{1,12}}-\s{{1,4}}({_N})" * 4  # YAML's
BRACKETED = rf"{_OPEN}(?:{FOUR}|{PAIRS}){_CLOSE}"
_ANY_FOUR = re.compile(rf"{BRACKETED}|\{{{FOUR}\}}|{NAMED}|{SIZED}|{SPANS}|{CORNERS}|{ANGLED}|{AT_END}")
_UNBRACKETED = re.compile(FOUR)
POINT = rf"{_OPEN}{_S}{_N}{_COMMA}{_N}{_S}{_CLOSE}"
_POINT = re.compile(rf"{POINT}|\bx{_IS}{_N}{_THEN}y{_IS}{_N}")
_CUT = re.compile(rf"[\s\"'\[(]*{_OPEN}[\s\[\]()0-9.,eE+-]*")


@dataclass(frozen=True, slots=True)
class RawBox:
    """One place where an answer has a box, or should have one.

    Attributes:
        values: what stands there, unchecked; empty where nothing usable does.
        label: beside it, "" when none.
        rule: the shape it was read by.
        absent: it says that there is no box.
        fault: why its shape cannot be a box.
        names: all that its object calls itself, where that is more than the label: a kind, a description, two languages.
    """

    values: Sequence[Any] = ()
    label: str = ""
    rule: str = ""
    absent: bool = False
    fault: UnparsableReason | None = None
    names: tuple[str, ...] = ()


def fours(text: str) -> Iterator[re.Match[str]]:
    """Matches of four numbers in any of the field's notations, bracketed or named."""
    return _ANY_FOUR.finditer(text)


def numbers(match: re.Match[str]) -> list[str]:
    """The four numbers of a match, xyxy."""
    found = [group for group in match.groups() if group is not None]
    if match.re is _ANY_FOUR and match["named"] is not None:
        named = _NAMED_ONE.findall(match["named"])
        across, down = ([value for name, value in named if name[0].lower() in axis] for axis in ("xlr", "ytb"))
        return [across[0], down[0], across[1], down[1]] if len(across) == len(down) == 2 else []
    if match.re is _ANY_FOUR and match["x1"] is not None:
        return [found[0], found[2], found[1], found[3]]
    if match.re is _ANY_FOUR and match["w"] is not None:
        x, y, width, height = map(float, found)
        return [str(x), str(y), str(x + width), str(y + height)]
    return found


def bare_four(text: str) -> list[str] | None:
    """The numbers of a text that is four numbers and nothing else."""
    match = _UNBRACKETED.fullmatch(text)
    return numbers(match) if match else None


def fault_of(text: str, *, closed: bool = False) -> UnparsableReason:
    """Why a text that should be one box's list is none: it ends in the middle, is a point, or is something else."""
    if not closed and len(text) <= MAX_LIST_CHARS and _CUT.fullmatch(text):
        return UnparsableReason.CUT
    return UnparsableReason.POINT if _POINT.search(text[:MAX_LIST_CHARS]) else UnparsableReason.MALFORMED


def is_cut(text: str) -> bool:
    """Whether a text ends within a list of numbers."""
    tail = text[max(text.rfind("["), text.rfind("(")) :][:200] if "[" in text or "(" in text else ""
    return bool(tail) and not re.search(r"[\])]", tail) and _CUT.fullmatch(tail) is not None


def has_point(text: str) -> bool:
    """Whether a text gives a point."""
    return _POINT.search(text) is not None or re.search(r"<points?(?:>|\b[^>]{0,200}\bx1?=)", text) is not None
