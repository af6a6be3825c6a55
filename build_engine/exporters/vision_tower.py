"""What the vision towers of both families share: uint8 input, pre-norm blocks, attention, two-layer feed-forward.

Shapes: B images or tiles, N patches each, D vision hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import Checkpoint
from build_engine.exporters.graph import GraphWriter, WeightFormat, write_linear


@dataclass(frozen=True, slots=True)
class TowerWriter:
    """Writes tower parts into a graph; weight names are the checkpoint's canonical ones."""

    checkpoint: Checkpoint
    graph: GraphWriter
    fmt: WeightFormat

    def normalised(self, pixels: str, mean: Sequence[float], std: Sequence[float], samples_per_channel: int) -> str:
        """uint8 [..., 3 * samples_per_channel], channel-major, to float32 (x / 255 - mean) / std."""
        scale = 1.0 / (255.0 * np.repeat(np.asarray(std, np.float64), samples_per_channel))
        offset = -np.repeat(np.asarray(mean, np.float64) / np.asarray(std, np.float64), samples_per_channel)
        graph = self.graph
        as_float = graph.op("Cast", pixels, to=1)
        scaled = graph.op("Mul", as_float, graph.weight("pixel_scale", scale.astype(np.float32)))
        return graph.native(str(graph.op("Add", scaled, graph.weight("pixel_offset", offset.astype(np.float32)))))

    def linear(self, x: str, name: str, fmt: WeightFormat | None = None) -> str:
        return write_linear(self.graph, self.checkpoint, x, name, fmt or self.fmt)

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """LayerNorm, or RMSNorm where the checkpoint holds no bias."""
        scale = self.checkpoint.float32(f"{name}.weight")
        if f"{name}.bias" in self.checkpoint:
            return self.graph.layer_norm(x, name, scale, self.checkpoint.float32(f"{name}.bias"), epsilon)
        return self.graph.rms_norm(x, f"{name}.weight", scale, epsilon)

    def attend(self, query: str, key: str, value: str, heads: int, width: int) -> str:
        """Full attention inside each of B images; all [B, N, D], D the width."""
        scale = (width // heads) ** -0.5
        return str(self.graph.contrib("MultiHeadAttention", query, key, value, num_heads=heads, scale=scale))

    def gelu_mlp(self, x: str, first: str, second: str, approximate: str) -> str:
        return self.linear(self.graph.op("Gelu", self.linear(x, first), approximate=approximate), second)


def folded_temporal_kernel(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """A still image fills every temporal slot with the same pixels, so the kernel's temporal slices add up.

    Args:
        kernel: [D, 3, T, P, P].

    Returns:
        [D, 3 * P * P].
    """
    return np.ascontiguousarray(kernel.sum(2).reshape(len(kernel), -1))
