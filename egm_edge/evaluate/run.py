"""The evaluation loop of a bundle: rows in, records out. Consecutive rows of one picture share its frame.

Knows the Grounder's public face only; whatever answers `frame` and `ground` as it does can be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.bundle import sha256_of
from egm_edge.data.pictures import picture_of, require_size
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.evaluate.budget import Budgets
from egm_edge.evaluate.records import Record, RecordLog
from egm_edge.grounding import Grounding


class Evaluated(Protocol):
    """What is evaluated: `egm_edge.grounder.Grounder`, or a stand-in with the same two calls."""

    def frame(self, image: Any, *, color: str | None = None) -> Any: ...

    @property
    def ground(self) -> Callable[..., Grounding]: ...


def evaluate_rows(
    evaluated: Evaluated,
    rows: Sequence[Row],
    pictures: Mapping[str, Path],
    budgets: Budgets,
    log: RecordLog,
    on_record: Callable[[int, int], None] | None = None,
) -> None:
    """Answer what the log does not hold yet.

    Args:
        pictures: image name of a row -> file.
        budgets: every row is asked once for each.
        on_record: told (done, total) after each record, those of earlier runs included.
    """
    total = len(rows) * len(budgets.values)
    missing = unanswered(rows, budgets, log)
    shared = _Shared(evaluated, budgets)
    for done, (row, budget) in enumerate(missing, total - len(missing) + 1):
        log.append(shared.answer(row, pictures[row.image], budget))
        if on_record:
            on_record(done, total)


def unanswered(rows: Sequence[Row], budgets: Budgets, log: RecordLog) -> list[tuple[Row, int]]:
    """(row, budget) that the log does not hold yet, row by row."""
    held = {record.key for record in log.records}
    return [(row, budget) for row in rows for budget in budgets.values if (row.id, budget) not in held]


def in_order(records: Sequence[Record], rows: Sequence[Row], budgets: Budgets) -> list[Record]:
    """The records of these rows and budgets in the order of the rows, whatever order they were answered in."""
    place = {(row.id, budget): i for i, (row, budget) in enumerate((r, b) for r in rows for b in budgets.values)}
    return sorted((r for r in records if r.key in place), key=lambda r: place[r.key])


def spread(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` rows of every split, evenly spaced over it, in the order given; ids must be unique.

    Raises:
        InputError: two rows have one id.
    """
    if len({row.id for row in rows}) < len(rows):
        seen: set[str] = set()
        again = next(row.id for row in rows if row.id in seen or seen.add(row.id))  # type: ignore[func-returns-value]
        raise InputError("ids that are unique over all data files", f"{again!r} twice", "rename or drop one")
    if limit is None:
        return list(rows)
    by_split: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        by_split.setdefault((row.dataset, row.split), []).append(i)
    kept: set[int] = set()
    for indexes in by_split.values():
        count = min(limit, len(indexes))
        kept |= {indexes[i * len(indexes) // count] for i in range(count)}
    return [row for i, row in enumerate(rows) if i in kept]


def data_identity(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Name and sha256 of each data file."""
    return [{"name": path.name, "sha256": sha256_of(path)} for path in paths]


def record_of(row: Row, image_wh: tuple[int, int], box: Box | None, **answer: Any) -> Record:
    """The record of a row's answer, its IoU worked out. Args: answer: what else a Record holds."""
    iou = None if row.box is None else box.iou(row.box) if box else 0.0
    return Record(
        id=row.id, dataset=row.dataset, split=row.split, kind=row.kind, task=row.task.value, image=row.image,
        image_wh=image_wh, expression=row.expression, target=row.box.xyxy if row.box else None,
        box=box.xyxy if box else None, iou=iou, **answer,
    )  # fmt: skip


class _Shared:
    """Keeps the last picture's frame, and what its first request paid for it."""

    def __init__(self, evaluated: Evaluated, budgets: Budgets) -> None:
        self._evaluated, self._kind = evaluated, budgets.kind
        self._key: tuple[str, bool] | None = None
        self._frame: Any = None
        self._frame_ms = 0.0

    def answer(self, row: Row, picture: Path, budget: int) -> Record:
        limit = {self._kind.name: budget}
        if self._kind.shares_frames:
            self._open(row, picture)
            frame = self._frame
            grounding = self._evaluated.ground(frame, row.expression, task=row.task, **limit)
            timings = grounding.timings
            total_ms = timings.total_ms + frame.decode_image_ms + frame.preprocess_ms
            if timings.frame_reused:
                total_ms += self._frame_ms
            else:
                engine_frame = getattr(frame, "engine_frame", None)  # runtimes that answer whole requests have none
                self._frame_ms = timings.vision_ms + getattr(engine_frame, "prefill_ms", 0.0)
        else:
            source = _source(row, picture)
            grounding = self._evaluated.ground(source, row.expression, task=row.task, color="rgb", **limit)
            require_size(grounding.image_wh, row)
            timings, total_ms = grounding.timings, grounding.timings.total_ms
        return record_of(
            row,
            grounding.image_wh,
            grounding.box,
            budget=budget,
            budget_kind=self._kind.name,
            outcome=grounding.outcome.value,
            rule=grounding.parse_rule,
            cut=grounding.cut,
            text=grounding.text,
            candidates=tuple(c.box.xyxy for c in grounding.candidates),
            tokens=grounding.tokens,
            timings=timings,
            total_ms=total_ms,
            deadline_met=grounding.deadline_met,
        )

    def _open(self, row: Row, picture: Path) -> None:
        if self._key == (row.image, row.mirrored):
            return
        self._key = None
        frame = self._evaluated.frame(_source(row, picture), color="rgb")
        require_size(frame.image_wh, row)
        self._frame = frame
        self._key = (row.image, row.mirrored)


def _source(row: Row, picture: Path) -> Path | NDArray[np.uint8]:
    """The picture as the row wants it: its file, or a mirrored RGB array."""
    return picture_of(row, picture) if row.mirrored else picture
