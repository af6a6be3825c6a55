"""Boxes of an answer that is a table: rows under a heading that names the corners, in Markdown or separated by commas."""

from __future__ import annotations

import re
from collections.abc import Iterator

from egm_edge.parsing.raw import RawBox

MAX_COLUMNS = 32
_CORNERS = (
    ("x1", "xmin", "left", "xleft"),
    ("y1", "ymin", "top", "ytop"),
    ("x2", "xmax", "right", "xright"),
    ("y2", "ymax", "bottom", "ybottom"),
)
_NUMBER = re.compile(r"[-+]?[0-9]{1,12}(?:\.[0-9]{0,20})?")
_QUOTES = " \t`*\"'"
_WITHIN_NAMES = re.compile(r"[\s`*\"'_-]")


def table_boxes(region: str) -> Iterator[RawBox]:
    """The rows of all tables, the first cell that is no number as the label; none without a heading."""
    heading: list[str] = []
    columns: list[int] = []
    for line in region.splitlines():
        cells = [cell.strip(_QUOTES) for cell in re.split(r"[|,\t]", line.strip().strip("|"), maxsplit=MAX_COLUMNS)]
        if len(cells) < 4:
            continue
        if columns and len(cells) == len(heading) and all(_NUMBER.fullmatch(cells[at]) for at in columns):
            label = next((cell for cell in cells if not _NUMBER.fullmatch(cell)), "")
            yield RawBox([cells[at] for at in columns], label, "bracket_list")
            continue
        names = [_WITHIN_NAMES.sub("", cell[:40]).lower() for cell in cells]
        found = [next((at for at, name in enumerate(names) if name in corner), -1) for corner in _CORNERS]
        if min(found) >= 0:
            heading, columns = names, found
