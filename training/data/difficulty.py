"""Which rows RL trains on: all the hard but solvable ones, and as many easy ones, stratified. Joined by id, only by id.

Recipe (EGM, released filter): hard = own SFT checkpoint's IoU < 0.5 while a far larger oracle's is > 0.5; easy = own
IoU >= 0.5, drawn 1:1 by IoU band 15/20/20/20/25 %; seed 42. Knows nothing of models: it reads `{"id", "iou"}` lines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from egm_edge.data.jsonl import read_objects
from egm_edge.data.problems import Problem, require_none
from egm_edge.data.rows import Row
from egm_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class DifficultyRule:
    """Thresholds of the filter.

    Attributes:
        own_below: hard rows have own IoU below this.
        oracle_above: and the oracle's above this, so that they can be solved.
        bands: (lower bound, share) of the easy rows; a band ends where the next begins, the last at 1.0.
        easy_per_hard: easy rows for every hard one.
        seed: of sampling and of the final order.
    """

    own_below: float = 0.5
    oracle_above: float = 0.5
    bands: tuple[tuple[float, float], ...] = ((0.5, 0.15), (0.6, 0.20), (0.7, 0.20), (0.8, 0.20), (0.9, 0.25))
    easy_per_hard: float = 1.0
    seed: int = 42


RECIPE = DifficultyRule()


@dataclass(frozen=True, slots=True)
class DifficultyReport:
    """What the filter did: rows by fate, and the easy rows taken of those there were, per band."""

    hard: int
    unsolvable: int
    easy: int
    taken_by_band: tuple[tuple[float, int, int], ...]

    def __str__(self) -> str:
        bands = ", ".join(f"IoU {low:.1f}+: {taken} of {there}" for low, taken, there in self.taken_by_band)
        return f"{self.hard} hard, {self.easy} easy ({bands}), {self.unsolvable} left out as unsolvable"


def read_ious(path: Path) -> dict[str, float]:
    """Predictions' IoU by row id, from lines of {"id": ..., "iou": ...}.

    Raises:
        DataError: a line without them, an IoU outside 0-1, an id that stands twice.
    """
    problems: list[Problem] = []
    ious: dict[str, float] = {}
    for line, values in read_objects(path, problems):
        name, iou = values.get("id"), values.get("iou")
        if name is None or isinstance(iou, bool) or not isinstance(iou, (int, float)) or not 0 <= iou <= 1:
            problems.append(Problem(str(path), line, "an id and an iou of 0-1", f"id {name!r}, iou {iou!r}"))
        elif str(name) in ious:
            problems.append(Problem(str(path), line, "ids that are unique", f"id {name!r} again"))
        else:
            ious[str(name)] = float(iou)
    require_none(problems)
    return ious


def filter_by_difficulty(
    rows: Sequence[Row], own_iou: Mapping[str, float], oracle_iou: Mapping[str, float], rule: DifficultyRule = RECIPE
) -> tuple[list[Row], DifficultyReport]:
    """Rows for RL, shuffled, and what became of the others.

    Raises:
        InputError: a row without a prediction of either model (nothing is matched by any other means).
    """
    _require_ids("own", rows, own_iou)
    failed = [row for row in rows if own_iou[row.id] < rule.own_below]
    _require_ids("oracle", failed, oracle_iou)  # the large model need only be run on what the small one missed
    hard = [row for row in failed if oracle_iou[row.id] > rule.oracle_above]
    rng = random.Random(rule.seed)
    easy: list[Row] = []
    taken: list[tuple[float, int, int]] = []
    for index, (low, share) in enumerate(rule.bands):
        high = rule.bands[index + 1][0] if index + 1 < len(rule.bands) else math.inf
        band = [row for row in rows if low <= own_iou[row.id] < high]
        wanted = min(len(band), round(share * rule.easy_per_hard * len(hard)))
        easy += rng.sample(band, wanted)
        taken.append((low, wanted, len(band)))
    chosen = hard + easy
    rng.shuffle(chosen)
    return chosen, DifficultyReport(len(hard), len(failed) - len(hard), len(easy), tuple(taken))


def _require_ids(name: str, rows: Sequence[Row], ious: Mapping[str, float]) -> None:
    missing = [row.id for row in rows if row.id not in ious]
    if missing:
        found = f"none for {len(missing)} of them, first {missing[0]!r}"
        raise InputError(f"the {name} IoU of all {len(rows)} rows", found, "predict the rows that are missing")
