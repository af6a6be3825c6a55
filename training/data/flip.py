"""Horizontal flips: box and words mirrored together. Rows whose words cannot be mirrored safely are dropped and counted.

A mirrored picture swaps left and right, clockwise and counter-clockwise, and a person's hands; it turns writing and clock
faces into nonsense, and it changes what "third" counts from unless the words say so. Knows nothing of image files: a
mirrored row is marked, and its picture is mirrored when it is loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from egm_edge.boxes import Box
from egm_edge.data.rows import Row

_SIDED = re.compile(
    r"(?<![a-z])(left|right)(?=(?:er|est|most|hand|handed|side|ward|wards|y|ie)?(?![a-z]))", re.IGNORECASE
)
_TURN = re.compile(r"(?<![a-z])(counter-?|anti-?)?clockwise(?![a-z])", re.IGNORECASE)
_HARMLESS = re.compile(r"\b(?:bright|upright|bright(?:er|est|ly)|fright\w*|straightforward)\b", re.IGNORECASE)
_ORDINAL = re.compile(
    r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|next to last|\d+(?:st|nd|rd|th))\b",
    re.IGNORECASE,
)
_COUNTED_FROM = re.compile(
    r"\bfrom (?:the )?(?:far )?(?:left|right|top|bottom|front|back|camera|viewer)\b", re.IGNORECASE
)
_UNSAFE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("writing or digits", re.compile(r"[0-9\"“”#]|(?<![a-z])'[^']+'(?![a-z])")),
    (
        "writing or digits",
        re.compile(
            r"\b(?:numbers?|letters?|words?|text|says|saying|reads|labell?ed|written|printed|writing|logo|initials|"
            r"spells?|spelling|titled?|named|marked)\b",
            re.IGNORECASE,
        ),
    ),
    ("clock or compass", re.compile(r"\bo'?clock\b|\b(?:north|south|east|west)\w*\b|\bhour hand\b", re.IGNORECASE)),
    (
        "vehicle or stage side",
        re.compile(r"\b(?:driver|passenger)(?:'?s)? side\b|\bstarboard\b|\bport side\b|\bstage (?:left|right)\b", re.I),
    ),
    (
        "right or left as another word",
        re.compile(
            r"\bright (?:next|behind|above|below|under|beneath|beside|besides|in front|before|after|by|near|at|here|there|"
            r"now|on top|against|angle|between|over|around|where|up against|through|outside|inside)\b|"
            r"\b(?:all ?right|alright|right-?side[- ]up|left ?overs?|left behind|left alone|is left|are left|was left|"
            r"has left|been left|only one left)\b",
            re.IGNORECASE,
        ),
    ),
    ("abbreviated side", re.compile(r"(?<![a-z'])(?:l|r|lt|rt|lft|lf|rgt|rite|rght|lefft)(?![a-z'])", re.IGNORECASE)),
)


@dataclass(slots=True)
class FlipReport:
    """How many rows were mirrored, and why the others were not."""

    mirrored: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return (
            f"{self.mirrored} rows mirrored, {sum(self.dropped.values())} dropped{f' ({reasons})' if reasons else ''}"
        )


def unsafe_to_mirror(text: str) -> str:
    """Why these words may not be mirrored; "" when they may.

    Example:
        >>> unsafe_to_mirror("player 23"), unsafe_to_mirror("the third zebra"), unsafe_to_mirror("cup left of the jug")
        ('writing or digits', 'ordinal without a side', '')
    """
    for reason, pattern in _UNSAFE:
        if pattern.search(text):
            return reason
    if _ORDINAL.search(text) and not _COUNTED_FROM.search(text):
        return "ordinal without a side"
    rest = _HARMLESS.sub("", _SIDED.sub("", text))
    return "unknown word with a side" if re.search(r"left|right", rest, re.IGNORECASE) else ""


def mirror_text(text: str) -> str:
    """Left and right, clockwise and counter-clockwise exchanged, capitals kept.

    Example:
        >>> mirror_text("Leftmost mug, turned clockwise, right of the LEFT jug")
        'Rightmost mug, turned counterclockwise, left of the RIGHT jug'
    """
    sided = _SIDED.sub(lambda m: _like("right" if m.group(1).lower() == "left" else "left", m.group(1)), text)
    return _TURN.sub(lambda m: _like("clockwise" if m.group(1) else "counterclockwise", m.group(0)), sided)


def mirror_box(box: Box, width_px: float) -> Box:
    """The box in the mirrored picture.

    Example:
        >>> mirror_box(Box(10, 5, 30, 9), 100)
        Box(x1=70, y1=5, x2=90, y2=9)
    """
    return Box(width_px - box.x2, box.y1, width_px - box.x1, box.y2)


def mirror_row(row: Row) -> Row:
    """The mirrored row, id with `-flip` at its end; safe words are the caller's business."""
    width = row.size_wh[0]
    return replace(
        row,
        id=f"{row.id}-flip",
        expression=mirror_text(row.expression),
        reasoning=mirror_text(row.reasoning),
        box=mirror_box(row.box, width) if row.box else None,
        modal_box=mirror_box(row.modal_box, width) if row.modal_box else None,
        mirrored=not row.mirrored,
    )


def flipped(rows: Iterable[Row]) -> tuple[list[Row], FlipReport]:
    """Mirrored copies of every row that can be mirrored, and the count of the others by reason."""
    report = FlipReport()
    mirrored = []
    for row in rows:
        reason = unsafe_to_mirror(row.expression) or (row.reasoning and unsafe_to_mirror(row.reasoning))
        if reason:
            report.dropped[reason] += 1
        else:
            mirrored.append(mirror_row(row))
            report.mirrored += 1
    return mirrored, report


def _like(word: str, model: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[:1].isupper() else word
