"""Peer: another engine that answers the same request beside ours. The protocol, and what one of its turns cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PeerSample:
    """One request of one side, from where the peer starts to the last token; milliseconds.

    Attributes:
        prompt_tokens, new_tokens: as this side counts them; prompt_tokens is 0 where it does not tell.
        ttft_ms: to the first token. tpot_ms: per token after it; None where it is not known: everything came in one piece,
            or the side does not say how many tokens its pieces hold.
    """

    total_ms: float
    ttft_ms: float
    tpot_ms: float | None
    new_tokens: int
    prompt_tokens: int = 0

    @classmethod
    def of(
        cls,
        started_s: float,
        token_times_s: Sequence[float],
        finished_s: float,
        new_tokens: int,
        prompt_tokens: int = 0,
        *,
        counted: bool = True,
    ) -> PeerSample:
        """From when each token (or piece of text) came; `counted`: `new_tokens` are tokens, not pieces."""
        first = token_times_s[0] if token_times_s else finished_s
        last = token_times_s[-1] if token_times_s else finished_s
        known = counted and len(token_times_s) > 1 and new_tokens > 1
        per_token_ms = (last - first) * 1e3 / (new_tokens - 1) if known else None
        return cls((finished_s - started_s) * 1e3, (first - started_s) * 1e3, per_token_ms, new_tokens, prompt_tokens)


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """One request in every form that a peer may want it.

    Attributes:
        picture: [H, W, 3] uint8 RGB.
        sentence: the user's message, the expression in it.
        pixel_values: the picture as the Hugging Face processor gives it, float32. grid_hw: of its patches, None for tiles.
        token_ids: the whole prompt, image tokens expanded. image_token_id: which of them stand for the image.
    """

    picture: NDArray[np.uint8] = field(repr=False)
    sentence: str
    pixel_values: Any = field(repr=False)
    grid_hw: tuple[int, int] | None
    token_ids: list[int] = field(repr=False)
    image_token_id: int


class Peer(Protocol):
    """An engine to stand beside ours.

    Attributes:
        name: with versions. precision: of its weights or arithmetic, as far as it is known.
        threads: compute threads, 0 where that is the server's own business.
        starts_at: "patches" or "picture": where both clocks start.
        exact: always generates as many tokens as it is asked for.
    """

    name: str
    precision: str
    threads: int
    starts_at: str
    exact: bool

    def run(self, request: PeerRequest, count: int) -> PeerSample:
        """Generate `count` tokens; one that is not `exact` may stop earlier."""

    def close(self) -> None:
        """Free it."""
