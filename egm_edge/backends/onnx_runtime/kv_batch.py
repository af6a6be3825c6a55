"""KvBatch: several sequences that share a beginning, in one set of buffers, extended one token each per step.

Row r of every buffer is a cache of its own, so a single row can take several tokens in one step too. Rows that have ended
are dropped by moving the last one into their place.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from egm_edge.backends.onnx_runtime.kv_cache import CAPACITY_STEP, KvCache


class KvBatch:
    """Copies of a cache's content with room to grow.

    Args:
        cache: what all rows begin with.
        rows: how many.
        room: tokens that each may add.

    Attributes:
        lengths: [rows] int64, tokens of each row.
    """

    def __init__(self, cache: KvCache, rows: int, room: int) -> None:
        most = min(cache.length + room, cache.config.max_positions)
        self.capacity = -(-most // CAPACITY_STEP) * CAPACITY_STEP
        self.lengths = np.full(rows, cache.length, np.int64)
        self._cos, self._sin = cache.tables(self.capacity)
        self._buffers: dict[str, NDArray[np.float32]] = {}
        for name, source in cache.buffers.items():
            self._buffers[name] = np.zeros((rows, source.shape[1], self.capacity, source.shape[3]), np.float32)
            self._buffers[name][:, :, : cache.length] = source[:, :, : cache.length]
        self._views: dict[tuple[int, int], dict[str, ort.OrtValue]] = {}

    def drop(self, row: int) -> None:
        """Forget a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = int(self.lengths[last])
            for buffer in self._buffers.values():
                buffer[row, :, :length] = buffer[last, :, :length]
            self.lengths[row] = length
        self.lengths = self.lengths[:last]

    def binding(self, session: ort.InferenceSession, rows: range, new_tokens: int) -> ort.IOBinding:
        """A binding of neighbouring rows for a step of `session` that adds `new_tokens` to each of them."""
        binding = session.io_binding()
        totals = self.lengths[rows.start : rows.stop] + new_tokens
        binding.bind_cpu_input("seqlens_k", (totals - 1).astype(np.int32))
        binding.bind_cpu_input("total_length", np.array([totals.max()], np.int32))
        binding.bind_cpu_input("cos", self._cos)
        binding.bind_cpu_input("sin", self._sin)
        for name, value in self._view(rows).items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        return binding

    def _view(self, rows: range) -> dict[str, ort.OrtValue]:
        key = (rows.start, rows.stop)
        if key not in self._views:
            parts = {name: buffer[rows.start : rows.stop] for name, buffer in self._buffers.items()}
            self._views[key] = {name: ort.OrtValue.ortvalue_from_numpy(part) for name, part in parts.items()}
        return self._views[key]
