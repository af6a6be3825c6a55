"""KvCache: one sequence's keys and values in fixed buffers that the decoder graph reads and extends in place.

Past and present are bound to the same memory, so a step copies nothing and rewinding is forgetting a number.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from egm_edge.backends.onnx_runtime.config import EngineConfig, kernel_head_dim
from egm_edge.backends.onnx_runtime.positions import Table, text_table

CAPACITY_STEP = 256


class KvCache:
    """Buffers for up to `capacity` tokens; the system commits their memory page by page as tokens arrive.

    Attributes:
        length: tokens held now.
        capacity: tokens that fit.
        buffers: keys and values by name, [1, kv, capacity, D] float32.
    """

    def __init__(self, config: EngineConfig, capacity: int) -> None:
        self.config = config
        self.length = 0
        self.capacity = -(-capacity // CAPACITY_STEP) * CAPACITY_STEP
        shape = (1, config.kv_heads, self.capacity, kernel_head_dim(config.head_dim))
        self._names = [f"{part}_{i}" for i in range(config.layers) for part in ("key", "value")]
        self.buffers = {name: np.zeros(shape, np.float32) for name in self._names}
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(buffer) for name, buffer in self.buffers.items()}
        self.set_positions(np.zeros((3, 0), np.int64))

    def set_positions(self, prefix_positions: NDArray[np.int64]) -> None:
        """Fix the rotary position of every place: the prefix as given, the text after it counting on.

        Args:
            prefix_positions: [3, P] time, height, width.
        """
        self._prefix_positions = prefix_positions
        self._cos, self._sin = self.tables(self.capacity)
        self._bindings: dict[ort.InferenceSession, ort.IOBinding] = {}

    def tables(self, capacity: int) -> Table:
        """Cos and sin of the first `capacity` places, [capacity, d/2] each."""
        prefix = self._prefix_positions
        start = int(prefix.max()) + 1 if prefix.size else 0
        following = np.arange(start, start + capacity - prefix.shape[1])
        return text_table(self.config, np.concatenate([prefix, np.tile(following, (3, 1))], 1))

    def grown(self, capacity: int) -> KvCache:
        """A larger cache with the same content."""
        larger = KvCache(self.config, capacity)
        larger.set_positions(self._prefix_positions)
        larger.length = self.length
        for name, buffer in self.buffers.items():
            larger.buffers[name][:, :, : self.length] = buffer[:, :, : self.length]
        return larger

    def binding(self, session: ort.InferenceSession, new_tokens: int) -> ort.IOBinding:
        """A binding of cache, lengths and rotary table for a step of `session` that adds `new_tokens`.

        Buffers and tables stay bound from step to step; on a small model binding them anew would cost a third of a step.
        """
        if session not in self._bindings:
            binding = session.io_binding()
            binding.bind_cpu_input("cos", self._cos)
            binding.bind_cpu_input("sin", self._sin)
            for name in self._names:
                binding.bind_ortvalue_input(f"past_{name}", self._values[name])
                binding.bind_ortvalue_output(f"present_{name}", self._values[name])
            self._bindings[session] = binding
        total = self.length + new_tokens
        binding = self._bindings[session]
        binding.bind_cpu_input("seqlens_k", np.array([total - 1], np.int32))
        binding.bind_cpu_input("total_length", np.array([total], np.int32))
        return binding
