"""The published RefCOCO-family tables, as data with their sources. Percent Acc@0.5, whatever their source calls it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from egm_edge.evaluate.metrics import EIGHT_SPLITS, eight_split_average

PATH = Path(__file__).parent.parent / "assets" / "published" / "refcoco_family.json"


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One published row.

    Attributes:
        model, source: whose numbers, and the short name of where they stand; `sources()` spells it out.
        acc50: (data set, split) -> percent; empty where only an average was published.
        average_stated: as the source states it, percent; None when it states none.
        rule: the scoring rule that made it, see `egm_edge.evaluate.rules`.
    """

    model: str
    source: str
    acc50: dict[tuple[str, str], float]
    average_stated: float | None
    rule: str

    @property
    def average(self) -> float | None:
        """The average recomputed from the splits, percent; None where they were not published."""
        return eight_split_average(self.acc50)


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """All rows, those with split values first."""
    values = json.loads(PATH.read_text(encoding="utf-8"))
    rule: str = values["rule"]
    full = [
        PublishedModel(
            m["model"], m["source"], dict(zip(EIGHT_SPLITS, m["acc50"], strict=True)), m["average_stated"], rule
        )
        for m in values["models"]
    ]
    averages = [PublishedModel(m["model"], m["source"], {}, m["average_stated"], rule) for m in values["averages"]]
    return (*full, *averages)


@cache
def sources() -> dict[str, str]:
    """Short name -> where the numbers were published."""
    found: dict[str, str] = json.loads(PATH.read_text(encoding="utf-8"))["sources"]
    return found


def matching(splits: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The published splits among these, in the published order."""
    given = set(splits)
    return [split for split in EIGHT_SPLITS if split in given]
