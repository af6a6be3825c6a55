"""Asks the questions and times them: warm-up, plain requests, sweeps. Knows the Grounder's public face only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from egm_edge.auto import AnyGrounder
from egm_edge.benchmark.sample import Sample
from egm_edge.benchmark.workload import Workload, WorkloadRequest, expression_of_words, resized
from egm_edge.decoding import DecodingKeywords
from egm_edge.errors import InputError
from egm_edge.grounder import Grounder
from egm_edge.images import MAX_PIXELS

Told = Callable[[int, int], None]


def ask(grounder: AnyGrounder, question: WorkloadRequest, max_new_tokens: int | None, image: Any = None) -> Sample:
    """One request from encoded picture to Grounding (or on `image`, an RGB array or a Frame)."""
    times: list[float] = []
    decoding: DecodingKeywords = {"max_new_tokens": max_new_tokens}
    if isinstance(grounder, Grounder) and not grounder.stop_ids:
        decoding["force_syntax"] = False  # where no end token ends an answer, its syntax must not either
    grounding = grounder.ground(
        question.image if image is None else image,
        question.expression,
        task=question.task,
        color="rgb",
        on_token=lambda event: times.append(time.perf_counter()),
        **decoding,
    )
    return Sample.of(grounding, question.name, times)


def measure_requests(
    grounder: AnyGrounder,
    workload: Workload,
    count: int,
    max_new_tokens: int | None,
    told: Told | None = None,
    before_each: Callable[[], object] | None = None,
) -> list[Sample]:
    """`count` requests one after another, each on a frame of its own; `before_each` runs outside the clock."""
    samples = []
    for question in workload.take(count):
        if before_each:
            before_each()
        samples.append(ask(grounder, question, max_new_tokens))
        if told:
            told(len(samples), count)
    return samples


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting of one axis, and what its requests cost.

    Attributes:
        axis: "resolution", "prompt", "tokens" or "commands". setting: as typed.
        x: the setting as a number: megapixels, words, token cap, commands.
        samples: with "commands", one per command; the first of a frame pays for the frame.
        group_ms: per frame: from its pixels to the last of its answers.
    """

    axis: str
    setting: str
    x: float
    samples: list[Sample]
    group_ms: list[float]


def parse_sweeps(texts: list[str]) -> list[tuple[str, str]]:
    """`AXIS=SETTING,SETTING` words -> (axis, setting) pairs.

    Raises:
        InputError: an unknown axis or a setting that does not fit it.
    """
    found = []
    for text in texts:
        axis, _, settings = text.partition("=")
        if axis not in _ASKERS:
            raise InputError(f"a sweep over {', '.join(_ASKERS)}", repr(text), "for example --sweep tokens=16,32,64")
        for setting in settings.split(","):
            _number(axis, setting)
            found.append((axis, setting))
    return found


def measure_sweep(
    grounder: AnyGrounder,
    workload: Workload,
    points: list[tuple[str, str]],
    count: int,
    max_new_tokens: int | None,
    told: Told | None = None,
) -> list[SweepPoint]:
    """Every point `count` times, in rounds over all points, so that a change of the machine's mood meets all alike."""
    found = [SweepPoint(axis, setting, _number(axis, setting), [], []) for axis, setting in points]
    questions = list(workload.take(count + 1))
    for turn, question in enumerate(questions):  # the first round is the warm-up of every shape
        for i, point in enumerate(found):
            started = time.perf_counter()
            samples = list(_ASKERS[point.axis](grounder, question, point.setting, max_new_tokens))
            if turn:
                point.samples.extend(samples)
                point.group_ms.append((time.perf_counter() - started) * 1e3)
            if told:
                told(turn * len(found) + i + 1, len(found) * len(questions))
    return found


def _at_resolution(grounder: AnyGrounder, question: WorkloadRequest, setting: str, cap: int | None) -> Iterator[Sample]:
    width, _, height = setting.partition("x")
    yield ask(grounder, question, cap, resized(question.image, int(width), int(height)))


def _with_words(grounder: AnyGrounder, question: WorkloadRequest, setting: str, cap: int | None) -> Iterator[Sample]:
    yield ask(grounder, WorkloadRequest(question.name, question.image, expression_of_words(int(setting)), question.task), cap)


def _with_cap(grounder: AnyGrounder, question: WorkloadRequest, setting: str, cap: int | None) -> Iterator[Sample]:
    yield ask(grounder, question, int(setting))


def _with_commands(grounder: AnyGrounder, question: WorkloadRequest, setting: str, cap: int | None) -> Iterator[Sample]:
    frame = grounder.frame(question.image)
    for number in range(int(setting)):
        words = f"{question.expression} {number}" if number else question.expression
        yield ask(grounder, WorkloadRequest(question.name, question.image, words, question.task), cap, frame)


_ASKERS: dict[str, Callable[[AnyGrounder, WorkloadRequest, str, int | None], Iterator[Sample]]] = {
    "resolution": _at_resolution,
    "prompt": _with_words,
    "tokens": _with_cap,
    "commands": _with_commands,
}


def _number(axis: str, setting: str) -> float:
    parts = setting.split("x") if axis == "resolution" else [setting]
    if len(parts) != (2 if axis == "resolution" else 1) or not all(
        p.isdecimal() and 0 < int(p) <= 100_000 for p in parts
    ) or math.prod(map(int, parts)) > MAX_PIXELS:
        example = "640x480" if axis == "resolution" else "16"
        raise InputError(f"{axis} settings such as {example}", repr(setting), f"for example --sweep {axis}={example}")
    return int(parts[0]) * int(parts[1]) / 1e6 if axis == "resolution" else float(setting)
