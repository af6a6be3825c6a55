"""Rows as evaluation takes them: no training split, and a data set, a split and a kind of expression on each, for the tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from egm_edge.data.readers import load_rows
from egm_edge.data.refcoco import REFS_FILE
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.evaluate.expression_type import expression_type
from egm_edge.grounding import Task


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
