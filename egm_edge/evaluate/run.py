"""The evaluation loop: rows in, records out. Consecutive rows of one picture share its frame.

Knows the Grounder's public face only; whatever answers `frame` and `ground` as it does can be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.bundle import sha256_of
from egm_edge.errors import InputError
from egm_edge.evaluate.metrics import iou_rows
from egm_edge.evaluate.records import Record, RecordLog
from egm_edge.evaluate.rows import EvaluationRow
from egm_edge.grounding import Grounding
from egm_edge.images import load_image


class Asked(Protocol):
    """What is evaluated: `egm_edge.grounder.Grounder`, or a stand-in with the same two calls."""

    def frame(self, image: Any, *, color: str | None = None) -> Any: ...

    def ground(self, image: Any, expression: str, *, task: Any, max_new_tokens: int | None) -> Grounding: ...


def evaluate_rows(
    asked: Asked,
    rows: Sequence[EvaluationRow],
    pictures: Mapping[str, Path],
    budgets: Sequence[int],
    log: RecordLog,
    on_record: Callable[[int, int], None] | None = None,
) -> None:
    """Answer what the log does not hold yet.

    Args:
        pictures: image name of a row -> file.
        budgets: caps on generated tokens; every row is asked once for each.
        on_record: told (done, total) after each record, those of earlier runs included.
    """
    held = {record.key for record in log.records}
    total = len(rows) * len(budgets)
    done = sum((row.id, budget) in held for row in rows for budget in budgets)
    shared = _Shared(asked)
    for row in rows:
        for budget in budgets:
            if (row.id, budget) in held:
                continue
            log.append(shared.answer(row, pictures[row.image], budget))
            done += 1
            if on_record:
                on_record(done, total)


def spread(rows: Sequence[EvaluationRow], limit: int | None) -> list[EvaluationRow]:
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


class _Shared:
    """Keeps the last picture's frame, and what its first request paid for it."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._key: tuple[str, bool] | None = None
        self._frame: Any = None
        self._frame_ms = 0.0

    def answer(self, row: EvaluationRow, picture: Path, budget: int) -> Record:
        self._open(row, picture)
        frame = self._frame
        grounding = self._asked.ground(frame, row.expression, task=row.task, max_new_tokens=budget)
        timings = grounding.timings
        making_ms = frame.decode_image_ms + frame.preprocess_ms
        if not timings.frame_reused:
            self._frame_ms = timings.vision_ms + getattr(frame.engine_frame, "prefill_ms", 0.0)
        total_ms = timings.total_ms + making_ms + (self._frame_ms if timings.frame_reused else 0.0)
        box = grounding.box.xyxy if grounding.box else None
        return Record(
            id=row.id,
            dataset=row.dataset,
            split=row.split,
            kind=row.kind,
            task=row.task.value,
            image=row.image,
            image_wh=grounding.image_wh,
            expression=row.expression,
            budget=budget,
            target=row.box,
            outcome=grounding.outcome.value,
            box=box,
            rule=grounding.parse_rule,
            cut=grounding.cut,
            text=grounding.text,
            iou=None if row.box is None else float(iou_rows([box or [np.nan] * 4], [row.box])[0]),
            tokens=asdict(grounding.tokens),
            timings=asdict(timings),
            total_ms=total_ms,
        )

    def _open(self, row: EvaluationRow, picture: Path) -> None:
        if self._key == (row.image, row.mirrored):
            return
        self._key = None
        if row.mirrored:
            mirrored: NDArray[np.uint8] = np.ascontiguousarray(load_image(picture)[:, ::-1])
            frame = self._asked.frame(mirrored, color="rgb")
        else:
            frame = self._asked.frame(picture)
        if row.image_wh is not None and frame.image_wh != row.image_wh:
            raise InputError(
                f"{picture} of {row.image_wh[0]}x{row.image_wh[1]} pixels, as row {row.id} says",
                f"{frame.image_wh[0]}x{frame.image_wh[1]}",
                "take the pictures that belong to the data",
            )
        self._frame = frame
        self._key = (row.image, row.mirrored)
