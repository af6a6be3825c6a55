"""Whether a trace may become training text: about the right object, in its language, without errors, preambles, loops,
the drawn mark, its numbers, or a contradiction.

Pure text rules, deliberately strict: a refused trace costs one more request, a bad one is learned.
"""

from __future__ import annotations

import re
from collections import Counter

from egm_edge.data.rows import Row
from egm_edge.expression import MARKER
from egm_edge.grounding import Task
from training.data.flip import is_english

MIN_WORDS, MAX_WORDS = 5, 160
CENTRE_BAND = (0.4, 0.6)  # a centre in here may be called left or right
_ERROR = re.compile(
    r"^\s*(?:analysis failed|error\b|exception\b|traceback|null\s*$)|"
    r"\b(?:i(?:'m| am) sorry|i can(?:not|'t) (?:help|assist|see|view|analy[sz]e)|as an ai|unable to (?:view|see|process|assist))\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\s*(?:sure|certainly|of course|absolutely|okay|ok|great question|as requested|here(?:'s| is| are)|let me|let's|the user|"
    r"i (?:will|need to|have to|am going to|should)|explanation|reasoning|analysis|answer|step 1)\b",
    re.IGNORECASE,
)
_MARK = re.compile(
    r"\bground[- ]truth\b|\bbounding[- ]box(?:es)?\b|\b(?:green|drawn|given|provided|marked|highlighted|outlined|annotated|"
    r"target|indicated|colou?red) (?:box|rectangle|frame|outlines?|border|mark(?:er|ing)?|region|square|area|lines?|highlight|"
    r"object|item|one|person|figure)\b|"
    r"\b(?:highlighted|outlined|marked|annotated|boxed|circled) (?:in|by|with|on)\b(?! (?:the |a )?"
    r"(?:\w+ )?(?:sun\w*|light\w*|lamps?|glow|shadows?|window|trees?|fence|hedge|walls?|hair|snow))|"
    r"\bas (?:marked|highlighted|given|indicated|shown by|outlined)\b|\bannotations?\b|"
    r"\b(?:within|inside|surrounded by|(?:enclosed|framed|bounded) (?:in|by)) (?:the |a )?"
    r"green\b(?! (?:field|grass|leaves))",
    re.IGNORECASE,
)
_BOX_AS_MARK = re.compile(
    r"\b(?:the|this|that|a) (?:box|rectangle) (?:shows?|indicates?|marks?|surrounds?|encloses?|highlights?|is drawn|around|"
    r"covers?|tells?)\b|\b(?:indicated|shown|given|located|specified|pointed out|defined) (?:by|in|within) (?:the|this|that|a) "
    r"(?:box|rectangle|caption)\b|\bcaption\b",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_LIST = re.compile(r"[\[(]\s*\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?){1,3}\s*[\])]")
_COORDINATE = re.compile(r"\bcoordinates?\b|\bpixels?\b|\b[xy][12]?\s*[=:]\s*\d", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:no such|there (?:is|are) no (?!other|others|one else|second|similar|more|further|competing|doubt|need|ambigu|confus|"
    r"occlu|obstruct|overlap)|cannot (?:be )?(?:find|found|locate|located)|can't (?:find|locate)|"
    r"does not (?:exist|appear)|is not (?:present|in the (?:image|picture))|none of the objects)\b",
    re.IGNORECASE,
)
_SIDE = re.compile(
    r"\b(?:on|at|in|to|toward|towards|near|along) the (?:far |very |extreme |lower |upper |bottom |top )?(left|right)"
    r"(?:most|-most)?(?:[- ](?:hand|side|edge|part|half|corner|third|portion))*(?: side)? of the "
    r"(?:image|picture|photo|photograph|frame|scene)\b",
    re.IGNORECASE,
)
_HEIGHT = re.compile(
    r"\b(?:at|in|near|along|toward|towards) the (?:very |extreme |far )?(top|bottom|upper|lower)(?:most)?"
    r"(?:[- ](?:left|right|edge|part|half|corner|third|portion))* of the (?:image|picture|photo|photograph|frame|scene)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?<![a-z])(left|right)(?:most)?(?![a-z])", re.IGNORECASE)
_COLOUR = re.compile(
    r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y)\b(?! (?:box|outline|rectangle))",
    re.IGNORECASE,
)
_SMALL_WORDS = """
    a an the of on in at to from with and or is are was that which who this it its his her their by for near next behind front
    left right leftmost rightmost top bottom upper lower middle center centre far side one ones thing second third first last
    closest farthest largest smallest big small large corner edge above below under over between beside wearing holding standing
    sitting other
"""
_PEOPLE_WORDS = """
    man men guy guys person people woman women lady ladies girl boy kid child dude player batter catcher umpire skier surfer
    adult male female someone worker officer chef baby toddler mother father
"""
_SMALL = frozenset(_SMALL_WORDS.split())
_PEOPLE = frozenset(_PEOPLE_WORDS.split())
LOOP_WORDS, LOOPS = 4, 3


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
    if is_english(row.expression) and not is_english(text):
        return "another language"
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"{words} words"
    if MARKER.search(text) or "```" in text or "bbox_2d" in text:
        return "holds answer syntax"
    if _names_mark(text, row.expression):
        return "names the drawn mark"
    if _PREAMBLE.search(text):
        return "a preamble"
    if _loops(text):
        return "repeats itself"
    if _leaks_box(text, row):
        return "leaks the box"
    if _contradicts(text, row):
        return "contradicts the answer"
    return "about another object" if _other_object(text, row) else ""


def _names_mark(text: str, expression: str) -> bool:
    """The drawn mark, unless the expression itself speaks of such a thing ("the green box")."""
    asked = expression.lower()
    if any(match.group().lower() not in asked for match in _MARK.finditer(text)):
        return True
    return not re.search(r"\b(?:box|rectangle|caption)\b", asked) and bool(_BOX_AS_MARK.search(text))


def _loops(text: str) -> bool:
    """Four words in a row three times over, or a sentence twice."""
    words = re.findall(r"\w+", text.lower())
    runs = Counter(tuple(words[i : i + LOOP_WORDS]) for i in range(len(words) - LOOP_WORDS + 1))
    sentences = Counter(
        part.strip().lower() for part in re.split(r"[.!?]\s+", text.strip(" .!?")) if len(part.split()) > 3
    )
    return max(runs.values(), default=0) >= LOOPS or max(sentences.values(), default=0) > 1


def _other_object(text: str, row: Row) -> bool:
    """Not a word of what was asked for, or its colour replaced by another."""
    said = set(re.findall(r"[a-z]+", text.lower()))
    asked = [word for word in re.findall(r"[a-z]+", row.expression.lower()) if word not in _SMALL and len(word) > 2]
    if not is_english(row.expression) or not asked:
        return False
    if any(word in _PEOPLE for word in asked) and said & _PEOPLE:
        named = True
    else:
        named = any(word in said or any(other.startswith(word[:4]) for other in said) for word in asked)
    colours = {c.lower().replace("e", "a") for c in _COLOUR.findall(row.expression)}
    found = {c.lower().replace("e", "a") for c in _COLOUR.findall(text)}
    return not named or (bool(colours) and bool(found) and not colours & found)


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
    middle = (row.box.y1 + row.box.y2) / 2 / row.size_wh[1]
    high = {"top": middle < CENTRE_BAND[1], "upper": middle < CENTRE_BAND[1]}
    high |= {"bottom": middle > CENTRE_BAND[0], "lower": middle > CENTRE_BAND[0]}
    heights = [match.group(1).lower() for match in _HEIGHT.finditer(text)]
    if heights and not any(high[name] for name in heights) and row.task is Task.MODAL:
        return True
    asked = {side.lower() for side in _WORD.findall(row.expression)}
    said = {side.lower() for side in _WORD.findall(text)}
    return len(asked) == 1 and len(said) == 1 and asked != said
