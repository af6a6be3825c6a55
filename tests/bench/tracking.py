"""How good a box still is when a slow model's answer arrives: `python -m tests.bench.tracking`.

A camera at 30 Hz looks at moving tabletops. A model takes the newest frame, answers with the true box of that frame
`latency` seconds later, takes the newest frame again. At every camera frame two boxes are compared with the truth of that
very frame: the answer as it came (without), and the answer carried by the tracker (with). `--bundle DIR` lets a real
bundle give the answers, `--jitter` disturbs the true ones.

Frames on which less than a third of the target is visible are counted apart: there a box is a guess, and LOST is right.

`--sequence DIR` compares trackers on recorded footage instead (see `tests.bench.tracking_sequence`).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.synthetic.trajectories import MOTIONS, sample_motion
from egm_edge.tracking import Tracker, TrackerSettings, TrackState
from tests.bench.tracking_baselines import available
from tests.bench.tracking_sequence import Score as FootageScore
from tests.bench.tracking_sequence import read_sequence, run_sequence, sequence_table

RATE_HZ = 30
FIRST_SEED = 880_000_000
VISIBLE = 1 / 3


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """A rendered sequence.

    Attributes:
        frames: [N, H, W, 3] uint8 RGB.
        modal: true modal box of the target per frame, None where invisible.
        visible: visible part of the target per frame, 0-1.
    """

    motion: str
    expression: str
    frames: NDArray[np.uint8]
    modal: list[Box | None]
    amodal: list[Box]
    visible: list[float]


def take(seed: int, motion: str, width_px: int, height_px: int, seconds: float, cache: Path | None = None) -> Take:
    """Render a sequence; `cache` keeps the frames of earlier calls."""
    scene = sample_motion(seed, motion, aspect=width_px / height_px, seconds=seconds)
    count = int(seconds * RATE_HZ)
    kept = cache / f"{motion}-{seed}-{width_px}x{height_px}-{count}.npz" if cache else None
    if kept and kept.exists():
        with np.load(kept) as saved:
            frames = saved["frames"]
            modal = [Box(*row) if row[2] > row[0] else None for row in saved["modal"].tolist()]
            amodal = [Box(*row) for row in saved["amodal"].tolist()]
            return Take(motion, scene.expression, frames, modal, amodal, saved["visible"].tolist())
    shots = [scene.frame(index / RATE_HZ, width_px, height_px) for index in range(count)]
    t = scene.target
    made = Take(
        motion,
        scene.expression,
        np.stack([shot.image for shot in shots]),
        [shot.modal[t] for shot in shots],
        [shot.amodal[t] for shot in shots],
        [shot.visible[t] for shot in shots],
    )
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        rows = [box.xyxy if box else (0.0, 0.0, 0.0, 0.0) for box in made.modal]
        np.savez(kept, frames=made.frames, modal=rows, amodal=[box.xyxy for box in made.amodal], visible=made.visible)
    return made


@dataclass
class Score:
    """IoU at publish time, frame by frame.

    Attributes:
        without, carried: IoU with the truth of the frame, target visible; a LOST track counts with its last box.
        lost: of those frames, whether the tracker said LOST.
        hidden_lost: the same for frames on which the target is hidden or gone.
        push_ms, start_ms: time of the calls.
    """

    without: list[float] = field(default_factory=list)
    carried: list[float] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    hidden_lost: list[bool] = field(default_factory=list)
    push_ms: list[float] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)

    def add(self, other: Score) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name).extend(getattr(other, name))

    def row(self) -> dict[str, float]:
        """Medians, the tenth percentile and the share of IoU >= 0.5, of both; how often LOST."""
        without, carried = np.array(self.without or [0.0]), np.array(self.carried or [0.0])
        return {
            "frames": len(self.without),
            "without_median": float(np.median(without)),
            "with_median": float(np.median(carried)),
            "without_p10": float(np.percentile(without, 10)),
            "with_p10": float(np.percentile(carried, 10)),
            "without_acc50": float((without >= 0.5).mean()),
            "with_acc50": float((carried >= 0.5).mean()),
            "lost": float(np.mean(self.lost)) if self.lost else 0.0,
            "hidden_frames": len(self.hidden_lost),
            "hidden_lost": float(np.mean(self.hidden_lost)) if self.hidden_lost else 0.0,
        }


Model = Callable[[Take, int], Box | None]


def truth(jitter: float, rng: random.Random) -> Model:
    """The true box, its sides moved by up to `jitter` of its width and height; None where it is hardly visible."""

    def answer(shots: Take, index: int) -> Box | None:
        box = shots.modal[index]
        if box is None or shots.visible[index] < VISIBLE:
            return None
        width, height = box.x2 - box.x1, box.y2 - box.y1
        dx1, dx2, dy1, dy2 = ((2 * rng.random() - 1) * jitter for _ in range(4))
        moved = Box(box.x1 + dx1 * width, box.y1 + dy1 * height, box.x2 + dx2 * width, box.y2 + dy2 * height)
        return moved.clipped(shots.frames.shape[2], shots.frames.shape[1])

    return answer


def run(shots: Take, latency_s: float, model: Model, settings: TrackerSettings | None = None) -> Score:
    """One sequence at one latency."""
    tracker, score = Tracker(settings), Score()
    asked, due, held = 0, latency_s, None
    for index, image in enumerate(shots.frames):
        now, stamp_ns = index / RATE_HZ, index * 1_000_000_000 // RATE_HZ
        begin = time.perf_counter()
        tracker.push(image, stamp_ns)
        score.push_ms.append((time.perf_counter() - begin) * 1e3)
        if now >= due - 1e-9:
            answer = model(shots, asked)
            if answer is not None:
                held = answer
                begin = time.perf_counter()
                tracker.start("target", answer, asked * 1_000_000_000 // RATE_HZ)
                score.start_ms.append((time.perf_counter() - begin) * 1e3)
            asked, due = index, now + latency_s
        if held is None:
            continue
        (tracked,) = tracker.boxes()
        lost = tracked.state is TrackState.LOST
        box = shots.modal[index]
        if box is None or shots.visible[index] < VISIBLE:
            score.hidden_lost.append(lost)
            continue
        score.without.append(held.iou(box))
        score.carried.append(tracked.box.iou(box))
        score.lost.append(lost)
    return score


def from_bundle(folder: str) -> Model:
    """A real bundle's answers; those of one frame are given once and remembered."""
    from egm_edge import Grounder

    grounder = Grounder.from_bundle(folder)
    known: dict[tuple[int, int], Box | None] = {}

    def answer(shots: Take, index: int) -> Box | None:
        key = (id(shots), index)
        if key not in known:
            known[key] = grounder.ground(shots.frames[index], shots.expression, color="rgb").box
        return known[key]

    return answer


HEADER = (
    "| motion | latency s | frames | median IoU without | with | p10 without | with | IoU >= 0.5 without | with "
    "| said LOST | hidden: said LOST |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def table(rows: dict[tuple[str, float], Score]) -> Iterator[str]:
    yield HEADER
    for (motion, latency_s), score in rows.items():
        r = score.row()
        hidden = f"{r['hidden_lost']:.0%} of {r['hidden_frames']}" if r["hidden_frames"] else "-"
        yield (
            f"| {motion} | {latency_s:g} | {r['frames']:.0f} | {r['without_median']:.2f} | **{r['with_median']:.2f}** "
            f"| {r['without_p10']:.2f} | {r['with_p10']:.2f} | {r['without_acc50']:.0%} | {r['with_acc50']:.0%} "
            f"| {r['lost']:.0%} | {hidden} |"
        )


def on_footage(wanted: argparse.Namespace) -> None:
    """Every tracker on recorded sequences, one table; times are of one core."""
    cv2.setNumThreads(1)
    scores = {(name, latency): FootageScore() for latency in wanted.latencies for name in wanted.trackers}
    for folder in wanted.sequence:
        sequence = read_sequence(folder, wanted.fps).every(wanted.every)
        for latency in wanted.latencies:
            for name, score in run_sequence(sequence, latency, wanted.trackers).items():
                scores[name, latency].add(score)
    if wanted.json:
        rows = [{"tracker": n, "latency_s": s, **score.row()} for (n, s), score in scores.items()]
        print(json.dumps(rows, indent=1))
    else:
        print(*sequence_table(scores), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sequence", type=Path, nargs="+", metavar="DIR", help="your footage: frames and boxes_xyxy.csv"
    )
    parser.add_argument("--trackers", nargs="+", default=["egm", *available()], choices=["egm", *available()])
    parser.add_argument("--fps", type=float, help="frame rate of --sequence (default: its file fps, else 30)")
    parser.add_argument("--every", type=int, default=1, help="take every Nth frame of --sequence")
    parser.add_argument("--seeds", type=int, default=20, help="sequences per motion")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--motions", nargs="+", default=list(MOTIONS), choices=MOTIONS)
    parser.add_argument("--latencies", nargs="+", type=float, default=[0.3, 1.0, 2.0], help="seconds")
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a sequence")
    parser.add_argument("--jitter", type=float, default=0.0, help="disturb true boxes by this part of their size")
    parser.add_argument("--bundle", help="let this bundle answer instead of the truth")
    parser.add_argument("--cache", type=Path, help="folder for rendered frames")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    if wanted.sequence:
        on_footage(wanted)
        return
    width_px, height_px = (int(v) for v in wanted.size.split("x"))
    rows = {(motion, latency): Score() for motion in [*wanted.motions, "all"] for latency in wanted.latencies}
    bundle = from_bundle(wanted.bundle) if wanted.bundle else None
    for motion in wanted.motions:
        for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
            shots = take(seed, motion, width_px, height_px, wanted.seconds, wanted.cache)
            for latency in wanted.latencies:
                score = run(shots, latency, bundle or truth(wanted.jitter, random.Random(seed)))
                rows[motion, latency].add(score)
                rows["all", latency].add(score)
    if wanted.json:
        print(json.dumps([{"motion": m, "latency_s": s, **score.row()} for (m, s), score in rows.items()], indent=1))
        return
    print(*table(rows), sep="\n")
    every = [rows["all", latency] for latency in wanted.latencies]
    push = np.concatenate([score.push_ms for score in every])
    start = np.concatenate([score.start_ms for score in every])
    print(f"\npush p50 {np.median(push):.2f} ms, p95 {np.percentile(push, 95):.2f} ms; ", end="")
    print(f"start p50 {np.median(start):.1f} ms, p95 {np.percentile(start, 95):.1f} ms")


if __name__ == "__main__":
    main()
