"""Which adapter reads which kind of source: the table behind `egm data convert`, and the rows of any training file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from egm_edge.errors import InputError
from training.data.coco_amodal import read_coco_amodal
from training.data.egm_jsonl import NORM1000, PIXELS, read_egm_jsonl
from training.data.problems import Problem, require_none
from training.data.refcoco import read_refcoco
from training.data.rows import Row, read_rows

Reader = Callable[[Path, list[Problem]], Iterator[Row]]
READERS: dict[str, Reader] = {
    "egm": read_egm_jsonl,
    "egm-pixels": partial(read_egm_jsonl, box_frame=PIXELS),
    "egm-norm1000": partial(read_egm_jsonl, box_frame=NORM1000),
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
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            file, _, line = row.origin.rpartition(":")
            problems.append(Problem(file or "rows", int(line or 0), "ids that are unique", f"id {row.id!r} again"))
        seen.add(row.id)
    require_none(problems)
    return rows
