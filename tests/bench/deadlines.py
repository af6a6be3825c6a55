"""Requests with random deadlines: how late answers are, and how right: `python -m tests.bench.deadlines BUNDLE`.

Camera frames as arrays, deadlines drawn between --low-ms and --high-ms. Prints how far past its deadline the slowest percent
of requests came back, beside the time of one decode step, and accuracy by deadline; --svg draws the latter.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from egm_edge.boxes import Box
from egm_edge.grounder import Grounder
from egm_edge.grounding import Outcome
from egm_edge.machine import cpu_name
from egm_edge.reporting.svg import Line, plot
from egm_edge.synthetic import layout, queries, render, sample_scene

FIRST_SEED = 940_000_000
FRAME_WH = (640, 480)
BINS = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--low-ms", type=float, default=5.0)
    parser.add_argument("--high-ms", type=float, default=60.0)
    parser.add_argument("--svg", type=Path, help="draw accuracy against deadline there")
    arguments = parser.parse_args()
    draws = random.Random(0)
    late_ms: list[float] = []
    points: list[tuple[float, bool]] = []
    outcomes: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    with Grounder.from_bundle(arguments.bundle) as grounder:
        grounder.warm_up()
        seed = FIRST_SEED
        while len(late_ms) < arguments.requests:
            seed += 1
            scene = sample_scene(seed, (1, 6))
            asked = queries(scene, random.Random(seed), where=layout(scene, *FRAME_WH), count=1, amodal=0.0)
            if not asked:
                continue
            image, query = render(scene, *FRAME_WH).image, asked[0]
            deadline_ms = draws.uniform(arguments.low_ms, arguments.high_ms)
            began = time.perf_counter()
            found = grounder.ground(image, query.expression, task=query.task, color="rgb", deadline_ms=deadline_ms)
            late_ms.append((time.perf_counter() - began) * 1e3 - deadline_ms)
            truth = Box.from_norm1000(query.box_norm1000, *FRAME_WH) if query.box_norm1000 else None
            right = (
                found.outcome is Outcome.NOT_FOUND if truth is None else bool(found.box and found.box.iou(truth) > 0.5)
            )
            points.append((deadline_ms, right))
            outcomes[found.outcome.value] += 1
            cuts[found.cut or "nothing"] += 1
        step_ms, facts = grounder.latency.step_ms, grounder.backend.facts
    p50, p99, worst = np.percentile(late_ms, [50, 99, 100])
    print(f"answer time - deadline: p50 {p50:.2f} ms, p99 {p99:.2f} ms, worst {worst:.2f} ms")
    print(f"one decode step {step_ms:.2f} ms (p90)")
    print(f"outcomes {dict(outcomes)}; cut {dict(cuts)}")
    edges = np.linspace(arguments.low_ms, arguments.high_ms, BINS + 1)
    curve = []
    for low, high in pairwise(edges):
        inside = [right for deadline_ms, right in points if low <= deadline_ms < high]
        if inside:
            curve.append(((low + high) / 2, float(np.mean(inside))))
            print(f"{low:5.1f} - {high:5.1f} ms: Acc@0.5 {np.mean(inside):.3f} of {len(inside)}")
    print(f"{len(late_ms)} requests, {cpu_name()}, {facts.runtime}, {facts.threads} threads")
    if arguments.svg:
        arguments.svg.write_text(
            plot("Accuracy against deadline", "deadline, ms", "Acc@0.5", [Line("", curve)], y_range=(0.0, 1.0))
        )


if __name__ == "__main__":
    main()
