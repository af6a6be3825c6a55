"""What decoding needs of an engine: a sequence that takes tokens and gives logits. `backends.base` has the rest.

Tensor notation: V vocabulary size, n number of fed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import BackendError


class InterruptedRunError(BackendError):
    """The engine call was stopped from outside, by `Backend.interrupt`."""


class Session(Protocol):
    """One request on a frame: the frame's prefix followed by this request's own tokens.

    Only one session of a frame is open at a time; opening the next one rewinds the frame to its prefix.
    """

    @property
    def length(self) -> int:
        """Tokens in the sequence, prefix included."""

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        """Feed tokens and return logits [V] after the last one, or [n, V] after each with `every_position`."""

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens of the sequence (prefix included)."""


class Branches(Protocol):
    """Several continuations of one session, decoded together. They keep what they hold when the session goes on."""

    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed one token to each row and return logits [rows, V]."""

    def drop(self, row: int) -> None:
        """Forget a row; the last one takes its place."""

    def row(self, row: int) -> Session:
        """One row by itself, for steps of several tokens."""


class BranchingSession(Session, Protocol):
    """A session of a backend with `Capabilities.branches`."""

    def fork(self, rows: int, room: int) -> Branches:
        """`rows` continuations of what the session holds now, each with room for `room` tokens."""
