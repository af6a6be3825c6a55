"""Rows as evaluation takes them: no training split, and a data set, a split and a kind of expression on each, for the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from egm_edge.data.problems import Problem, require_none
from egm_edge.data.readers import at_row, load_rows
from egm_edge.data.refcoco import REFS_FILE
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.evaluate.expression_type import expression_type
from egm_edge.grounding import Task
from egm_edge.images import read_image_wh


def evaluation_rows(paths: Iterable[Path], task: Task | None = None) -> list[Row]:
    """All rows of some files, in order; of a refs pickle those of its val and test splits.

    Args:
        task: overrides the task of every row.

    Raises:
        InputError: any row unusable, or nothing to evaluate on.
    """
    rows: list[Row] = []
    for path in paths:
        found = load_rows([path], task=task)
        if REFS_FILE.search(path.name):
            found = [row for row in found if row.split != "train"]
            if not found:
                raise InputError(f"val or test references in {path}", "none", "check the file")
        rows += [_named(row, path.stem) for row in found]
    return rows


def _named(row: Row, file: str) -> Row:
    kind = "negative" if row.box is None else row.kind or expression_type(row.expression)
    return replace(row, dataset=row.dataset or file, split=row.split or "all", kind=kind)


def with_sizes(rows: Iterable[Row], pictures: Mapping[str, Path]) -> list[Row]:
    """The rows with the width and height of their pictures where the data does not state them, so that a target in another
    unit than pixels of its picture is found before anything is asked: it would only ever score 0.

    Raises:
        DataError: targets outside their pictures or under a pixel, with their rows. InputError: no picture.
    """
    problems: list[Problem] = []
    sizes: dict[str, tuple[int, int]] = {}
    found = []
    for row in rows:
        if row.image_wh is None and row.image not in sizes:
            sizes[row.image] = read_image_wh(pictures[row.image], upright=True)
        try:
            sized = row if row.image_wh is not None else replace(row, image_wh=sizes[row.image])
        except InputError as error:
            problems.append(at_row(row, error.expected, error.found))
            continue
        if row.box and row.task is Task.MODAL and min(row.box.x2 - row.box.x1, row.box.y2 - row.box.y1) < 1.0:
            problems.append(at_row(row, "a modal box of at least a pixel", f"{row.box.xyxy}"))
        found.append(sized)
    require_none(problems)
    return found
