"""Several replies to one request, decoded together: one prefill, then one token of each reply in every step.

A batched step reads the weights once for all replies. The last reply that is left goes on by itself, with drafts. Where an
engine has no batch, replies are generated one after another on the rewound session.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from egm_edge.backends.base import BranchingSession, InterruptedRunError, Session
from egm_edge.decoding.events import Generation
from egm_edge.decoding.generate import OnStep, Run


def generate_together(
    session: BranchingSession, request_ids: Sequence[int], runs: Sequence[Run], on_step: OnStep | None = None
) -> list[Generation]:
    """Generate one reply per run.

    Args:
        session: opened on the frame, at its prefix.
        request_ids: the prompt tokens after the frame's prefix.
        runs: not yet started; all begin alike (the same budget and kind of guide).
        on_step: told tokens and milliseconds of every decode step.

    Returns:
        The replies in the order of `runs`.
    """
    started = first = time.perf_counter()
    try:
        opening = runs[0].open(session, request_ids)
        for run in runs[1:]:
            run.open_as(request_ids)
        first = time.perf_counter()
        branches = session.fork(len(runs), runs[0].budget.max_new_tokens)
        waiting = [(run, run.next(opening)) for run in runs]
        alive = [(run, list(tokens)) for run, tokens in waiting]
        for place in reversed(range(len(alive))):
            if not alive[place][1]:
                branches.drop(place)
                alive = _without(alive, place)
        while len(alive) > 1:
            began = time.perf_counter()
            rows = branches.step([tokens[0] for _, tokens in alive])
            if on_step is not None:
                on_step(len(alive), (time.perf_counter() - began) * 1e3)
            for place in reversed(range(len(alive))):
                run, tokens = alive[place]
                run.steps += 1
                del tokens[0]
                tokens += [] if tokens else run.next(rows[place])
                if not tokens or run.full:
                    branches.drop(place)
                    alive = _without(alive, place)
        for run, tokens in alive:
            run.finish_alone(branches.row(0), tokens)
    except InterruptedRunError:
        for run in runs:
            run.interrupted()
    return [run.result(started, first) for run in runs]


def _without(alive: list[tuple[Run, list[int]]], place: int) -> list[tuple[Run, list[int]]]:
    """As `Branches.drop`: the last one takes the place."""
    kept = [*alive]
    kept[place] = kept[-1]
    return kept[:-1]


def generate_in_turn(
    open_session: Callable[[], Session], request_ids: Sequence[int], runs: Sequence[Run]
) -> list[Generation]:
    """Generate one reply per run, one after another, as long as there is time for another one.

    Returns:
        At least one reply, in the order of `runs`.
    """
    done: list[Generation] = []
    for run in runs:
        if done and (run.budget.time_to_answer() or run.stopped):
            break
        done.append(run.generate(open_session(), request_ids))
    return done
