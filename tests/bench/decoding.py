"""Every decoding feature off, each alone, all on, in one interleaved run: `python -m tests.bench.decoding BUNDLE`.

Asks several questions about each of a number of tabletop frames, every variant in turn on every frame, and prints one
Markdown table: wall milliseconds, decode steps, tokens, Acc@0.5. Of a bundle with random weights pass `--random-weights`: its
thought would never end, so it is cut after `--think` tokens, every reply writes a box (random weights would say `[]`), free
decoding goes on for as many tokens as such a reply has, and accuracy is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from egm_edge.boxes import Box
from egm_edge.grounder import Frame, Grounder
from egm_edge.grounding import Grounding
from egm_edge.machine import cpu_name
from egm_edge.synthetic import Query, layout, queries, render, sample_scene

FIRST_SEED = 930_000_000
QUESTIONS = 4
ANSWER_TOKENS = 43  # closing the thought, the box, and an expression of four words as its label


@dataclass(frozen=True)
class Variant:
    """Which features are on."""

    name: str
    syntax: bool = False
    lookup: bool = False
    reuse: bool = False
    samples: int = 1


VARIANTS = (
    Variant("all off"),
    Variant("forced syntax", syntax=True),
    Variant("speculation", lookup=True),
    Variant("frame reuse", reuse=True),
    Variant("4 votes", samples=4),
    Variant("all on", syntax=True, lookup=True, reuse=True),
    Variant("all on, 4 votes", syntax=True, lookup=True, reuse=True, samples=4),
)


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        frame_wh: pictures. think: tokens after which the thought is cut; None for never.
        random_weights: replies would go on for ever.
    """

    frame_wh: tuple[int, int]
    think: int | None
    random_weights: bool


@dataclass
class Tally:
    """What one variant cost and found, by place of the question on its frame."""

    ms: list[list[float]] = field(default_factory=lambda: [[] for _ in range(QUESTIONS)])
    steps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def add(self, place: int, ms: float, grounding: Grounding, truth: Box | None) -> None:
        self.ms[place].append(ms)
        self.steps.append(grounding.tokens.decode_steps)
        self.tokens.append(grounding.tokens.completion)
        found = grounding.box
        self.right.append(found is None if truth is None else found is not None and found.iou(truth) > 0.5)

    def row(self, accuracy: bool) -> dict[str, Any]:
        every = [ms for place in self.ms for ms in place]
        return {
            "mean_ms": float(np.mean(every)),
            "p50_ms": float(np.median(every)),
            "first_on_frame_ms": float(np.median(self.ms[0])),
            "later_on_frame_ms": float(np.median([ms for place in self.ms[1:] for ms in place])),
            "decode_steps": float(np.mean(self.steps)),
            "tokens": float(np.mean(self.tokens)),
            "acc50": float(np.mean(self.right)) if accuracy else None,
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--think", type=int, help="cut the thought after this many tokens")
    parser.add_argument("--size", default="640x480", help="of the pictures, WxH")
    parser.add_argument("--max-s", type=float, default=1e9, help="stop after the frame that passes this many seconds")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    load = Load((width, height), arguments.think, arguments.random_weights)
    tallies = {variant: Tally() for variant in VARIANTS}
    with Grounder.from_bundle(arguments.bundle, threads=arguments.threads) as grounder:
        grounder.warm_up()
        if load.random_weights:
            grounder.syntax.template = replace(grounder.syntax.template, empty=())
        frames = _measure(grounder, tallies, load, arguments.frames, arguments.max_s)
        facts = grounder.backend.facts
    rows = {variant.name: tally.row(not arguments.random_weights) for variant, tally in tallies.items()}
    print(_markdown(rows))
    print(f"\n{frames} frames x {QUESTIONS} questions, {cpu_name()}, {facts.runtime}, {facts.threads} threads")
    if arguments.json:
        arguments.json.write_text(json.dumps({"frames": frames, "rows": rows}, indent=1) + "\n")


def _measure(grounder: Grounder, tallies: dict[Variant, Tally], load: Load, count: int, max_s: float) -> int:
    started, done, seed = time.perf_counter(), 0, FIRST_SEED
    while done < count and time.perf_counter() - started < max_s:
        seed += 1
        image, asked = _scene(seed, load.frame_wh)
        if len(asked) < QUESTIONS:
            continue
        for turn in range(len(VARIANTS)):
            variant = VARIANTS[(turn + done) % len(VARIANTS)]  # none is always the one behind the same other one
            shared = grounder.frame(image, color="rgb")
            for place, query in enumerate(asked):
                truth = Box.from_norm1000(query.box_norm1000, *load.frame_wh) if query.box_norm1000 else None
                began = time.perf_counter()
                frame = shared if variant.reuse else grounder.frame(image, color="rgb")
                grounding = _ask(grounder, frame, query, variant, load)
                tallies[variant].add(place, (time.perf_counter() - began) * 1e3, grounding, truth)
        done += 1
    return done


def _ask(grounder: Grounder, frame: Frame, query: Query, variant: Variant, load: Load) -> Grounding:
    grounder.speculate, grounder.lookup = variant.syntax or variant.lookup, variant.lookup
    limit = None
    if load.random_weights:
        limit = (load.think or 0) + (2 if variant.syntax else 1) * ANSWER_TOKENS  # a held answer ends by itself
    return grounder.ground(
        frame,
        query.expression,
        task=query.task,
        samples=variant.samples,
        seed=0,
        force_syntax=variant.syntax,
        max_think_tokens=load.think if variant.syntax else None,
        max_new_tokens=limit,
    )


def _scene(seed: int, frame_wh: tuple[int, int]) -> tuple[np.ndarray, list[Query]]:
    scene = sample_scene(seed, (1, 6))
    where = layout(scene, *frame_wh)
    return render(scene, *frame_wh).image, queries(scene, random.Random(seed), where=where, count=QUESTIONS)


def _markdown(rows: dict[str, dict[str, Any]]) -> str:
    base = rows[VARIANTS[0].name]["mean_ms"]
    lines = [
        "| features | mean ms | median ms | first sentence ms | later sentences ms | decode steps | tokens | Acc@0.5 | speed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        accuracy = "-" if row["acc50"] is None else f"{row['acc50']:.3f}"
        lines.append(
            f"| {name} | {row['mean_ms']:.1f} | {row['p50_ms']:.1f} | {row['first_on_frame_ms']:.1f} | "
            f"{row['later_on_frame_ms']:.1f} | {row['decode_steps']:.1f} | {row['tokens']:.1f} | {accuracy} | "
            f"{base / row['mean_ms']:.2f} x |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
