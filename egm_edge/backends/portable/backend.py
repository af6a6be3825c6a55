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

from egm_edge.backends.base import (
    Capabilities,
    EngineFrame,
    Interruptible,
    require_reached,
    require_room,
    require_tokens,
)
from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.backends.onnx_runtime.embedding import EmbeddingTable
from egm_edge.backends.onnx_runtime.positions import resampled_positions, text_table, vision_table
from egm_edge.backends.portable.runner import Runner
from egm_edge.backends.prefix_frame import PrefixFrame, require_own, require_resident
from egm_edge.bundle import Bundle
from egm_edge.families import family_for
from egm_edge.pixels import Pixels, PixelSpec

EMBEDDING, POSITION_GRID = "embedding.npy", "position_grid.npy"
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


class PortableBackend(Interruptible):
    """The backend of bundles with portable graphs. One thread at a time.

    Args:
        bundle: opened and checked.
        runner: its graphs, loaded.
    """

    capabilities = Capabilities()

    def __init__(self, bundle: Bundle, runner: Runner) -> None:
        self.config = EngineConfig.from_dict(bundle.manifest.model)
        self.context_tokens = int(bundle.manifest.limits["context_tokens"])
        self.spec = PixelSpec.from_dict(bundle.manifest.pixel_spec)
        self.family = family_for(bundle.manifest.family)
        self.embedding = EmbeddingTable(bundle.path(EMBEDDING), self.config.embedding_dtype)
        self.runner, self.facts = runner, runner.facts
        self._grid = np.load(bundle.path(POSITION_GRID)) if self.config.vision.kind == "qwen3_vl" else None
        self._resident: PrefixFrame | None = None

    def open_frame(self, pixels: Pixels, prefix_ids: Sequence[int]) -> PrefixFrame:
        """Run the vision tower and the prefix; the frame is resident afterwards."""
        self._require_running()
        started = time.perf_counter()
        embeddings, *deepstack = self.runner.vision(
            {"patches": pixels.patches, **self._inputs_of_grid(pixels.grid_hw)},
            ["embeddings", *(f"deepstack_{i}" for i in range(self.config.vision.deepstack))],
        )
        vision_ms = (time.perf_counter() - started) * 1e3
        frame = PrefixFrame.of(
            pixels, prefix_ids, embeddings, deepstack, vision_ms,
            family=self.family, image_token_id=self.config.image_token_id,
        )  # fmt: skip
        self._make_resident(frame)
        return frame

    def open_session(self, frame: EngineFrame) -> PortableSession:
        """Start a request on `frame`. A frame that another one displaced pays its prefix again, not its vision."""
        frame = require_own(frame)
        self._require_running()
        if self._resident is not frame:
            self._make_resident(frame)
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

    def require_resident(self, frame: PrefixFrame) -> None:
        require_resident(self._resident, frame)

    def close(self) -> None:
        self._closed, self._resident = True, None
        self.runner.close()

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

    def _inputs_of_grid(self, grid_hw: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
        if self._grid is None:
            return {}
        vision, merge = self.config.vision, self.spec.merge_size
        cos, sin = vision_table(grid_hw, merge, vision.head_dim, vision.rope_theta)
        return {"position": resampled_positions(self._grid, grid_hw, merge), "cos": cos, "sin": sin}
