"""The text that a model is taught to write for a row: thought, then the family's answer syntax.

The reading side is `egm_edge.parsing`; whatever is written here reads back as the row's box. Coordinates are whole numbers
of 0-1000, as in EGM's data.
"""

from __future__ import annotations

import json

from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.families.base import PromptSpec

THINK = "<think>"


def answer_text(row: Row, spec: PromptSpec) -> str:
    """Everything after the prompt, the end-of-turn token excluded.

    Raises:
        InputError: an answer syntax that is not known here.

    Qwen3-VL: `REASON\\n</think>\\n\\n` and a fenced JSON list, its one entry on a line of its own behind a tab, as EGM's SFT
    rows and Qwen3-VL itself write it; InternVL3: `<think>REASON</think><answer><ref>…</ref>
    <box>[…]</box></answer>`. A thing that is not there is an empty list, or an empty box tag.
    """
    writer = _SYNTAXES.get(spec.answer_syntax)
    if writer is None:
        raise InputError(f"answer syntax {', '.join(_SYNTAXES)}", repr(spec.answer_syntax), "use a known family")
    return writer(row, spec.in_thought)


def box_numbers(row: Row) -> list[int] | None:
    """The row's box as whole numbers of 0-1000; amodal ones may lie outside."""
    box = row.box_norm1000
    if box is None:
        return None
    x1, y1, x2, y2 = (round(v) for v in box)
    (x1, x2), (y1, y2) = _with_extent(x1, x2), _with_extent(y1, y2)
    # Numbers of 0 and 1 alone would read back as shares of the picture, which the parser refuses.
    return [x1, y1, max(x2, 2), y2] if min(x1, y1) >= 0 and max(x2, y2) <= 1 else [x1, y1, x2, y2]


def _with_extent(low: int, high: int) -> tuple[int, int]:
    """A side thinner than half a unit must not collapse: that would read back as no box at all."""
    if low < high:
        return low, high
    return (low - 1, high) if low > 0 else (low, high + 1)


def _bbox_2d_json(row: Row, thought_open: bool) -> str:
    numbers = box_numbers(row)
    one = json.dumps({"bbox_2d": numbers, "label": row.expression}, ensure_ascii=False)
    body = f"[\n\t{one}\n]" if numbers else "[]"
    thought = f"{row.reasoning}\n</think>\n\n"
    opening = "" if thought_open else f"{THINK}\n"
    return f"{opening}{thought}```json\n{body}\n```"


def _ref_box(row: Row, thought_open: bool) -> str:
    opening = "" if thought_open else THINK
    numbers = box_numbers(row)
    box = str(numbers) if numbers else ""
    return f"{opening}{row.reasoning}</think><answer><ref>{row.expression}</ref><box>{box}</box></answer>"


_SYNTAXES = {"bbox_2d_json": _bbox_2d_json, "ref_box": _ref_box}
