"""PrefixBackend: what backends with one KV cache share: a frame's vision, its prefix in the cache, sessions behind it.

Knows nothing of runtimes: a backend adds how it runs the vision tower and how it fills its cache.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import Capabilities, EngineFrame, require_same_frame
from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.backends.onnx_runtime.embedding import EmbeddingTable
from egm_edge.backends.onnx_runtime.positions import resampled_positions, vision_table
from egm_edge.backends.prefix_frame import PrefixFrame
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError
from egm_edge.families import family_for
from egm_edge.pixels import Pixels, PixelSpec

EMBEDDING, POSITION_GRID = "embedding.npy", "position_grid.npy"
GRIDS_REMEMBERED = 8
Arrays = Mapping[str, NDArray[np.generic]]


class PrefixBackend(ABC):
    """Opens frames and keeps the last one resident. Args: bundle: opened and checked."""

    capabilities = Capabilities()

    def __init__(self, bundle: Bundle) -> None:
        self.config = EngineConfig.from_dict(bundle.manifest.model)
        self.spec = PixelSpec.from_dict(bundle.manifest.pixel_spec)
        self.family = family_for(bundle.manifest.family)
        self.embedding = EmbeddingTable(bundle.path(EMBEDDING), self.config.embedding_dtype)
        self._position_grid = np.load(bundle.path(POSITION_GRID)) if self.config.vision.kind == "qwen3_vl" else None
        self._grid_inputs: OrderedDict[tuple[int, int], Arrays] = OrderedDict()
        self._resident: PrefixFrame | None = None

    def open_frame(self, pixels: Pixels, prefix_ids: Sequence[int]) -> PrefixFrame:
        """Run the vision tower and the prefix; the frame is resident afterwards."""
        self._require_running()
        started = time.perf_counter()
        features = self._encode_image(pixels)
        vision_ms = (time.perf_counter() - started) * 1e3
        frame = PrefixFrame.of(pixels, prefix_ids, features, vision_ms, self.family, self.config.image_token_id)
        self._make_resident(frame)
        return frame

    def require_resident(self, frame: PrefixFrame) -> None:
        """Refuse a session whose frame was displaced from the cache."""
        require_same_frame(self._resident, frame)

    def _resident_again(self, frame: EngineFrame) -> PrefixFrame:
        """The frame, in the cache: one that another displaced pays its prefix again, not its vision."""
        if not isinstance(frame, PrefixFrame):
            raise BackendError("a frame of this backend", type(frame).__name__, "open it with open_frame")
        self._require_running()
        if self._resident is not frame:
            self._make_resident(frame)
        return frame

    def _encode_image(self, pixels: Pixels) -> Sequence[NDArray[np.float32]]:
        """Image embeddings [tokens, H] and deep-stack features of the same shape."""
        inputs: Arrays = {"patches": pixels.patches, **self._inputs_of_grid(pixels.grid_hw)}
        names = ["embeddings", *(f"deepstack_{i}" for i in range(self.config.vision.deepstack))]
        return self._run_vision(inputs, names)

    def _inputs_of_grid(self, grid_hw: tuple[int, int]) -> Arrays:
        if self._position_grid is None:
            return {}
        if grid_hw not in self._grid_inputs:
            vision, merge = self.config.vision, self.spec.merge_size
            cos, sin = vision_table(grid_hw, merge, vision.head_dim, vision.rope_theta)
            position = resampled_positions(self._position_grid, grid_hw, merge)
            self._grid_inputs[grid_hw] = {"position": position, "cos": cos, "sin": sin}
            if len(self._grid_inputs) > GRIDS_REMEMBERED:
                self._grid_inputs.popitem(last=False)
        return self._grid_inputs[grid_hw]

    @abstractmethod
    def _require_running(self) -> None:
        """Refuse a closed engine."""

    @abstractmethod
    def _run_vision(self, inputs: Arrays, names: list[str]) -> Sequence[NDArray[np.float32]]:
        """The named outputs of the vision graph."""

    @abstractmethod
    def _make_resident(self, frame: PrefixFrame) -> None:
        """Write the frame's prefix into the cache, image embeddings at the pad tokens."""
