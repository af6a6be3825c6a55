"""Which adapter reads which kind of source: the table behind `egm data convert`, and the rows of any training file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from egm_edge.data.egm_rows import NORM1000, PIXELS
from egm_edge.data.problems import Problem, require_none
from egm_edge.data.readers import read_rows, repeated_ids
from egm_edge.data.refcoco import read_refcoco
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from training.data.coco_amodal import read_coco_amodal

Reader = Callable[[Path, list[Problem]], Iterator[Row]]
READERS: dict[str, Reader] = {
    "egm": read_rows,
    "egm-pixels": partial(read_rows, box_frame=PIXELS),
    "egm-norm1000": partial(read_rows, box_frame=NORM1000),
    "refcoco": read_refcoco,
    "coco-amodal": read_coco_amodal,
    "rows": read_rows,
}


def reader(kind: str) -> Reader:
    """The adapter for a kind of source.

    Raises:
        InputError: unknown; the message lists the kinds.
    """
    if kind not in READERS:
        raise InputError(f"a kind of source ({', '.join(READERS)})", repr(kind), "pass one of them with --kind")
    return READERS[kind]


def load_rows(paths: Iterable[Path], kind: str = "rows") -> list[Row]:
    """All rows of some files.

    Raises:
        DataError: with every problem of all files.
    """
    problems: list[Problem] = []
    rows: list[Row] = []
    for path in paths:
        rows += reader(kind)(path, problems)
    problems += repeated_ids(rows)
    require_none(problems)
    return rows
