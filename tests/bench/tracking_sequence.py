"""Trackers on your own footage: `python -m tests.bench.tracking --sequence DIR`.

A sequence is a folder of frames in the order of their names and `boxes_xyxy.csv`, one row a frame, pixels of the frame, `nan`
where the object is not to be seen; `fps`, if there, holds the frame rate. A simulated model looks at a frame, answers with its
true box `latency` seconds later and looks again. All trackers see the same frames in turn, so that their times compare.
The drawn takes of `tests.bench.tracking` go the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.tracking import Tracker, TrackState
from tests.bench.tracking_baselines import Baseline, Image, available

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
SURE = 0.5  # of quality: a box that is wrong above it is false confidence


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """Frames [H, W, 3] uint8 RGB, a true box each (None where the object is absent), frames a second."""

    frames: list[Image] | NDArray[np.uint8]
    boxes: list[Box | None]
    fps: float

    def every(self, nth: int) -> Sequence:
        """Every `nth` frame of it."""
        return Sequence(self.frames[::nth], self.boxes[::nth], self.fps / nth)


def read_sequence(folder: Path, fps: float | None = None) -> Sequence:
    """Raises:
    SystemExit: frames and boxes do not belong together.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    rows = np.loadtxt(folder / "boxes_xyxy.csv", delimiter=",", ndmin=2)
    if len(rows) != len(paths) or rows.shape[1:] != (4,):
        raise SystemExit(f"expected {len(paths)} rows of 4 in {folder / 'boxes_xyxy.csv'}, found {rows.shape}")
    if fps is None:
        fps = float((folder / "fps").read_text()) if (folder / "fps").exists() else 30.0
    frames = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    height, width = frames[0].shape[:2]
    boxes = [Box(*row).clipped(width, height) if np.isfinite(row).all() else None for row in rows.tolist()]
    return Sequence(frames, boxes, fps)


Model = Callable[[int], "Box | None"]  # its answer about the frame of that index; None where it sees no object


class Ours:
    """The tracker itself, driven as a node drives it: a push a frame, the answer replayed from its own frame."""

    def __init__(self) -> None:
        self._tracker = Tracker()

    def push(self, image: Image, index: int, fps: float) -> None:
        self._tracker.push(image, int(index / fps * 1e9))

    def answer(self, box: Box, index: int, fps: float) -> None:
        self._tracker.start("target", box, int(index / fps * 1e9))

    def now(self) -> tuple[Box, bool, float] | None:
        for tracked in self._tracker.boxes():
            return tracked.box, tracked.state is TrackState.LOST, tracked.quality
        return None


class Replayed:
    """A baseline with the same replay: it starts on the answer's frame and catches up."""

    def __init__(self, make: Callable[[Image, Box], Baseline]) -> None:
        self._make, self._ring = make, list[Image]()
        self._follower: Baseline | None = None
        self._result: tuple[Box, bool, float] | None = None

    def push(self, image: Image, index: int, fps: float) -> None:
        self._ring.append(image)
        self._step(image)

    def answer(self, box: Box, index: int, fps: float) -> None:
        self._follower = self._make(self._ring[index], box)
        for image in self._ring[index + 1 :]:
            self._step(image)

    def now(self) -> tuple[Box, bool, float] | None:
        return self._result

    def _step(self, image: Image) -> None:
        if self._follower is not None:
            box, lost = self._follower.update(image)
            self._result = (box, lost, 0.0 if lost else 1.0)


@dataclass
class Score:
    """What a tracker said, frame by frame: `iou` and `lost` where the object is visible, `absent_lost` where it is not."""

    iou: list[float] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    absent_lost: list[bool] = field(default_factory=list)
    push_ms: list[float] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)

    def add(self, other: Score) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name).extend(getattr(other, name))

    def note(self, said: tuple[Box, bool, float] | None, true: Box | None) -> None:
        if said is None:
            return
        box, lost, quality = said
        if true is None:
            self.absent_lost.append(lost)
        else:
            self.iou.append(box.iou(true))
            self.lost.append(lost)
            self.quality.append(quality)

    def row(self) -> dict[str, float]:
        """Shares of the frames on which the object is visible; `absent_lost` of the others."""
        iou, lost = np.array(self.iou or [0.0]), np.array(self.lost or [False])
        sure = ~lost & (np.array(self.quality or [0.0]) >= SURE)
        return {
            "frames": len(self.iou),
            "share50": float((iou >= 0.5).mean()),
            "median": float(np.median(iou)),
            "p10": float(np.percentile(iou, 10)),
            "below02": float((iou < 0.2).mean()),
            "lost": float(lost.mean()),
            "lost_right": float((lost & (iou >= 0.5)).mean()),
            "false_confidence": float((sure & (iou < 0.2)).mean()),
            "absent_lost": float(np.mean(self.absent_lost)) if self.absent_lost else math.nan,
            "absent_frames": len(self.absent_lost),
            "p50_ms": float(np.median(self.push_ms)),
            "p95_ms": float(np.percentile(self.push_ms, 95)),
        }


def run_sequence(
    sequence: Sequence, latency_s: float, names: list[str], model: Model | None = None
) -> dict[str, Score]:
    """Every named tracker on one sequence, frame by frame in turn; without a model the true boxes are the answers."""
    makers, ask = available(), model or (lambda index: sequence.boxes[index])
    trackers: dict[str, Ours | Replayed] = {n: Ours() if n == "egm" else Replayed(makers[n]) for n in names}
    scores = {name: Score() for name in names}
    asked, due_s = 0, latency_s
    for index, image in enumerate(sequence.frames):
        for name, tracker in trackers.items():
            begin = time.perf_counter()
            tracker.push(image, index, sequence.fps)
            scores[name].push_ms.append((time.perf_counter() - begin) * 1e3)
        if index / sequence.fps >= due_s - 1e-9:
            answer = ask(asked)
            for name, tracker in trackers.items() if answer is not None else ():
                begin = time.perf_counter()
                tracker.answer(answer, asked, sequence.fps)
                scores[name].start_ms.append((time.perf_counter() - begin) * 1e3)
            asked, due_s = index, index / sequence.fps + latency_s
        for name, tracker in trackers.items():
            scores[name].note(tracker.now(), sequence.boxes[index])
    return scores


HEADER = (
    "| tracker | latency s | frames | IoU >= 0.5 | median | IoU < 0.2 | LOST | LOST while right | false confidence "
    "| absent: LOST | push p50 / p95 ms |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def sequence_table(scores: dict[tuple[str, float], Score]) -> Iterator[str]:
    """Rows by tracker and latency, as Markdown."""
    yield HEADER
    for (name, latency_s), score in scores.items():
        r = score.row()
        absent = f"{r['absent_lost']:.0%} of {r['absent_frames']}" if r["absent_frames"] else "-"
        yield (
            f"| {name} | {latency_s:g} | {r['frames']} | {r['share50']:.3f} | {r['median']:.2f} | {r['below02']:.3f} "
            f"| {r['lost']:.3f} | {r['lost_right']:.3f} | {r['false_confidence']:.3f} | {absent} "
            f"| {r['p50_ms']:.2f} / {r['p95_ms']:.2f} |"
        )
