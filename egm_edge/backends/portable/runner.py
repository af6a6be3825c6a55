"""Runner: executes the three graphs of a portable bundle and keeps the KV cache on its device. Knows no images, no texts.

Tensor notation: n fed tokens, P tokens in the cache, H hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts

Arrays = Mapping[str, NDArray[np.generic]]


class Runner(Protocol):
    """One device with the graphs loaded.

    Attributes:
        facts: what it is, for reports.
        cache_tokens: tokens in the cache; setting a smaller number forgets the rest.
    """

    facts: RuntimeFacts
    cache_tokens: int

    def vision(self, inputs: Arrays, outputs: list[str]) -> list[NDArray[np.float32]]:
        """Run the vision tower."""

    def decode(self, inputs: Arrays) -> NDArray[np.float32]:
        """Run the decoder on n tokens after those in the cache, keep their keys and values; hidden states [1, n, H]."""

    def head(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [1, n, V] of hidden states [1, n, H]."""

    def close(self) -> None:
        """Free device memory."""
