"""AnswerFormat: the answer as JSON in the shape that a client asked for, by response_format or by a function to be called.

A schema's properties are filled by their names (`bbox_2d`, `label`, `x1`, `found`, `confidence`, `reasoning`, and what other
programs call them), coordinates on the model's grid from 0 to 1000. Without a schema it is the answer's own object:
`{"bbox_2d": [x1, y1, x2, y2], "label": "..."}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from egm_edge.boxes import Box
from egm_edge.grounding import Grounding, Outcome, Task

MAX_DEPTH = 12
BOX, EACH = "", "*"  # names that no property has
OWN_SCHEMA = {"properties": {"bbox_2d": {"type": "array"}, "label": {"type": "string"}}}
_CORNERS = (
    ("x1", "xmin", "x_min", "left", "x"),
    ("y1", "ymin", "y_min", "top", "y"),
    ("x2", "xmax", "x_max", "right"),
    ("y2", "ymax", "y_max", "bottom"),
)
_LABELS = ("label", "name", "object", "class", "category", "description", "expression", "text", "phrase", "target")
_THOUGHTS = ("reasoning", "thought", "thoughts", "explanation", "rationale", "analysis")
_SCORES = ("confidence", "score", "probability")
_FOUND = ("found", "present", "exists", "visible", "is_present")


class _UnknownError(Exception):
    """A part of a schema that no fact belongs to."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A shape for the answer.

    Attributes:
        schema: JSON schema of the whole. function: to be called with it, "" for the message's own text.
    """

    schema: dict[str, Any]
    function: str = ""

    @property
    def fits(self) -> bool:
        """Whether every part that the schema requires is something an answer has."""
        probe = Grounding(Outcome.FOUND, "probe", Task.MODAL, (10, 10), box=Box(1, 1, 2, 2), label="probe")
        return self._filled(probe)[1]

    def json(self, grounding: Grounding) -> str:
        """The answer; in its own shape where the schema has no place for it."""
        return json.dumps(self._filled(grounding)[0], ensure_ascii=False)

    def _filled(self, grounding: Grounding) -> tuple[Any, bool]:
        facts = _facts(grounding)
        try:
            return _fill(self.schema, "", facts, self.schema, 0), True
        except _UnknownError:
            return _fill(OWN_SCHEMA, "", facts, OWN_SCHEMA, 0), False


def requested_format(response_format: Any, tools: Any, tool_choice: Any) -> AnswerFormat | None:
    """What a request asks for; None for the model's own text, and for what is no format."""
    if (called := _called(tools, tool_choice)) is not None:
        return called
    if not isinstance(response_format, dict):
        return None
    kind, schema = response_format.get("type"), response_format.get("schema")  # beside json_object as llama.cpp has it
    if kind == "json_schema" and isinstance(response_format.get("json_schema"), dict):
        schema = response_format["json_schema"].get("schema")
    elif kind != "json_object":
        return None
    return AnswerFormat(schema if isinstance(schema, dict) else OWN_SCHEMA)


def _called(tools: Any, tool_choice: Any) -> AnswerFormat | None:
    """The one function that must be called."""
    listed = tools if isinstance(tools, list) else []
    functions = [t["function"] for t in listed if isinstance(t, dict) and isinstance(t.get("function"), dict)]
    wanted = tool_choice.get("function") if isinstance(tool_choice, dict) else None
    name = wanted.get("name") if isinstance(wanted, dict) else None
    chosen = [f for f in functions if f.get("name") == name] if name else functions if tool_choice == "required" else []
    if len(chosen) != 1 or not isinstance(chosen[0].get("name"), str):
        return None
    parameters = chosen[0].get("parameters")
    return AnswerFormat(parameters if isinstance(parameters, dict) else OWN_SCHEMA, chosen[0]["name"][:256])


def _facts(grounding: Grounding) -> dict[str, Any]:
    """Every name that a property may have, and what it is filled with; None where there is no box. Under `EACH` the same for
    every box that the model named."""
    facts = _box_facts(grounding, grounding.box, grounding.label or (grounding.expression if grounding.box else ""))
    named = [_box_facts(grounding, each.box, each.label or grounding.expression) for each in grounding.candidates]
    return facts | {EACH: named or ([facts] if grounding.box else [])}


def _box_facts(grounding: Grounding, found: Box | None, label: str) -> dict[str, Any]:
    box = None if found is None else [_whole(v) for v in found.to_norm1000(*grounding.image_wh)]
    facts: dict[str, Any] = dict.fromkeys(_LABELS, label) | dict.fromkeys(_THOUGHTS, grounding.reasoning)
    facts |= dict.fromkeys(_SCORES, grounding.confidence) | dict.fromkeys(_FOUND, box is not None)
    for corner, names in enumerate(_CORNERS):
        facts |= dict.fromkeys(names, box and box[corner])
    sides = (box[2] - box[0], box[3] - box[1]) if box else (None, None)
    return facts | {"width": sides[0], "w": sides[0], "height": sides[1], "h": sides[1], BOX: box}


def _whole(value: float) -> float:
    return round(value) if abs(value - round(value)) < 0.05 else round(value, 1)


def _fill(schema: Any, name: str, facts: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    """A value for one part of a schema.

    Raises:
        _UnknownError: no fact belongs there.
    """
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        raise _UnknownError
    if isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for key in reference.removeprefix("#/").split("/") if reference != "#" else ():
            target = target.get(key) if isinstance(target, dict) else None
        return _fill(target, name, facts, root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(several), list):
            return _first_of(options, name, facts, root, depth)
    kinds = schema.get("type", "object" if "properties" in schema or not name else None)
    kinds = [kind for kind in kinds if isinstance(kind, str)] if isinstance(kinds, list) else [kinds]
    if "object" in kinds:
        return _object(schema, facts, root, depth)
    if "array" in kinds:
        return _array(schema, facts, root, depth)
    value = facts.get(name.lower()) if name else None
    if isinstance(value, str) and isinstance(values := schema.get("enum"), list) and value not in values:
        raise _UnknownError
    fitting: dict[str, Any] = {"string": str, "boolean": bool, "number": (int, float), "integer": (int, float)}
    for kind in kinds:
        wanted = fitting.get(kind or "")
        if wanted and isinstance(value, wanted) and (kind == "boolean") == isinstance(value, bool):
            return round(value) if kind == "integer" and isinstance(value, float) else value
    if "null" in kinds:
        return None
    if name.lower() in facts and value is None and {"number", "integer"} & {*kinds}:
        return 0  # there is no box, and a number must stand here
    raise _UnknownError


def _first_of(options: list[Any], name: str, facts: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    nothing = [o for o in options if isinstance(o, dict) and o.get("type") == "null"]
    for option in [o for o in options if o not in nothing]:
        try:
            if nothing and facts[BOX] is None and name.lower() not in (*_LABELS, *_THOUGHTS, *_FOUND):
                return None
            return _fill(option, name, facts, root, depth + 1)
        except _UnknownError:
            continue
    if nothing:
        return None
    raise _UnknownError


def _object(schema: dict[str, Any], facts: dict[str, Any], root: dict[str, Any], depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not properties:
        return _object(OWN_SCHEMA, facts, OWN_SCHEMA, depth) if depth == 0 else {}
    filled = {}
    for name, part in properties.items():
        try:
            filled[name] = _fill(part, name, facts, root, depth + 1)
        except _UnknownError:
            if isinstance(required, list) and name in required:
                raise
    if not filled:
        raise _UnknownError
    return filled


def _array(schema: dict[str, Any], facts: dict[str, Any], root: dict[str, Any], depth: int) -> list[Any]:
    """Four numbers, or the things that were found."""
    items, box = schema.get("items") or schema.get("prefixItems"), facts[BOX]
    first = items[0] if isinstance(items, list) and items else items
    if not isinstance(first, dict) or first.get("type") in ("number", "integer"):
        whole = isinstance(first, dict) and first.get("type") == "integer"
        return [round(v) if whole else v for v in box or []]
    return [_fill(first, "label", each | {EACH: ()}, root, depth + 1) for each in facts[EACH]]
