"""Asks the rows of a data set and notes what decoding saw and whether the box was right. Knows the Grounder's public face."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from egm_edge.data.pictures import picture_of
from egm_edge.data.rows import Row
from egm_edge.grounding import Outcome

if TYPE_CHECKING:
    from egm_edge.grounder import Grounder

CUT_THOUGHT_TOKENS = 48  # a thought that is cut is cut somewhere below this


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer.

    Attributes:
        there: the row has a box.
        outcome: how the request ended.
        right: its box has IoU >= 0.5 with the row's.
        evidence: what decoding saw, empty without a box.
    """

    there: bool
    outcome: Outcome
    right: bool
    evidence: dict[str, float]


def ask_rows(
    grounder: Grounder,
    rows: Sequence[Row],
    pictures: Mapping[str, Path],
    *,
    samples: int = 1,
    shift: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    on_row: Callable[[int, int], None] | None = None,
) -> list[Answered]:
    """Answer every row once: half of them with the whole thought, a quarter without one, a quarter with a cap on it.

    A deadline or a cap may leave any thought out, so a map that had only seen whole ones would be wrong just then.

    Raises:
        InputError: a picture that cannot be read, or not of its row's size: its answers would only ever be wrong.
    """
    draws = random.Random(0)
    answered: list[Answered] = []
    for done, row in enumerate(rows, 1):
        limit = (None, 0, None, draws.randrange(1, CUT_THOUGHT_TOKENS))[done % 4]
        image = picture_of(row, pictures[row.image])
        image = shift(image) if shift else image
        found = grounder.ground(
            image, row.expression, task=row.task, color="rgb", samples=samples, max_think_tokens=limit, seed=done
        )
        right = bool(row.box and found.box and found.box.iou(row.box) >= 0.5)
        answered.append(Answered(row.box is not None, found.outcome, right, found.evidence))
        if on_row:
            on_row(done, len(rows))
    return answered
