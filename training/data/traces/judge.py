"""Whether a trace may become training text: no errors, no leaked box, no talk of the drawn mark, no contradiction.

Pure text rules, deliberately strict: a refused trace costs one more request, a bad one is learned.
"""

from __future__ import annotations

import re

from egm_edge.data.rows import Row
from egm_edge.expression import MARKER
from egm_edge.grounding import Task

MIN_WORDS, MAX_WORDS = 5, 160
CENTRE_BAND = (0.4, 0.6)  # a centre in here may be called left or right
_ERROR = re.compile(
    r"^\s*(?:analysis failed|error\b|exception\b|traceback|null\s*$)|"
    r"\b(?:i(?:'m| am) sorry|i can(?:not|'t) (?:help|assist|see|view|analy[sz]e)|as an ai|unable to (?:view|see|process|assist))\b",
    re.IGNORECASE,
)
_MARK = re.compile(
    r"\bground[- ]truth\b|\bbounding[- ]box\b|\b(?:green|drawn|given|provided|marked|highlighted|outlined|annotated|target) "
    r"(?:box|rectangle|frame|outline|border|mark|region|square|area)\b|\b(?:highlighted|outlined|marked|annotated|boxed|"
    r"circled) (?:in|by|with|on)\b|\bas (?:marked|highlighted|given|shown by)\b|\bannotation\b",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_LIST = re.compile(r"[\[(]\s*\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?){1,3}\s*[\])]")
_COORDINATE = re.compile(r"\bcoordinates?\b|\bpixels?\b|\b[xy][12]?\s*[=:]\s*\d", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:no such|there is no|there are no|cannot (?:be )?(?:find|found|locate|located)|can't (?:find|locate)|"
    r"does not (?:exist|appear)|is not (?:present|in the (?:image|picture))|none of the objects)\b",
    re.IGNORECASE,
)
_SIDE = re.compile(
    r"\b(?:on|at|in|to|toward|towards|near|along) the (?:far |very |extreme |lower |upper |bottom |top )?(left|right)"
    r"(?:most|-most)?(?:[- ](?:hand|side|edge|part|half|corner|third|portion))*(?: side)? of the "
    r"(?:image|picture|photo|photograph|frame|scene)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?<![a-z])(left|right)(?:most)?(?![a-z])", re.IGNORECASE)


def reject_reason(text: str, row: Row) -> str:
    """Why this trace may not be used for this row; "" when it may.

    Example:
        >>> from egm_edge.boxes import Box
        >>> row = Row("1", "a.jpg", (100, 100), "the red mug", Box(70, 10, 90, 30))
        >>> reject_reason("The green box holds the red mug next to the jug.", row)
        'names the drawn mark'
        >>> reject_reason("Two mugs stand here; the red one, beside the jug, is meant.", row)
        ''
    """
    words = len(text.split())
    if _ERROR.search(text) or not text.strip():
        return "an error or a refusal"
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"{words} words"
    if MARKER.search(text) or "```" in text or "bbox_2d" in text:
        return "holds answer syntax"
    if _MARK.search(text):
        return "names the drawn mark"
    if _leaks_box(text, row):
        return "leaks the box"
    return "contradicts the answer" if _contradicts(text, row) else ""


def _leaks_box(text: str, row: Row) -> bool:
    if _LIST.search(text) or _COORDINATE.search(text):
        return True
    if row.box is None:
        return False
    # Small numbers are counts ("2 mugs"); two of the box's own larger ones are no accident.
    numbers = {round(float(n)) for n in _NUMBERS.findall(text) if float(n) > 12}
    frames = (row.box.xyxy, row.box.to_norm1000(*row.size_wh))
    return any(len(numbers & {round(v) for v in frame}) >= 2 for frame in frames)


def _contradicts(text: str, row: Row) -> bool:
    if row.box is None:
        return not _DENIAL.search(text)
    if _DENIAL.search(text):
        return True
    centre = (row.box.x1 + row.box.x2) / 2 / row.size_wh[0]
    agrees = {"left": centre < CENTRE_BAND[1], "right": centre > CENTRE_BAND[0]}
    claims = [match.group(1).lower() for match in _SIDE.finditer(text)]
    if claims and not any(agrees[side] for side in claims) and row.task is Task.MODAL:
        return True
    asked = {side.lower() for side in _WORD.findall(row.expression)}
    said = {side.lower() for side in _WORD.findall(text)}
    return len(asked) == 1 and len(said) == 1 and asked != said
