"""ObservedGraphWriter: a portable graph that also tells how large the inputs of its linear layers get."""

from __future__ import annotations

import numpy as np

from build_engine.exporters.graph import Rows
from build_engine.exporters.portable_graph import FLOAT, PortableGraphWriter

OBSERVED = "largest:"


class ObservedGraphWriter(PortableGraphWriter):
    """As PortableGraphWriter, with an output f32 [] "largest:NAME" for every linear layer: its input's largest magnitude."""

    def _linear_plain(self, x: str, name: str, shape: tuple[int, int], rows: Rows) -> str:
        largest = self.op("ReduceMax", self.op("Abs", self.op("Cast", x, to=FLOAT)), keepdims=0)
        self.output(str(largest), np.float32, [], name=OBSERVED + name)
        return super()._linear_plain(x, name, shape, rows)
