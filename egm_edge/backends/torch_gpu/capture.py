"""Functions of tensors that are run again and again: as they are on a CPU, as CUDA graphs on a GPU.

A captured function reads its inputs from fixed places and leaves its outputs in fixed places, so that a replay is one launch
instead of a thousand. Knows nothing of models.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Function = Callable[..., list[Tensor]]
WARM_UPS = 2  # cuBLAS and the allocator settle in the first calls, which a capture must not see


class Capture(Protocol):
    """How functions are run; one is kept for each key."""

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of `function(*inputs)`, valid until the next call of that key. Inputs of one key have one shape."""

    def forget(self) -> None:
        """Drop what was captured: tensors that it used have moved."""


class Eager:
    """Runs functions as they are."""

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        return function(*inputs)

    def forget(self) -> None:
        pass


class CudaGraphs:
    """Captures each function at its first call and replays it from then on.

    Args:
        keep: how many graphs are held; the one not used for longest goes first.
    """

    def __init__(self, keep: int = 24) -> None:
        self._keep = keep
        self._graphs: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], list[Tensor]]] = OrderedDict()

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        if key not in self._graphs:
            self._graphs[key] = self._captured(function, inputs)
            if len(self._graphs) > self._keep:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph, held, outputs = self._graphs[key]
        for place, value in zip(held, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return outputs

    def forget(self) -> None:
        self._graphs.clear()

    def _captured(
        self, function: Function, inputs: Sequence[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], list[Tensor]]:
        held = [value.clone() for value in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = function(*held)
        return graph, held, outputs
