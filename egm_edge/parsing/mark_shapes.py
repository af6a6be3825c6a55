"""Boxes of an answer that is no well-formed JSON: behind a key, inside a family's box marks, or bare in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from egm_edge.grounding import UnparsableReason
from egm_edge.parsing.absence import means_nothing
from egm_edge.parsing.choice import NO_MATCH, label_match
from egm_edge.parsing.json_shape import LABEL_KEYS, STRICT_KEY, fault_of_key
from egm_edge.parsing.raw import (
    BRACKETED,
    FOUR,
    LISTED,
    MAX_LIST_CHARS,
    PAIRS,
    POINT,
    RawBox,
    bare_four,
    fault_of,
    fours,
    has_point,
    is_cut,
    numbers,
)
from egm_edge.parsing.table_shape import table_boxes

MAX_LABEL_CHARS = 4096
MAX_MARK_CHARS = 4096
MAX_LINE_LABEL_CHARS = 60
MAX_CORRECTED = 4  # boxes that one correction can take back

_S = r"\s{0,8}"
_KEY = re.compile(
    r"(bbox_2d|box_2d|point_2d)[\"']?\s{0,8}[:=]|[\"'](\w{0,20}bbox(?!_?3d)\w{0,8}|bb|box|boxes|bounding_box|coordinates)[\"']\s{0,8}:(?=\s{0,8}[\"']?[\[(]|\s{0,8}[\"']\d)"
    r"|\b(bbox|box)\s?=\s?(?=[\"'\[(])"
)
_KEY_LIST = re.compile(rf"{_S}[\"']?[\[(]{{0,2}}(?:{FOUR}|{PAIRS})(?:[\])}}\"']|(?=,{_S}[\"']))|{LISTED}")
_NEXT_LIST = re.compile(rf"{_S}[\])]?{_S},{_S}{BRACKETED}")
_EMPTY = re.compile(rf"{_S}(?:[\[(]{{1,2}}{_S}[\])]|null\b|None\b|[\"'](?:[Nn]one|null|[Nn]/[Aa]|not found)?[\"'])")
_LABEL_KEY = rf"[\"']?\b(?:{'|'.join(LABEL_KEYS)})[\"']?\s{{0,8}}:\s{{0,8}}([\"'])"
_LABEL_AFTER = re.compile(rf"[\])]{{0,2}}\s{{0,8}},\s{{0,8}}{_LABEL_KEY}")
_LABEL_BEFORE = re.compile(_LABEL_KEY)
_LABEL_END = {quote: re.compile(rf"{quote}\s{{0,8}}(?:[,}}\]]|$)") for quote in "\"'"}
_REF = r"(?:<ref>|<\|(?:object_ref_start|ref)\|>)(?P<ref>[^<]{0,4096})(?:</ref>|<\|object_ref_end\|>|<\|/ref\|>)"
_TAGS = {
    "<box>": "</box>", "<|box_start|>": "<|box_end|>", "<bbox>": "</bbox>", "<|det|>": "<|/det|>", "<boxes>": "</boxes>",
    "<|begin_of_box|>": "<|end_of_box|>", "<bounding_box>": "</bounding_box>",
}  # fmt: skip
FAMILY_TAGS = ("<box>", "<|box_start|>")
_TAG = re.compile("|".join(map(re.escape, _TAGS)))
_REF_OR_TAG = re.compile(f"{_REF}|(?P<tag>{_TAG.pattern})")
_PALIGEMMA = re.compile(r"(?:<loc\d{4}>){4}")
_FLORENCE = re.compile(r"(?:<loc_\d{1,4}>){1,64}")
_TAG_OF_ANY_KIND = re.compile(r"<[^<>]{0,80}>")
_CONNECTIVE = re.compile(  # "<ref>mug</ref> is at <box>", not "<ref>mug</ref> left of <box>"
    r"(?!.*\b(?:of|to|and|or|near|behind|beside|above|over|below|under|by|on|with|than)\b)[^<>\[\](){}.。\n\d]{0,24}",
    re.I,
)
_OTHERS_MARKS = (  # written as a reference before a box
    (re.compile(r"<point_box(?:\s[^>]{0,200}?)??(?:\smention=\"([^\"]{0,200})\")?\s{0,8}>"), r"<ref>\1</ref><box>"),
    (re.compile(r"</point_box>"), "</box>"),
    (
        re.compile(r"<\|box_start\|>([^<]{1,80})<\|box_end\|><\|ref_start\|>([^<]{1,80})<\|ref_end\|>"),
        r"<ref>\2</ref><box>\1</box>",
    ),
)
_PATH = re.compile(rf"\[\s{{0,8}}{POINT}(?:\s{{0,8}},\s{{0,8}}{POINT}){{2,}}")  # a list of points
_MOLMO_POINTS = re.compile(r"<points?\b[^>]{0,400}>")
_QUOTES = r"[\"'`*]{0,3}"
_LINE_LABEL = re.compile(
    rf"(?:^|[\n;；|。])[\s*#>•\-\d.)|]{{0,12}}{_QUOTES}(?P<label>[^\n:：;；|。\[\](){{}}<>\"'`*]{{1,60}}?){_QUOTES}"
    rf"\s?(?P<mark>[:：])?(?:[|=–-])?\s{{0,4}}{_QUOTES}\s?[\[(]?$"
)
_SAME_LIST = re.compile(r"[ \t,，\[\](（）)]{0,8}")
_CLAUSE = re.compile(r"[\n;；。.!?！？|]")
_ABOUT_BOXES = r"bounding box(?:es)?|bbox|box|coordinates?|position|location|region|的|坐标|位置"
_CORRECTION = "wait|actually|correction|on second thought"
_LEADS_IN = re.compile(
    rf"(?:\s{{0,8}}(?:\b(?:there (?:is|are)|and|or|either|while|the|that|of|for|{_CORRECTION})\b"
    rf"|{_ABOUT_BOXES}|和|以及|与|[,，\])）])){{1,8}}",
    re.I,
)
_VERB = re.compile(r"(?<!who )(?<!that )\b(?:is|are|was|were|which)\b", re.IGNORECASE)
_LEADS_UP = re.compile(
    r"(?:\s{0,8}(?:\b(?:is|are|was|it|there|here|located|positioned|situated|found|sits|at|in|with|has|its|the|a|of)\b"
    rf"|{_ABOUT_BOXES}|位于|在|为|是|[:：\[(（])){{1,12}}\s{{0,8}}$",
    re.I,
)
_FIELD = re.compile(r"\s{0,12}(?:#{1,6}|[-*•]|\d{1,3}[.)]|\*\*)")  # a heading or a point of a list
_ALONE = re.compile(r"[\s\d.)*•-]{0,12}")
_SAID_AFTER = re.compile(r"[`*\]\s]{0,4}[:：(–-]\s{0,4}([^\n()\[\]]{1,60}?)[\s).`*]{0,4}(?:\n|$)")
_CORRECTS = re.compile(rf"\b(?:{_CORRECTION})\b", re.IGNORECASE)
_LINE_END = re.compile(r"[\s`*|.,\])。]{0,6}?(?:\n|$|;|；)")


def key_boxes(region: str) -> list[RawBox]:
    """Boxes that directly follow a key of broken JSON, skipping keys inside the label of an earlier box."""
    found: list[RawBox] = []
    at = read_to = 0
    while match := _KEY.search(region, at):
        at = match.end()
        key, rule = match[1] or match[2] or match[3], "bbox_2d" if STRICT_KEY in match.groups() else "other_key"
        if fault := fault_of_key(key):
            found.append(RawBox(rule=rule, fault=fault))
        elif listed := _KEY_LIST.match(region, at):
            lists = [numbers(listed)]
            at = listed.end()
            while following := _NEXT_LIST.match(region, at):
                lists.append(numbers(following))
                at = following.end()
            label = _label_before(region, read_to, match.start())
            if not label:
                label, at = _label_after(region, at)
            read_to = at
            found += [RawBox(values, label, rule) for values in lists]
        elif _EMPTY.match(region, at):
            found.append(RawBox(rule="empty", absent=True))
        else:
            found.append(RawBox(rule=rule, fault=fault_of(region[at : at + MAX_LIST_CHARS + 1])))
    return found


def tag_boxes(region: str) -> list[RawBox]:
    """Boxes inside the marks of a family, several in one mark included; the reference before it is the label."""
    found: list[RawBox] = []
    if "<point_box" in region or "<|ref_start|>" in region:
        for pattern, known in _OTHERS_MARKS:
            region = pattern.sub(known, region)
    label, label_end, at, after_ref = "", -1, 0, False
    while match := _REF_OR_TAG.search(region, at):
        at = match.end()
        tag = match["tag"]
        if tag is None:
            label, label_end, after_ref = match["ref"].strip(), match.end(), True
            continue
        between = region[max(label_end, match.start() - MAX_MARK_CHARS, 0) : match.start()]
        if between.strip() and not (after_ref and _CONNECTIVE.fullmatch(between)):
            label = ""
        after_ref = False
        rule = "box_tag" if tag in FAMILY_TAGS else "other_tag"
        limit = at + MAX_MARK_CHARS
        following = _REF_OR_TAG.search(region, at, limit)
        stop = region.find(_TAGS[tag], at, following.start() if following else limit)
        closed_by = _TAGS[tag] if stop >= 0 else ""
        stop = stop if stop >= 0 else following.start() if following else -1
        content = region[at : stop if stop >= 0 else limit]
        at = stop + len(closed_by) if stop >= 0 else at
        if not content.strip() and following and not closed_by:
            found.append(RawBox(label=label, rule=rule, fault=UnparsableReason.MALFORMED))
            continue
        marked = _in_mark(content, label or _line_label(region, match.start(), at), rule, stop >= 0)
        if not label and between.strip():
            said = _said_before(_TAG_OF_ANY_KIND.sub(" ", between))
            marked = [replace(box, names=(said,)) for box in marked]
        found += marked
        label_end = at
    for match in _FLORENCE.finditer(region):
        label = re.split(r"[<>\n]", region[max(0, match.start() - MAX_LINE_LABEL_CHARS) : match.start()])[-1].strip()
        found += [RawBox(box, label, "other_tag") for box in _located(match.group())] or [
            RawBox(label=label, rule="other_tag", fault=UnparsableReason.MALFORMED)
        ]
    if _PALIGEMMA.search(region):  # <locYYYY><locXXXX>…, of 1024
        found.append(RawBox(rule="other_tag", fault=UnparsableReason.Y_FIRST))
    return found


def _located(tokens: str) -> list[list[int]]:
    """Boxes of a run of location tokens, which are written low corner first; [] for points and outlines of text."""
    values = [int(value) for value in re.findall(r"\d+", tokens)]
    boxes = [values[i : i + 4] for i in range(0, len(values), 4)]
    return boxes if all(len(box) == 4 and box[0] < box[2] and box[1] < box[3] for box in boxes) else []


def _in_mark(content: str, label: str, rule: str, closed: bool) -> list[RawBox]:
    boxes = [RawBox(numbers(match), label, rule) for match in fours(content)]
    plain = bare_four(content) if closed and not boxes else None
    if boxes or plain:
        return boxes or [RawBox(plain or (), label, rule)]
    if means_nothing(content) or (closed and not content.strip()):
        return [RawBox(label=label, rule="empty", absent=True)]
    cut = not closed and fault_of(f"[{content}") is UnparsableReason.CUT
    return [RawBox(label=label, rule=rule, fault=UnparsableReason.CUT if cut else fault_of(content, closed=closed))]


def bare_boxes(region: str) -> list[RawBox]:
    """Lists of exactly four numbers in the text; where several stand in it, what is said before each names its box."""
    if rows := list(table_boxes(region)):
        return rows
    matches = list(fours(_PATH.sub("[(0,0)", _MOLMO_POINTS.sub("", region) if "<point" in region else region)))
    if not matches:
        fault = UnparsableReason.CUT if is_cut(region) else UnparsableReason.POINT if has_point(region) else None
        return [RawBox(rule="bracket_list", fault=fault)] if fault else []
    if len(matches) == 1:
        return [RawBox(numbers(matches[0]), rule="bracket_list")]
    boxes: list[RawBox] = []
    read_to = 0
    for match in matches:
        between = match.string[read_to : match.start()]
        if boxes and _SAME_LIST.fullmatch(between):
            label, names = boxes[-1].label, boxes[-1].names
        else:
            label, names = _line_label(match.string, *match.span()), tuple(_named_by(between, match, first=not read_to))
        if _CORRECTS.search(between):
            recent = boxes[-MAX_CORRECTED:]
            boxes[-MAX_CORRECTED:] = [box for box in recent if not _is_corrected(box, (label, *names))]
        boxes.append(RawBox(numbers(match), label, "bracket_list", names=names))
        read_to = match.end()
    return boxes


def _named_by(between: str, match: re.Match[str], *, first: bool) -> Iterator[str]:
    """What the words around a list call its box: those before it, headings and points above it, else those after it."""
    yield _said_before(between)
    *above, last = between.splitlines() or [""]
    yield from (  # the rest of a line with a box belongs to that box
        line.rpartition(":")[2].strip(" #*-_`•")
        for line in above[0 if first else 1 :][-4:]
        if _FIELD.match(line) and len(line) < 200
    )
    if _ALONE.fullmatch(last) and (after := _SAID_AFTER.match(match.string, match.end())):
        yield after[1]


def _is_corrected(box: RawBox, names: Sequence[str]) -> bool:
    """Whether a later box, called `names`, is of the same thing: one has no name, or they share one."""
    before, after = (list(filter(None, called)) for called in ((box.label, *box.names), names))
    return not before or not after or any(label_match(a, b) != NO_MATCH for a in after for b in before)


def _said_before(text: str) -> str:
    """What the last clause of a text is about: "mug" of "It is red, and the mug is located at"."""
    words = _LEADS_UP.sub("", _CLAUSE.split(text)[-1][-200:]).strip(" \t`*\"',，-–>•#")
    begins = _LEADS_IN.match(words)
    words = words[begins.end() if begins else 0 :].strip()
    is_name = len(words) <= MAX_LINE_LABEL_CHARS and _VERB.search(words) is None  # "mug is left of the cup" names two
    return words if is_name else ""


def _line_label(region: str, start: int, end: int) -> str:
    """What stands before a list: "label: list" anywhere, "label list" or "| label | list |" on a line of its own."""
    named = _LINE_LABEL.search(region[max(0, start - MAX_LINE_LABEL_CHARS - 24) : start])
    if named is None or not (named["mark"] or _LINE_END.match(region, end)):
        return ""
    return named["label"].strip()


def _label_after(region: str, at: int) -> tuple[str, int]:
    """The JSON label that follows a box, "" when none does, and where to read on."""
    opening = _LABEL_AFTER.match(region, at)
    if not opening:
        return "", at
    limit = opening.end() + MAX_LABEL_CHARS
    closing = _LABEL_END[opening[1]].search(region, opening.end(), limit)
    stop = closing.start() if closing else min(len(region), limit)
    return _unescaped(region[opening.end() : stop]), stop


def _label_before(region: str, start: int, mark_at: int) -> str:
    """The JSON label that stands before a box in the same object, not before `start`."""
    before = region[max(start, mark_at - MAX_LABEL_CHARS) : mark_at]
    opening = _LABEL_BEFORE.search(before, max(0, before.rfind("{")))
    closing = _LABEL_END[opening[1]].search(before, opening.end()) if opening else None
    return _unescaped(before[opening.end() : closing.start()]) if opening and closing else ""


def _unescaped(label: str) -> str:
    try:
        value = json.loads(f'"{label}"', strict=False)
    except ValueError:
        return label
    return value if isinstance(value, str) else label
