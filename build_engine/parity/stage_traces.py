"""What a comparison gathers on its way: pairs of (reference, backend) arrays by stage, and what is wrong in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from build_engine.parity import stages
from build_engine.parity.bounds import Bounds
from build_engine.parity.report import StageResult


@dataclass(slots=True)
class StageTraces:
    """Of one bundle."""

    embeddings: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    deepstack: list[tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = field(default_factory=list)
    prefill: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    decode: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    broken: str = ""

    def note(self, stage: str, *found: str) -> None:
        self.problems.setdefault(stage, []).extend(found)

    def results(self, bounds: Bounds) -> dict[str, StageResult]:
        """The measured stages by name."""
        known = self.problems.get
        found = [
            stages.vision(self.embeddings, bounds, known("vision embedding", ())),
            stages.deep_stack(self.deepstack, bounds, known("deep-stack", ())),
            stages.logits("prefill logits", self.prefill, bounds, known("prefill logits", ())),
            stages.logits("decode logits", self.decode, bounds, known("decode logits", ())),
        ]
        return {stage.name: stage for stage in (self._after_failure(found) if self.broken else found)}

    def _after_failure(self, found: list[StageResult]) -> list[StageResult]:
        """The engine stopped. What it finished and settings that differ speak for themselves; else its own words name the stage."""
        if not self.embeddings:
            found = [s if s.passed is False else StageResult(s.name, None) for s in found]
        if all(stage.passed is not False for stage in found):
            blamed = next((name for word, name in _BLAMED if word in self.broken), "prefill logits")
            found = [StageResult(blamed, False, detail=self.broken) if s.name == blamed else s for s in found]
        return found


# Words of an engine's error, most telling first.
_BLAMED = (("deepstack", "deep-stack"), ("vision", "vision embedding"), ("patches", "vision embedding"))


@dataclass(slots=True)
class BundleTraces:
    """A bundle without its rounding and as it is; one and the same run at fp32.

    Attributes:
        exact: bounds of `structure`. rounding: weights whose rounding is wrong.
    """

    structure: StageTraces
    rounded: StageTraces
    exact: Bounds
    rounding: list[str]

    @property
    def broken(self) -> str:
        return self.structure.broken or self.rounded.broken

    @property
    def text_problems(self) -> list[str]:
        runs = [self.structure] if self.rounded is self.structure else [self.structure, self.rounded]
        return [problem for run in runs for problem in run.problems.get("text", ())]

    def results(self, bounds: Bounds) -> Iterator[StageResult]:
        """One result a stage: the structure's where that is wrong, else the rounded bundle's."""
        rounded = self.rounded.results(bounds)
        for name, exact in self.structure.results(self.exact).items():
            if self.rounded is self.structure:
                yield exact
            elif exact.passed is False:
                yield replace(exact, detail=_joined(exact.detail, "with all weights unrounded"))
            else:
                figure = "" if exact.worst is None else f"unrounded {exact.worst:.2g} (bound {exact.bound:.2g})"
                yield replace(rounded[name], detail=_joined(rounded[name].detail, figure))


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
