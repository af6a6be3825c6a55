"""Workload: the frames and expressions that are measured, in a fixed order. Knows nothing of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.grounding import Task
from egm_edge.images import load_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
EXPRESSIONS_NAME = "expressions.json"
DEFAULT_EXPRESSION = "the red mug left of the kettle"
SYNTHETIC_WH = (640, 480)
FILLER_WORDS = ["the", "small", "dark", "one", "that", "stands", "next", "to"]


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """One request to be.

    Attributes:
        name: of the frame. image: its encoded bytes, as a camera or a file hands them over.
        expression, task: what is asked.
    """

    name: str
    image: bytes
    expression: str
    task: Task


@dataclass(frozen=True, slots=True)
class Workload:
    """Questions, asked in turn as often as needed; at least one."""

    questions: tuple[WorkloadRequest, ...]

    def take(self, count: int) -> Iterator[WorkloadRequest]:
        """The first `count`, from the start again when they run out."""
        return islice(cycle(self.questions), count)

    def describe(self) -> list[dict[str, Any]]:
        """JSON-ready."""
        return [{"frame": q.name, "expression": q.expression, "task": q.task.value} for q in self.questions]


def read_workload(frames_dir: Path | None, expression: str | None = None, *, at_most: int | None = None) -> Workload:
    """The pictures of a folder, by name; their questions from `expressions.json` beside them, else one for all.

    Args:
        frames_dir: None for one synthetic 640x480 picture.
        expression: asked of every frame, whatever the file says.
        at_most: questions that will be taken; the pictures of further ones are not read. None for all.

    Raises:
        InputError: no folder, no usable picture, or a damaged expressions.json.
    """
    if frames_dir is None:
        return Workload(
            (WorkloadRequest("synthetic", _synthetic(), check_expression(expression or DEFAULT_EXPRESSION), Task.MODAL),)
        )
    if not frames_dir.is_dir():
        what = "a file" if frames_dir.exists() else "nothing"
        raise InputError("a folder of pictures", f"{what} at {frames_dir}", "check --frames")
    paths = sorted(p for p in frames_dir.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise InputError(f"pictures in {frames_dir}", f"none with {', '.join(SUFFIXES)}", "check --frames")
    listed = {} if expression else _listed(frames_dir / EXPRESSIONS_NAME)
    questions: list[WorkloadRequest] = []
    for path in paths:
        if len(questions) == at_most:
            break
        load_image(path)  # a picture that cannot be read stops the run before it starts
        image = path.read_bytes()
        asked = listed.get(path.name) or [(expression or DEFAULT_EXPRESSION, Task.MODAL)]
        for text, task in asked[: None if at_most is None else at_most - len(questions)]:
            questions.append(WorkloadRequest(path.name, image, check_expression(text), task))
    return Workload(tuple(questions))


def resized(image: bytes, width: int, height: int) -> np.ndarray:
    """A picture at another size, [height, width, 3] uint8 RGB."""
    return np.asarray(cv2.resize(load_image(image), (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def expression_of_words(count: int) -> str:
    """An expression of exactly `count` words, for sweeps over prompt length."""
    return " ".join([*islice(cycle(FILLER_WORDS), max(count - 1, 0)), "mug"])


def _listed(path: Path) -> dict[str, list[tuple[str, Task]]]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: [(str(entry["expression"]), Task.parse(entry.get("task", "modal"))) for entry in entries]
            for name, entries in values.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{path}: {type(error).__name__}: {error}"
        raise InputError("picture name -> [{expression, task}]", found, "correct it, or pass --expression") from None


def _synthetic() -> bytes:
    """A picture of smooth colours: its content does not matter to the time, only its size does."""
    width, height = SYNTHETIC_WH
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", image)[1].tobytes()
