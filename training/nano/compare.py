"""compare: every arm's checkpoint on the same held-out scenes. Resumable; knows nothing of training.

Raw results (`IoU` and "not there" per scene) go to one JSON file per suite, rewritten by rename after every chunk of
scenes, so a kill costs one chunk. A result counts as long as the checkpoint's weights are the ones it was measured on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from egm_edge.files import whole_file
from egm_edge.reporting.intervals import Paired, paired, wilson
from training.nano.evaluate import Score, iou_of, load_fast, patches_of, rejects, score, write
from training.nano.fastpath import FastNano
from training.nano.suites import AMODAL, HOUSEHOLD, HOUSEHOLD_AMODAL, MODAL, NEGATIVE, Suite, SuiteCase

log = logging.getLogger("egm.train.nano")

_CHUNK = 32
_SAVE_EVERY = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """A checkpoint and how it is asked: with a thought, or for the box at once."""

    name: str
    checkpoint: Path
    reasoning: bool


@dataclass(slots=True)
class SuiteScore:
    """One checkpoint on one suite.

    Attributes:
        kinds: query kind per scene.
        ious: IoU per scene (of negatives: 1 when rightly rejected).
        rejected: per scene, whether the answer was "not there".
    """

    kinds: list[str] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    rejected: list[bool] = field(default_factory=list)

    def add(self, case: SuiteCase, text: str) -> None:
        self.kinds.append(case.query.kind)
        self.ious.append(round(iou_of(text, case.query), 5))
        self.rejected.append(rejects(text, case.query))

    def by_kind(self) -> dict[str, Score]:
        """Scores over all and per kind."""
        found = {"all": score(self.ious)}
        for kind in dict.fromkeys(self.kinds):
            found[kind] = score([v for k, v in zip(self.kinds, self.ious, strict=True) if k == kind])
        return found

    @property
    def rejection(self) -> tuple[float, tuple[float, float]]:
        """Share answered "not there" and its 95 % Wilson interval."""
        count = sum(self.rejected)
        return count / len(self.rejected), wilson(count, len(self.rejected))


Results = dict[str, dict[str, SuiteScore]]
"""suite -> checkpoint's name -> what was measured."""


def measure(asked: list[Asked], suites: list[Suite], count: int, cache: Path, device: torch.device) -> Results:
    """Put `count` scenes of every suite to every checkpoint; goes on from what `cache` holds.

    Args:
        cache: directory of the raw results.
    """
    models = {}
    for one in asked:
        models[one.name] = load_fast(one.checkpoint, device)
    marks = {one.name: f"{_weights_sha256(one.checkpoint)} reasoning={one.reasoning}" for one in asked}
    return {suite.name: _measure_suite(asked, models, marks, suite, count, cache) for suite in suites}


def _measure_suite(
    asked: list[Asked], models: dict[str, FastNano], marks: dict[str, str], suite: Suite, count: int, cache: Path
) -> dict[str, SuiteScore]:
    path = cache / f"{suite.name.replace(', ', '_').replace(' ', '-')}.json"
    found = _load(path, marks)
    if all(len(found[one.name].ious) >= count for one in asked):
        return {one.name: _first(found[one.name], count) for one in asked}
    cases = suite.cases(count)
    for number, start in enumerate(range(0, count, _CHUNK), 1):
        part = cases[start : start + _CHUNK]
        waiting = [one for one in asked if len(found[one.name].ious) < start + len(part)]
        if not waiting:
            continue
        patches = patches_of(part)
        for one in waiting:
            known = found[one.name]
            del known.kinds[start:], known.ious[start:], known.rejected[start:]
            for case, text in zip(part, write(models[one.name], patches, part, reasoning=one.reasoning), strict=True):
                known.add(case, text)
        if number % _SAVE_EVERY == 0 or start + _CHUNK >= count:
            _save(path, found, marks)
            log.info("%s: %d of %d scenes", suite.name, min(start + _CHUNK, count), count)
    return {one.name: _first(found[one.name], count) for one in asked}


def _first(measured: SuiteScore, count: int) -> SuiteScore:
    return SuiteScore(measured.kinds[:count], measured.ious[:count], measured.rejected[:count])


def _load(path: Path, marks: dict[str, str]) -> dict[str, SuiteScore]:
    """What is known of these very weights; anything else starts empty."""
    found = {name: SuiteScore() for name in marks}
    for name, entry in _entries(path).items():
        if marks.get(name) == entry["mark"]:
            found[name] = SuiteScore(entry["kinds"], entry["ious"], entry["rejected"])
    return found


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values: dict[str, dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values


def _save(path: Path, found: dict[str, SuiteScore], marks: dict[str, str]) -> None:
    """Checkpoints that were not asked this time keep what is known of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = _entries(path) | {
        name: {"mark": marks[name], "kinds": m.kinds, "ious": m.ious, "rejected": m.rejected}
        for name, m in found.items()
    }
    with whole_file(path) as stream:
        json.dump(plain, stream)


def _weights_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def pair(results: Results, suite: str, first: str, second: str) -> Paired:
    """Second against first on the same scenes: McNemar's test and the bootstrap interval of the gain."""
    a, b = results[suite][first], results[suite][second]
    return paired(a.ious, b.ious, list(range(len(a.ious))))


SUITES: tuple[Suite, ...] = (MODAL, AMODAL, NEGATIVE, HOUSEHOLD, HOUSEHOLD_AMODAL)
"""What the arms of a plan are compared on."""
