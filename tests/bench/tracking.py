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
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from egm_edge import Grounder
from egm_edge.boxes import Box
from egm_edge.synthetic.trajectories import MOTIONS, sample_motion
from tests.bench.tracking_baselines import available
from tests.bench.tracking_sequence import Model, Score, Sequence, read_sequence, run_sequence, sequence_table

RATE_HZ = 30
FIRST_SEED = 880_000_000
VISIBLE = 1 / 3


def take(
    seed: int, motion: str, width_px: int, height_px: int, seconds: float, cache: Path | None = None
) -> tuple[Sequence, str]:
    """A rendered sequence and the target's expression; its box is None where less than a third of it is visible.

    `cache` keeps the frames of earlier calls.
    """
    scene, count = sample_motion(seed, motion, aspect=width_px / height_px, seconds=seconds), int(seconds * RATE_HZ)
    kept = cache / f"{motion}-{seed}-{width_px}x{height_px}-{count}.npz" if cache else None
    if kept and kept.exists():
        with np.load(kept) as saved:
            frames, modal, visible = saved["frames"], saved["modal"], saved["visible"]
    else:
        shots = [scene.frame(index / RATE_HZ, width_px, height_px) for index in range(count)]
        frames, t = np.stack([shot.image for shot in shots]), scene.target
        modal = np.array([box.xyxy if (box := shot.modal[t]) else (0.0, 0.0, 0.0, 0.0) for shot in shots])
        visible = np.array([shot.visible[t] for shot in shots])
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, frames=frames, modal=modal, visible=visible)
    seen = (visible >= VISIBLE) & (modal[:, 2] > modal[:, 0])
    boxes = [Box(*row) if there else None for row, there in zip(modal.tolist(), seen, strict=True)]
    return Sequence(frames, boxes, RATE_HZ), scene.expression


def truth(shots: Sequence, jitter: float, rng: random.Random) -> Model:
    """The true box, its sides moved by up to `jitter` of its width and height; None where it is hardly visible."""

    def answer(index: int) -> Box | None:
        box = shots.boxes[index]
        if box is None:
            return None
        width, height = box.x2 - box.x1, box.y2 - box.y1
        dx1, dx2, dy1, dy2 = ((2 * rng.random() - 1) * jitter for _ in range(4))
        moved = Box(box.x1 + dx1 * width, box.y1 + dy1 * height, box.x2 + dx2 * width, box.y2 + dy2 * height)
        return moved.clipped(shots.frames[index].shape[1], shots.frames[index].shape[0])

    return answer


def from_bundle(grounder: Grounder, shots: Sequence, expression: str) -> Model:
    """A real bundle's answers; those of one frame are given once and remembered."""
    return lru_cache(maxsize=None)(lambda index: grounder.ground(shots.frames[index], expression, color="rgb").box)


HEADER = (
    "| motion | latency s | frames | median IoU without | with | p10 without | with | IoU >= 0.5 without | with "
    "| said LOST | hidden: said LOST |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def table(rows: dict[tuple[str, float], dict[str, Score]]) -> Iterator[str]:
    yield HEADER
    for (motion, latency_s), scores in rows.items():
        was, r = scores["none"].row(), scores["egm"].row()
        hidden = f"{r['absent_lost']:.0%} of {r['absent_frames']}" if r["absent_frames"] else "-"
        yield (
            f"| {motion} | {latency_s:g} | {r['frames']:.0f} | {was['median']:.2f} | **{r['median']:.2f}** "
            f"| {was['p10']:.2f} | {r['p10']:.2f} | {was['share50']:.0%} | {r['share50']:.0%} "
            f"| {r['lost']:.0%} | {hidden} |"
        )


def on_footage(wanted: argparse.Namespace) -> None:
    """Every tracker on recorded sequences, one table; times are of one core."""
    cv2.setNumThreads(1)
    scores = {(name, latency): Score() for latency in wanted.latencies for name in wanted.trackers}
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
    rows = {
        (motion, latency): {name: Score() for name in ("none", "egm")}
        for motion in [*wanted.motions, "all"]
        for latency in wanted.latencies
    }
    grounder = Grounder.from_bundle(wanted.bundle) if wanted.bundle else None
    for motion in wanted.motions:
        for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
            shots, expression = take(seed, motion, width_px, height_px, wanted.seconds, wanted.cache)
            answers = from_bundle(grounder, shots, expression) if grounder else None
            for latency in wanted.latencies:
                model = answers or truth(shots, wanted.jitter, random.Random(seed))
                for name, score in run_sequence(shots, latency, ["none", "egm"], model).items():
                    rows[motion, latency][name].add(score)
                    rows["all", latency][name].add(score)
    if wanted.json:
        flat = [
            {"motion": motion, "latency_s": latency, "tracker": name, **score.row()}
            for (motion, latency), scores in rows.items()
            for name, score in scores.items()
        ]
        print(json.dumps(flat, indent=1))
        return
    print(*table(rows), sep="\n")
    every = [rows["all", latency]["egm"] for latency in wanted.latencies]
    push = np.concatenate([score.push_ms for score in every])
    start = np.concatenate([score.start_ms for score in every])
    print(f"\npush p50 {np.median(push):.2f} ms, p95 {np.percentile(push, 95):.2f} ms; ", end="")
    print(f"start p50 {np.median(start):.1f} ms, p95 {np.percentile(start, 95):.1f} ms")


if __name__ == "__main__":
    main()
