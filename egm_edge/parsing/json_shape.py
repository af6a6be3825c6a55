"""Boxes of an answer that is JSON: one value, several one after another, or several fenced blocks.

Every object is looked through for its box, its names and its flags. Python literals, keys without quotes, trailing and missing
commas are read as what they were meant to be; what still does not decode is left to `mark_shapes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from egm_edge.grounding import UnparsableReason
from egm_edge.parsing.absence import means_nothing, says_absent
from egm_edge.parsing.raw import RawBox, bare_four, fault_of, fours, numbers

MAX_DEPTH = 6
MAX_FAILED_TRIES = 16
STRICT_KEY = "bbox_2d"
Y_FIRST_KEYS = frozenset({"box_2d"})  # Gemini's [y_min, x_min, y_max, x_max]
POINT_KEYS = frozenset({"point_2d", "point", "points", "points_2d", "center", "click_point"})
BOX_KEYS = (
    STRICT_KEY, "bbox", "bbox2d", "box", "bounding_box", "boundingbox", "bbox_xyxy", "xyxy", "bboxes", "boxes",
    "bounding_boxes", "bb", "coordinates", "coords", "coordinate", "location", "position", "region", "answer", "result", "output",
)  # fmt: skip
LABEL_KEYS = (
    "label", "name", "object_name", "object", "class", "category", "description", "ref", "phrase", "text_content", "caption",
    "class_name", "category_name", "text", "desc", "type", "title", "target", "target_name", "name_en", "name_zh", "names",
    "element", "item", "entity",
)  # fmt: skip
LABEL_LIST_KEYS = ("labels", "names", "bboxes_labels", "classes", "phrases", *LABEL_KEYS)
_CORNERS = (
    ("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"), ("x_left", "y_top", "x_right", "y_bottom"),
)  # fmt: skip
_SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_CORNER_POINTS = (("top_left", "bottom_right"), ("topleft", "bottomright"), ("upper_left", "lower_right"))
_FOUND_FLAGS = frozenset(
    (
        "found", "exists", "exist", "present", "is_present", "detected", "is_detected", "object_found", "target_found",
        "object_present", "matched", "in_image", "is_found", "has_target", "object_exists", "target_exists",
    )
)  # fmt: skip
_NO = (False, 0, "false", "no", "none", "null", "False", "No", None)
_STATUS_KEYS = ("status", "message", "error", "reason", "answer", "result", "response", "note", "output", "explanation")
_CENTRE_OR_SIZE = re.compile(r"xywh|cxcy|ltwh|tlwh")  # of a corner or of the centre: which, the key does not say
_ORDER_KEYS = ("format", "box_format", "bbox_format", "mode", "box_mode", "bbox_mode")
_COLOUR = re.compile(r"colou?r|^rgba?$|^bgra?$|^hsva?$")
_NAMES_IT = re.compile(r"label|name|descri|caption|phrase")
_OPENING = re.compile(r"[\[{]")
_LOOKS_LIKE_JSON = re.compile(r"\[\s*[\[{\"]|\{\s*[\"'}]|\[\s*\]")


_LITERALS: dict[str, str] = {"None": "null", "True": "true", "False": "false"}
_MENDS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(r"(?<=[\[{,:\s])'((?:[^'\\\n]|\\.|'(?=\w)){0,400})'(?=\s{0,8}[:,}\]])"), lambda m: json.dumps(m[1])),
    (re.compile(r"(?<=[\[:,\s])(?:None|True|False)(?=\s{0,8}[,}\]])"), lambda m: _LITERALS[m[0]]),
    (re.compile(r"(?<=[{,])(\s{0,40})([A-Za-z_]\w{0,40})\s{0,8}:"), r'\1"\2":'),
    (re.compile(r"\](\s{0,8},\s{0,8})(\"(?:[^\"\\\n]|\\.){0,200}\")(?=\s{0,8}[,}])"), r']\1"label": \2'),
    (re.compile(r"\{\s{0,40}(?=\{)"), ""),
    (re.compile(r"\}(?=\s{0,40}\{)"), "},"),
    (re.compile(r",(?=\s{0,40}[}\]])"), ""),
)
_BROKEN = object()


def json_boxes(region: str) -> list[RawBox]:
    """Boxes of all JSON values in the region, in order; [] when one of them is broken or none is there."""
    values = list(_values(region))
    if values and values[-1] is _BROKEN:
        for pattern, meant in _MENDS:
            region = pattern.sub(meant, region)
        values = list(_values(region))
        rules = {"json": "bbox_2d", "json_other": "other_key"}
    else:
        rules = {}
    if values and values[-1] is _BROKEN:
        return []
    return [replace(box, rule=rules.get(box.rule, box.rule)) for value in values for box in _walk(value, "", 0)]


def _values(region: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_objects)
    at = failed = 0
    while (opening := _OPENING.search(region, at)) and failed < MAX_FAILED_TRIES:
        try:
            value, at = decoder.raw_decode(region, opening.start())
            yield value
        except (ValueError, RecursionError):
            if _LOOKS_LIKE_JSON.match(region, opening.start()):
                yield _BROKEN
                return
            failed, at = failed + 1, opening.end()


def _objects(pairs: list[tuple[str, Any]]) -> Any:
    """One object; where keys repeat, as models write lists without their brackets, one for each time round."""
    found: list[dict[str, Any]] = [{}]
    for key, value in pairs:
        if key in found[-1]:
            found.append({})
        found[-1][key] = value
    return found[0] if len(found) == 1 else found


def _walk(value: Any, label: str, depth: int) -> Iterator[RawBox]:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, (dict, list)):
                yield from _walk(entry, label, depth + 1)
    elif isinstance(value, dict):
        as_written = {key.lower().replace(" ", "_").replace("-", "_"): key for key in value}
        keys = {key: value[written] for key, written in as_written.items()}
        own = [name for key in LABEL_KEYS for name in _names(keys.get(key))]
        names = (
            *own,
            *(n for key in keys if key not in LABEL_KEYS and _NAMES_IT.search(key) for n in _names(keys[key])),
        )
        label = own[0] if own else label
        for box in _object(keys, as_written, label, depth, is_named=bool(own)):
            mine = len(names) > min(len(own), 1) and not box.names and box.label == label
            yield replace(box, names=names) if mine else box


def _names(named: Any) -> list[str]:
    """What stands under a key for names: one, or one for each language, {"zh": "...", "en": "..."}."""
    inside = named.values() if isinstance(named, dict) else (named,)
    return [name for name in inside if isinstance(name, str)]


def _object(
    keys: Mapping[str, Any], as_written: Mapping[str, str], label: str, depth: int, *, is_named: bool
) -> Iterator[RawBox]:
    """What one object holds under its `keys`, which stood there `as_written`; whether it has a label of its own."""
    if any(keys[key] in _NO for key in _FOUND_FLAGS & keys.keys() if _plain(keys[key])):
        yield RawBox(label=label, rule="absence", absent=True)
        return
    corners = _corners(keys)
    if corners is not None:
        yield RawBox(corners, label, "json_other")
        return
    nothing, boxed = True, any(map(_names_a_box, keys))
    order = next((keys[key].lower() for key in _ORDER_KEYS if isinstance(keys.get(key), str)), "")  # {"format": "xywh"}
    places = boxed or any(map(fault_of_key, keys))
    for key, value in keys.items():
        found: list[RawBox] = []
        if fault := fault_of_key(key) or (fault_of_key(order) if _names_a_box(key) else None):
            found = [RawBox(label=label, rule="json_other", fault=fault)]
        elif _names_a_box(key):
            found = list(_boxes(value, label, "json" if key == STRICT_KEY else "json_other", depth))
            labels = next((keys[k] for k in LABEL_LIST_KEYS if isinstance(keys.get(k), list)), None)
            if labels is not None and len(labels) == len(found):
                found = [
                    RawBox(b.values, str(t), b.rule, b.absent, b.fault) for b, t in zip(found, labels, strict=True)
                ]
        elif isinstance(value, list) and len(value) == 4 and all(_plain(v) and not isinstance(v, str) for v in value):
            if boxed:
                continue  # a colour
            fault = UnparsableReason.MALFORMED if _COLOUR.search(key) else None
            named = as_written[key] if not (is_named or fault) else label
            found = [RawBox(() if fault else value, named, "json_other", fault=fault)]
        elif isinstance(value, (dict, list)):
            inner = label if is_named else _label_of(as_written[key], value)
            found = list(_walk(value, inner, depth + 1))
            if not found and not boxed and isinstance(value, list) and value and isinstance(value[0], list):
                found = list(_listed(value, inner, "json_other", depth))
            if not is_named:
                found = [box if box.label or box.names else replace(box, names=(as_written[key],)) for box in found]
            if not found and not value and not places and key not in LABEL_LIST_KEYS:
                found = [RawBox(label=label, rule="empty", absent=True, names=(as_written[key],))]  # {"objects": []}
        nothing = nothing and not found
        yield from found
    empty = bool(keys) and all(value is None for value in keys.values())  # {"mug": null}
    if nothing and (
        empty or keys.get("count") == 0 or any(_denies(keys.get(key)) for key in (*_STATUS_KEYS, *LABEL_KEYS))
    ):
        yield RawBox(label=label, rule="absence", absent=True)


def fault_of_key(key: str) -> UnparsableReason | None:
    """Why what stands under a key is no box of two corners, x first."""
    if key in Y_FIRST_KEYS or "yxyx" in key:
        return UnparsableReason.Y_FIRST
    if key in POINT_KEYS:
        return UnparsableReason.POINT
    return UnparsableReason.MALFORMED if _CENTRE_OR_SIZE.search(key) else None


def _names_a_box(key: str) -> bool:
    return key in BOX_KEYS or (("bbox" in key or "bounding_box" in key) and "3d" not in key)


def _label_of(key: str, value: Any) -> str:
    """{"red mug": [[1, 2, 3, 4]]}: the key is the label where its list holds boxes, not objects of their own."""
    return key if isinstance(value, list) and value and isinstance(value[0], list) else ""


def _boxes(value: Any, label: str, rule: str, depth: int) -> Iterator[RawBox]:
    """What stands under a box key: one box, several, or a word."""
    if value is None or value == [] or value == {} or value == "":
        yield RawBox(label=label, rule="empty", absent=True)
    elif isinstance(value, str):
        inside = [RawBox(numbers(match), label, rule) for match in fours(value)]
        if not inside and (plain := bare_four(value.strip(" []()"))):
            inside = [RawBox(plain, label, rule)]
        absent = means_nothing(value) or says_absent(value)
        if inside or absent:
            yield from inside or [RawBox(label=label, rule="empty" if means_nothing(value) else "absence", absent=True)]
        elif rule == "json" or value[:1] in "[(":
            yield RawBox(label=label, rule=rule, fault=fault_of(value))
    elif isinstance(value, dict):
        yield from _walk(value, label, depth + 1)
    elif isinstance(value, list):
        yield from _listed(value, label, rule, depth)


def _listed(value: list[Any], label: str, rule: str, depth: int) -> Iterator[RawBox]:
    written = [v for v in value if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(value) > 4 == len(written) and all(isinstance(v, str) for v in value if v not in written):
        yield RawBox(written, next(v for v in value if isinstance(v, str)), "json_other")  # ["mug", 1, 2, 3, 4, "red"]
    elif all(v is None for v in value):
        yield RawBox(label=label, rule="empty", absent=True)
    elif all(_plain(v) for v in value):
        fault = None if len(value) == 4 else UnparsableReason.POINT if len(value) == 2 else UnparsableReason.MALFORMED
        yield RawBox(value if fault is None else (), label, rule, fault=fault)
    elif len(value) == 2 and all(isinstance(v, list) and len(v) == 2 and all(_plain(n) for n in v) for v in value):
        yield RawBox([*value[0], *value[1]], label, "json_other")
    elif depth < MAX_DEPTH:
        for entry in value:
            if isinstance(entry, list):
                named = bool(entry) and isinstance(entry[0], str) and any(isinstance(part, list) for part in entry)
                yield from _listed(entry, entry[0] if named else label, rule, depth + 1) if entry else ()
            elif isinstance(entry, dict):
                yield from _walk(entry, label, depth + 1)


def _corners(keys: Mapping[str, Any]) -> Sequence[Any] | None:
    for names in _CORNERS:
        if all(name in keys and _plain(keys[name]) for name in names):
            return [keys[name] for name in names]
    for x, y, width, height in _SIZES:
        sides = [
            v for v in map(keys.get, (x, y, width, height)) if isinstance(v, (int, float)) and not isinstance(v, bool)
        ]
        if len(sides) == 4:
            left, top, wide, high = sides
            try:
                return [left, top, left + wide, top + high]
            except OverflowError:  # a whole number beyond all floats
                return ()
    for first, second in _CORNER_POINTS:
        points = [_point(keys.get(first)), _point(keys.get(second))]
        if points[0] and points[1]:
            return [*points[0], *points[1]]
    return None


def _point(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        value = [value.get("x"), value.get("y")]
    return value if isinstance(value, list) and len(value) == 2 and all(_plain(v) for v in value) else None


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _denies(value: Any) -> bool:
    return isinstance(value, str) and (means_nothing(value.replace("_", " ")) or says_absent(value.replace("_", " ")))
