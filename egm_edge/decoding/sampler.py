"""How the next token is chosen from logits: the most likely one, or drawn. Knows nothing of texts or engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

TRIED_FIRST = 16

Allows = Callable[[int], bool]


class Sampler:
    """Chooses tokens; one draw for each token, whatever was drafted, so that drafts change no token.

    Args:
        temperature: 0 for the most likely token.
        top_p: draw only from the most likely tokens that together reach this probability.
        seed: of the draws.
        top_k: draw only from so many of the most likely tokens, before top_p; None for all.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None, top_k: int | None = None
    ) -> None:
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k
        self._rng = np.random.default_rng(seed) if temperature > 0 else None

    def __call__(
        self,
        logits: NDArray[np.float32],
        allows: Allows | None = None,
        allowed: Callable[[], NDArray[np.int64]] | None = None,
    ) -> int:
        """The next token.

        Args:
            logits: [V].
            allows: whether a token may come next; None for every token.
            allowed: all tokens that may come next, [n] ids; asked for only when the likely ones may not.
        """
        if self._rng is None:
            best = int(logits.argmax())
            if allows is None or allowed is None or allows(best):
                return best
            return _best_allowed(logits, allows, allowed)
        chosen = self._rng.random()
        free = self._draw(logits, None, chosen)
        return free if allows is None or allowed is None or allows(free) else self._draw(logits, allowed(), chosen)

    def _draw(self, logits: NDArray[np.float32], ids: NDArray[np.int64] | None, chosen: float) -> int:
        """The token at which the cumulative probability, most likely first, passes `chosen` (0-1)."""
        ids = np.arange(len(logits)) if ids is None else ids[ids < len(logits)]
        scaled = logits[ids].astype(np.float64) / self.temperature
        order = np.argsort(-scaled, kind="stable")[: self.top_k]
        total = np.cumsum(np.exp(scaled[order] - scaled[order[0]]))
        # nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751
        total = total[: int(np.searchsorted(total, self.top_p * total[-1])) + 1]
        return int(ids[order[min(int(np.searchsorted(total, chosen * total[-1], side="right")), len(total) - 1)]])


def _best_allowed(logits: NDArray[np.float32], allows: Allows, allowed: Callable[[], NDArray[np.int64]]) -> int:
    likely = (
        np.argpartition(logits, -TRIED_FIRST)[-TRIED_FIRST:] if len(logits) > TRIED_FIRST else np.arange(len(logits))
    )
    for token in likely[np.argsort(-logits[likely], kind="stable")]:
        if allows(int(token)):
            return int(token)
    ids = allowed()
    ids = ids[ids < len(logits)]
    return int(ids[logits[ids].argmax()])


def log_probabilities(logits: NDArray[np.float32], tokens: Sequence[int]) -> list[float]:
    """Natural logarithms of one token's probability per row, at temperature 1.

    Args:
        logits: [n, V]. tokens: [n].
    """
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(tokens)), tokens] - top[:, 0]
    found: list[float] = (chosen.astype(np.float64) - np.log(total)).tolist()
    return found
