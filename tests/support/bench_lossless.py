"""The same requests with every decoding feature off and on, replies compared: `python -m tests.support.bench_lossless BUNDLE`.

Off: a frame of its own, one token a step, no syntax. On: the frame shared, drafts, forced syntax. A reply that free decoding
did not finish well (no readable box or "not there") may differ; every other one must not, on an fp32 bundle.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from egm_edge.grounder import Grounder
from egm_edge.grounding import Outcome
from egm_edge.machine import cpu_name
from training.scenes import layout, queries, render, sample_scene

FIRST_SEED = 950_000_000
FRAME_WH = (640, 480)
WELL = (Outcome.FOUND, Outcome.NOT_FOUND)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    arguments = parser.parse_args()
    asked = other_tokens = other_boxes = unwell = saved = 0
    seed = FIRST_SEED
    with Grounder.from_bundle(arguments.bundle) as grounder:
        while asked < arguments.requests:
            seed += 1
            scene = sample_scene(seed, (1, 6))
            picture = render(scene, *FRAME_WH).image
            shared = grounder.frame(picture, color="rgb")
            for query in queries(scene, random.Random(seed), where=layout(scene, *FRAME_WH), count=4):
                grounder.speculate = grounder.lookup = False
                own = grounder.frame(picture, color="rgb")
                free = grounder.ground(own, query.expression, task=query.task, force_syntax=False)
                grounder.speculate = grounder.lookup = True
                fast = grounder.ground(shared, query.expression, task=query.task)
                asked += 1
                saved += free.tokens.decode_steps - fast.tokens.decode_steps
                if free.outcome not in WELL or free.cut:
                    unwell += 1
                    continue
                other_tokens += free.text != fast.text
                other_boxes += free.box != fast.box
        facts = grounder.backend.facts
    print(
        f"{asked} requests, {unwell} not finished well by free decoding; of the others {other_tokens} replies and "
        f"{other_boxes} boxes differ; {saved / asked:.1f} decode steps saved a request"
    )
    print(f"{arguments.bundle}, {cpu_name()}, {facts.runtime}, {facts.threads} threads")


if __name__ == "__main__":
    main()
