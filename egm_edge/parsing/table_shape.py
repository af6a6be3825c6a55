"""Boxes of an answer that is a table: rows under a heading that names the corners, in Markdown or separated by commas."""

from __future__ import annotations

import re
from collections.abc import Iterator

from egm_edge.parsing.absence import means_nothing
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
    """The rows of all tables, their cells that are no numbers as the names; none without a heading.

    A row of dashes or of "N/A" is a thing that is not there.
    """
    heading: list[str] = []
    columns: list[int] = []
    for line in region.splitlines():
        cells = [cell.strip(_QUOTES) for cell in re.split(r"[|,\t]", line.strip().strip("|"), maxsplit=MAX_COLUMNS)]
        if len(cells) < 4:
            continue
        if columns and len(cells) == len(heading):
            values = [cells[at] for at in columns]
            texts = tuple(c for at, c in enumerate(cells) if at not in columns and c and not _NUMBER.fullmatch(c))
            label = texts[0] if texts else ""
            if all(map(_NUMBER.fullmatch, values)):
                yield RawBox(values, label, "bracket_list", names=texts)
                continue
            if (
                texts
                and all(not value.strip("-–—") or means_nothing(value) for value in values)
                and set(label) - set("-:")
            ):
                yield RawBox(label=label, rule="empty", absent=True, names=texts)
                continue
        names = [_WITHIN_NAMES.sub("", cell[:40]).lower() for cell in cells]
        found = [next((at for at, name in enumerate(names) if name in corner), -1) for corner in _CORNERS]
        if min(found) >= 0:
            heading, columns = names, found
