"""Functions of tensors that are run again and again: as they are on a CPU, as CUDA graphs on a GPU.

A captured function reads its inputs from fixed places and leaves its outputs in fixed places, so that a replay is one launch
instead of a thousand. Knows nothing of models.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[..., list[Tensor]]


class Capture:
    """How functions are run: as they are."""

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of `function(*inputs)`, valid until the next call. Inputs of one key have one shape."""
        return function(*inputs)

    def forget(self) -> None:
        """Drop what was kept of earlier calls: tensors that it used have moved."""


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]


class CudaGraphs(Capture):
    """Runs a function as it is at its first call, captures it at the second, and replays it from then on.

    What is met only once is not worth a capture. Graphs share one pool of memory, for they are replayed one after another.

    Args:
        device: where the tensors lie.
        keep: how many keys are remembered; the one not used for longest goes first.
    """

    def __init__(self, device: torch.device, keep: int = 64) -> None:
        self._device, self._keep = device, keep
        self._graphs: OrderedDict[Hashable, _Graph | None] = OrderedDict()
        self._stream: Any = None
        self._pool: Any = None

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.cuda.device(self._device):
            if key not in self._graphs:
                self._graphs[key] = None
                if len(self._graphs) > self._keep:
                    self._graphs.popitem(last=False)
                return function(*inputs)
            held = self._graphs[key] = self._graphs[key] or self._captured(function, inputs)
            self._graphs.move_to_end(key)
            for place, value in zip(held.inputs, inputs, strict=True):
                place.copy_(value, non_blocking=True)
            held.graph.replay()
            return held.outputs

    def forget(self) -> None:
        self._graphs.clear()
        self._pool = None

    def _captured(self, function: Function, inputs: Sequence[Tensor]) -> _Graph:
        self._stream = self._stream or torch.cuda.Stream()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        held = [value.clone() for value in inputs]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            function(*held)  # cuBLAS takes its workspace for a stream, which a capture must not see
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone, so that another one may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = function(*held)
        return _Graph(graph, held, outputs)
