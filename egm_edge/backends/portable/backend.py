"""PortableBackend: the backend protocol over a Runner. Rotary angles, mask and deep-stack places are worked out here.

The same loop as the CPU engine's for every device: a frame's prefix is kept in the cache, a session goes on behind it.
Tensor notation: n fed tokens, P tokens in the cache, H hidden size, V vocabulary size, t image tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import EngineFrame, Interruptible, require_reached, require_room, require_tokens
from egm_edge.backends.onnx_runtime.positions import text_table
from egm_edge.backends.portable.runner import Runner
from egm_edge.backends.prefix_backend import Arrays, PrefixBackend
from egm_edge.backends.prefix_frame import PrefixFrame
from egm_edge.bundle import Bundle

MASKED = -3e4  # added to a score; within float16, and far below any real one


@dataclass(slots=True)
class PortableSession:
    """One request after its frame's prefix."""

    backend: PortableBackend
    frame: PrefixFrame

    @property
    def length(self) -> int:
        return self.backend.runner.cache_tokens

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        self.backend.require_resident(self.frame)
        require_tokens(token_ids)
        hidden = self.backend.decode(self.backend.embedding.rows(token_ids), [])
        logits = self.backend.runner.head(hidden if every_position else hidden[:, -1:])[0]
        return logits if every_position else logits[0]

    def truncate(self, length: int) -> None:
        self.backend.require_resident(self.frame)
        require_reached(length, self.length)
        self.backend.runner.cache_tokens = length


class PortableBackend(Interruptible, PrefixBackend):
    """The backend of bundles with portable graphs. One thread at a time.

    Args:
        bundle: opened and checked.
        runner: its graphs, loaded.
    """

    def __init__(self, bundle: Bundle, runner: Runner) -> None:
        super().__init__(bundle)
        self.context_tokens = int(bundle.manifest.limits["context_tokens"])
        self.runner, self.facts = runner, runner.facts

    def open_session(self, frame: EngineFrame) -> PortableSession:
        """Start a request on `frame`."""
        frame = self._resident_again(frame)
        self.runner.cache_tokens = frame.prefix_token_count
        return PortableSession(self, frame)

    def decode(self, embeds: NDArray[np.float32], deepstack: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Feed embeddings [n, H] (and deep-stack features of the same shape); hidden states [1, n, H]."""
        self._require_running()
        count, past = len(embeds), self.runner.cache_tokens
        require_room(past + count, self.context_tokens)
        cos, sin = text_table(self.config, self._positions(past, count))
        columns, rows = np.arange(past + count), np.arange(past, past + count)
        inputs: dict[str, NDArray[np.float32]] = {
            "embeds": embeds[None],
            "cos": cos,
            "sin": sin,
            "mask": np.where(columns[None] > rows[:, None], np.float32(MASKED), np.float32(0)),
        }
        for i in range(self.config.vision.deepstack):
            inputs[f"deepstack_{i}"] = (deepstack[i] if deepstack else np.zeros_like(embeds))[None]
        return self.runner.decode(inputs)

    def close(self) -> None:
        self._closed, self._resident = True, None
        self.runner.close()

    def _run_vision(self, inputs: Arrays, names: list[str]) -> Sequence[NDArray[np.float32]]:
        return self.runner.vision(inputs, names)

    def _positions(self, past: int, count: int) -> NDArray[np.int64]:
        """Rotary positions [3, n] of the places from `past` on: the prefix's own, the text behind it counting on."""
        assert self._resident is not None
        prefix = self._resident.positions
        after = np.arange(count + past) + int(prefix.max()) + 1
        return np.concatenate([prefix, np.tile(after, (3, 1))], 1)[:, past : past + count]

    def _make_resident(self, frame: PrefixFrame) -> None:
        """Write the frame's prefix into the cache, image embeddings at the pad tokens."""
        started = time.perf_counter()
        self._resident, self.runner.cache_tokens = frame, 0
        embeds, extras = frame.decoder_inputs(self.embedding, self.config)
        try:
            self.decode(embeds, extras)
        except BaseException:
            self._resident = None
            raise
        frame.prefill_ms = (time.perf_counter() - started) * 1e3
