"""Several replies to one request, decoded together: one prefill, then one token of each reply in every step.

A batched step reads the weights once for all replies. The last reply that is left goes on by itself, with drafts. Where an
engine has no batch, replies are generated one after another on the rewound session.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from egm_edge.decoding.events import Generation
from egm_edge.decoding.generate import Decoder, OnStep
from egm_edge.decoding.session import BranchingSession, InterruptedRunError, Session


def generate_together(
    session: BranchingSession, request_ids: Sequence[int], decoders: Sequence[Decoder], on_step: OnStep | None = None
) -> list[Generation]:
    """Generate one reply per decoder.

    Args:
        session: opened on the frame, at its prefix.
        request_ids: the prompt tokens after the frame's prefix.
        decoders: not yet started; all begin alike (the same budget and kind of grammar).
        on_step: told tokens and milliseconds of every decode step.

    Returns:
        The replies in the order of `decoders`.
    """
    started = first = time.perf_counter()
    try:
        opening = decoders[0].open(session, request_ids)
        for decoder in decoders[1:]:
            decoder.policy.begin(request_ids)
        first = time.perf_counter()
        branches = session.fork(len(decoders), decoders[0].budget.max_new_tokens)
        waiting = [(decoder, decoder.next(opening)) for decoder in decoders]
        alive = [(decoder, list(tokens)) for decoder, tokens in waiting]
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
                decoder, tokens = alive[place]
                decoder.steps += 1
                del tokens[0]
                tokens += [] if tokens else decoder.next(rows[place])
                if not tokens or decoder.full:
                    branches.drop(place)
                    alive = _without(alive, place)
        for decoder, tokens in alive:
            decoder.finish_alone(branches.row(0), tokens)
    except InterruptedRunError:
        for decoder in decoders:
            decoder.policy.interrupted()
    return [decoder.result(started, first) for decoder in decoders]


def _without(alive: list[tuple[Decoder, list[int]]], place: int) -> list[tuple[Decoder, list[int]]]:
    """As `Branches.drop`: the last one takes the place."""
    kept = [*alive]
    kept[place] = kept[-1]
    return kept[:-1]


def generate_in_turn(
    open_session: Callable[[], Session], request_ids: Sequence[int], decoders: Sequence[Decoder]
) -> list[Generation]:
    """Generate one reply per decoder, one after another, as long as there is time for another one.

    Returns:
        At least one reply, in the order of `decoders`.
    """
    done: list[Generation] = []
    for decoder in decoders:
        if done and (decoder.budget.time_to_answer() or decoder.stopped):
            break
        done.append(decoder.generate(open_session(), request_ids))
    return done
