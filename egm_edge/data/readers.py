"""Data files to rows: jsonl in this project's form or any of EGM's, and RefCOCO's pickles, told apart by name and keys.

Knows nothing of who asks. A caller either gathers `Problem`s or takes all rows or none with `load_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from egm_edge.data.egm_rows import NORM1000, PIXELS, egm_row, is_egm
from egm_edge.data.jsonl import read_objects
from egm_edge.data.problems import Problem, collected, require_none
from egm_edge.data.refcoco import REFS_FILE, read_refcoco
from egm_edge.data.rows import Row, row_from_dict
from egm_edge.errors import InputError
from egm_edge.grounding import Task

_FILE_NAME = re.compile(r"(refcoco[+g]?)[_-](val|testA|testB|test|train)(?![A-Za-z])")
_PREDICTION_KEYS = {"id", "iou"}


def read_rows(
    path: Path, problems: list[Problem], *, task: Task | None = None, box_frame: str | None = None
) -> Iterator[Row]:
    """Rows of one jsonl or `refs(BY).p`; whatever is wrong is collected in `problems` and passed over.

    Args:
        task: instead of what the rows say.
        box_frame: "pixels" or "norm1000" for every box of EGM's forms; None takes each form's own.

    Rows without an id of their own get `FILE:LINE`; data set and split come from file names such as
    `refcoco+_testA.jsonl` where the rows do not say. Lines of {"id", "iou"} alone are predictions and passed over.
    """
    if box_frame not in (None, PIXELS, NORM1000):
        raise InputError("box_frame 'pixels' or 'norm1000'", repr(box_frame), "pass one of the two")
    if REFS_FILE.search(path.name):
        for row in read_refcoco(path, problems):
            yield replace(row, task=task) if task else row
        return
    named = _FILE_NAME.search(path.name)
    dataset, split = named.groups() if named else ("", "")
    for line, values in read_objects(path, problems):
        if values.keys() >= _PREDICTION_KEYS and "image" not in values:
            continue
        where = (f"{path.stem}:{line}", f"{path}:{line}")
        with collected(problems, path, line):
            read = partial(egm_row, box_frame=box_frame) if is_egm(values) else row_from_dict
            row = read(values, *where, task=task)
            # a file named after a published split outranks what a conversation row is taken for
            yield replace(row, dataset=row.dataset or dataset, split=split or row.split)


def load_rows(paths: Iterable[Path], *, task: Task | None = None) -> list[Row]:
    """All rows of some files, in order.

    Raises:
        DataError: with every problem of all files, a file without rows and an id that comes twice among them.
    """
    problems: list[Problem] = []
    rows: list[Row] = []
    for path in paths:
        before = len(problems)
        found = list(read_rows(path, problems, task=task))
        if not found and len(problems) == before:
            problems.append(Problem(str(path), 0, "rows", "an empty file"))
        rows += found
    problems += repeated_ids(rows)
    require_none(problems)
    return rows


def repeated_ids(rows: Iterable[Row]) -> Iterator[Problem]:
    """A problem for each row whose id an earlier one has."""
    first: dict[str, str] = {}
    for row in rows:
        if row.id in first:
            yield at_row(row, "ids that are unique in a file", f"id {row.id!r} again (first at {first[row.id]})")
        else:
            first[row.id] = row.origin


def at_row(row: Row, expected: str, found: str) -> Problem:
    """A problem at the place that a row was read from."""
    file, _, line = row.origin.rpartition(":")
    return Problem(file or row.id, int(line) if line.isdigit() else 0, expected, found)
