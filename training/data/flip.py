"""Horizontal flips: box and words mirrored together. Rows whose words cannot be mirrored safely are dropped and counted.

A mirrored picture swaps left and right, clockwise and counter-clockwise, and a person's hands; it turns writing and clock
faces into nonsense, and it changes what "third" counts from unless the words say so. Idioms ("right in the middle", "man who
left") name no side and stay. The rules are English: other text is refused unless the caller knows that it names no side.
Knows nothing of image files: a mirrored row is marked, and its picture is mirrored when it is loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from egm_edge.boxes import Box
from egm_edge.data.rows import Row

_SIDED = re.compile(
    r"(?<![a-z])((?:top|bottom|upper|lower|far|mid|middle|front|back|rear)?)(left|right)"
    r"(?=(?:er|est|most|hand|handed|side|ward|wards|y|ie)?(?![a-z]))",
    re.IGNORECASE,
)
_TURN = re.compile(r"(?<![a-z])(counter-?|anti-?)?clockwise(?![a-z])|(?<![a-z])(c|a)?cw(?![a-z])", re.IGNORECASE)
_IDIOM = re.compile(
    r"(?<!the )(?<!far )(?<!top )(?<!bottom )(?<!upper )(?<!lower )\b(?:"
    r"right in (?:the |its |his |her )?(?:exact |very |dead )?(?:middle|cent(?:er|re)|between)\b|"
    r"right[- ](?:angles?|angled|triangles?)\b|right[- ](?:side|way)[- ]up\b|"
    r"(?:who|which|that|has|have|had|just|already) (?:has |have |had |just |already )*left"
    r"(?=\s*(?:$|[.,;]|the (?!left|right)|his |her |their |its |a |an |for |early|home|behind|alone))|"
    r"left (?:his|her|their|its) \w+)",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"\b(?:bright|upright|bright(?:er|est|ly)|fright\w*|straightforward)\b", re.IGNORECASE)
_ORDINAL = re.compile(
    r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|next to last|\d+(?:st|nd|rd|th))\b",
    re.IGNORECASE,
)
_NUMERIC_ORDINAL = re.compile(r"\b\d{1,2}(?:st|nd|rd|th)\b", re.IGNORECASE)
_COUNTED_FROM = re.compile(
    r"\bfrom[- ](?:the[- ])?(?:far[- ]|very[- ])?(?:left|right|top|bottom|front|back|camera|viewer)(?:most)?\b",
    re.IGNORECASE,
)
_FOREIGN_LETTER = re.compile(r"[^\W\d_]")
_FOREIGN_SIDE = re.compile(
    r"\b(?:izquierd\w+|derech[oa]s?|gauche|droite?|links?er?|rechts|linken?|rechten?|sinistr\w+|destr[oa]|esquerd\w+|direit\w+|"
    r"lew\w+ stron\w+|praw\w+ stron\w+|venstre|h[øo]yre|vänster|höger)\b",
    re.IGNORECASE,
)
_FOREIGN_WORD = re.compile(
    r"\b(?:el|los|las|una|unos|del|les|des|du|une|der|das|und|ein|eine|einen|dem|den|von|mit|auf|neben|il|gli|lo|che|della|"
    r"het|een|naast|van|uma|dos|das|com|sur|avec|sous|près|junto|sobre|pod|obok|och|på|og|ved)\b",
    re.IGNORECASE,
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
            r"(?<!the )(?<!far )(?<!top )(?<!bottom )"
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
    text = _IDIOM.sub(" ", text)
    plain = _NUMERIC_ORDINAL.sub(" ", text) if _COUNTED_FROM.search(text) else text
    for reason, pattern in _UNSAFE:
        if pattern.search(plain):
            return reason
    if _ORDINAL.search(text) and not _COUNTED_FROM.search(text):
        return "ordinal without a side"
    rest = _HARMLESS.sub("", _SIDED.sub("", text))
    return "unknown word with a side" if re.search(r"left|right", rest, re.IGNORECASE) else ""


def is_english(text: str) -> bool:
    """False for another script, a side's name in another language, or several of another language's small words.

    Example:
        >>> is_english("the jalapeño on the left"), is_english("la taza a la izquierda"), is_english("左边的杯子")
        (True, False, False)
    """
    letters = _FOREIGN_LETTER.findall(text)
    if any(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters if letter > "\u024f"):
        return False
    foreign = len(_FOREIGN_WORD.findall(text))
    return not _FOREIGN_SIDE.search(text) and foreign < 2 and (foreign == 0 or len(text.split()) > 3)


def mirror_text(text: str) -> str:
    """Left and right, clockwise and counter-clockwise exchanged, capitals and idioms kept.

    Example:
        >>> mirror_text("Leftmost mug, turned clockwise, right of the LEFT jug")
        'Rightmost mug, turned counterclockwise, left of the RIGHT jug'
    """
    parts, at = [], 0
    for idiom in _IDIOM.finditer(text):
        parts += [_mirrored(text[at : idiom.start()]), idiom.group()]
        at = idiom.end()
    return "".join([*parts, _mirrored(text[at:])])


def _mirrored(text: str) -> str:
    sided = _SIDED.sub(
        lambda m: m.group(1) + _like("right" if m.group(2).lower() == "left" else "left", m.group(2)), text
    )
    return _TURN.sub(_turned, sided)


def _turned(match: re.Match[str]) -> str:
    if match.group().lower().endswith("cw"):
        return _like("cw" if match.group(2) else "ccw", match.group())
    return _like("clockwise" if match.group(1) else "counterclockwise", match.group())


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


def flipped(rows: Iterable[Row], *, any_language: bool = False) -> tuple[list[Row], FlipReport]:
    """Mirrored copies of every row that can be mirrored, and the count of the others by reason.

    Args:
        any_language: mirror rows whose text is not English too, their words unchanged: for data that is known to name no
            side.
    """
    report = FlipReport()
    mirrored = []
    for row in rows:
        english = is_english(f"{row.expression} {row.reasoning}")
        reason = next((why for text in (row.expression, row.reasoning) if text and (why := unsafe_to_mirror(text))), "")
        if not english:
            reason = "" if any_language else "not English"
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
