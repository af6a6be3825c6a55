"""The same requests with every decoding feature off and on, replies compared: `python -m tests.bench.lossless BUNDLE`.

Off: a frame of its own, one token a step, no syntax. On: the frame shared, drafts, forced syntax. A reply whose answer was
not well formed when decoded freely may differ; every other one must not, on an fp32 bundle.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from egm_edge.decoding.constrained.fsm import State
from egm_edge.decoding.constrained.grammar import END_OF_THOUGHT
from egm_edge.grounder import Grounder
from egm_edge.machine import cpu_name
from egm_edge.synthetic import layout, queries, render, sample_scene

FIRST_SEED = 950_000_000
FRAME_WH = (640, 480)


def well_formed(grounder: Grounder, text: str) -> bool:
    """Whether the answer behind the thought is one that the syntax allows, to its end."""
    automaton = grounder.syntax.automaton
    state: State | None = automaton.start
    for byte in text.rpartition(END_OF_THOUGHT)[2].strip().encode():
        state = None if state is None else automaton.advance(state, byte)
    return state is not None and automaton.accepts(state)


@dataclass(slots=True)
class Comparison:
    """Requests asked; of them not well formed when decoded freely; of the others replies and boxes that differ."""

    asked: int = 0
    unwell: int = 0
    other_replies: int = 0
    other_boxes: int = 0
    steps_saved: int = 0


def compare(grounder: Grounder, requests: int) -> Comparison:
    """Ask every request both ways."""
    found, seed = Comparison(), FIRST_SEED
    while found.asked < requests:
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
            found.asked += 1
            found.steps_saved += free.tokens.decode_steps - fast.tokens.decode_steps
            if free.cut or not well_formed(grounder, free.text):
                found.unwell += 1
                continue
            found.other_replies += free.text != fast.text
            found.other_boxes += free.box != fast.box
    return found


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    arguments = parser.parse_args()
    with Grounder.from_bundle(arguments.bundle) as grounder:
        found = compare(grounder, arguments.requests)
        facts = grounder.backend.facts
    print(
        f"{found.asked} requests, {found.unwell} not well formed when decoded freely; of the others {found.other_replies} "
        f"replies and {found.other_boxes} boxes differ; {found.steps_saved / found.asked:.1f} decode steps saved a request"
    )
    print(f"{arguments.bundle}, {cpu_name()}, {facts.runtime}, {facts.threads} threads")


if __name__ == "__main__":
    main()
