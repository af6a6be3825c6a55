"""Verification of a draft, as in greedy speculative decoding (Leviathan et al. 2023, arXiv 2211.17192; gpt-fast's
`speculative_decode`): the draft goes through the engine in one step, and of it stays what the model would have written
itself. Any draft gives the tokens of no draft; it changes only the number of steps.

    rows = feed(session, certain, draft)
    verdict = verify(draft, lambda row: next_tokens(rows[row]))
    accept(session, draft, verdict)

Tensor notation: n tokens of the draft, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egm_edge.decoding.session import Session


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step said of its draft.

    Attributes:
        accepted: tokens of the draft that proved right.
        pending: what comes instead of the first wrong one, not yet fed; () at the end of the reply.
    """

    accepted: int
    pending: tuple[int, ...]


def feed(session: Session, certain: Sequence[int], draft: Sequence[int]) -> NDArray[np.float32]:
    """Logits [n + 1, V] after the last certain token and after every drafted one, in one step of the engine."""
    if not draft:
        return session.extend(certain)[None]
    return session.extend([*certain, *draft], every_position=True)[len(certain) - 1 :]


def verify(draft: Sequence[int], next_tokens: Callable[[int], Sequence[int]]) -> Verdict:
    """Compare a draft with what comes after each row of its step.

    Args:
        next_tokens: what comes after a row, the model's choice first; asked for rows from 0 on, each once, up to the first
            that parts from the draft.

    Example:
        >>> verify([7, 8, 9], [[7], [8, 5], [0]].__getitem__)
        Verdict(accepted=2, pending=(5,))
    """
    accepted = 0
    while True:
        tokens, agreed = next_tokens(accepted), 0
        while agreed < len(tokens) and accepted < len(draft) and draft[accepted] == tokens[agreed]:
            agreed, accepted = agreed + 1, accepted + 1
        if not tokens or agreed < len(tokens):
            return Verdict(accepted, tuple(tokens[agreed:]))


def accept(session: Session, draft: Sequence[int], verdict: Verdict) -> None:
    """Forget the rejected tokens, where the reply goes on."""
    if verdict.pending and verdict.accepted < len(draft):
        session.truncate(session.length - len(draft) + verdict.accepted)
