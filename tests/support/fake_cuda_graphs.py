"""CUDA graphs on a CPU: what is captured is recorded call by call, and a replay runs the same calls on the same tensors.

As on a GPU, a replay sees what was written into the captured tensors since, values of Python stay what they were at the
capture, and what needs the host in between (a value taken home, a shape that depends on values) is refused while capturing.
Signatures are those of `torch.cuda`, which judges the arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What synchronises, or has a shape that only the values tell.
NEEDS_THE_HOST = {
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "equal",
    "item",
}
REAL_GRAPH = inspect.signature(torch.cuda.graph.__init__)


class CaptureRefusedError(RuntimeError):
    """An operation that a stream under capture forbids."""


class FakeGraph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    made: ClassVar[list[FakeGraph]] = []

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        FakeGraph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, kept in self.calls:
            for place, value in zip(_tensors(kept), _tensors(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != value.data_ptr():  # neither a view nor written in place
                    place.copy_(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        by_mask = name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]))
        if name in NEEDS_THE_HOST or by_mask:
            raise CaptureRefusedError(f"{name} while capturing")
        kept = func(*args, **kwargs)
        self._graph.calls.append((func, args, kwargs, kept))
        return kept


class _Stream:
    def wait_stream(self, other: object) -> None: ...


@contextmanager
def _graph(*args: Any, **kwargs: Any) -> Iterator[None]:
    bound = REAL_GRAPH.bind(None, *args, **kwargs).arguments
    assert bound["capture_error_mode"] in ("global", "thread_local", "relaxed")
    with _Recorder(bound["cuda_graph"]):
        yield


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fakes where `CudaGraphs` looks for CUDA's."""
    FakeGraph.made = []
    for name, fake in {
        "CUDAGraph": FakeGraph,
        "graph": _graph,
        "graph_pool_handle": object,
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
