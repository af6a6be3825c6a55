"""What this machine can do at best, measured in this process: memory read bandwidth and matrix rates.

Bandwidth streams over a buffer far larger than the caches, on as many threads as the engine uses; matrix rates multiply in
the arithmetic that engines use. The best pass is the limit, as in STREAM: others only make it slower. Memory is shared with
other cores and, on a virtual machine, with neighbours, so that the limit itself drifts: passes are therefore taken in turns
with the requests that are held against them, and the median pass is told beside the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUFFER_BYTES = 256 << 20
PASSES = 5
GEMM_SIDE = 1536
INT8_ROWS, INT8_K, INT8_N = 384, 2048, 6144
_KERNELS: dict[str, Callable[[NDArray[np.float32]], Any]] = {
    "float32 dot": lambda part: np.dot(part, part),
    "uint8 max": lambda part: np.max(part.view(np.uint8)),
}


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Measured limits.

    Attributes:
        bandwidth_gb_s, bandwidth_median_gb_s: streaming read, best and median pass; GB of 10^9 bytes. bandwidth_by: kernel.
        bandwidth_passes: how many passes that is.
        fp32_gflop_s: NumPy's own matrix product (all its threads).
        int8_gop_s: 8-bit product as ONNX Runtime carries it out; None where the onnx package is not installed.
        threads: compute threads of the bandwidth and int8 measurements.
    """

    bandwidth_gb_s: float
    bandwidth_median_gb_s: float
    bandwidth_by: str
    bandwidth_passes: int
    fp32_gflop_s: float
    int8_gop_s: float | None
    threads: int


class Bandwidth:
    """Streaming read bandwidth, probed as often as wanted.

    Args:
        threads: as many as the engine uses.
        buffer_bytes: streamed over; must be far larger than the last cache.

    Attributes:
        buffer_mb: what it holds, MB of 10^6 bytes. rates: kernel -> GB/s of each pass.
    """

    def __init__(self, threads: int, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        buffer = np.ones(buffer_bytes // 4, np.float32)
        self.buffer_mb, self._parts = buffer.nbytes / 1e6, np.array_split(buffer, threads)
        self._pool = ThreadPoolExecutor(threads)
        self.rates: dict[str, list[float]] = {name: [] for name in _KERNELS}

    def __enter__(self) -> Bandwidth:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def probe(self, passes: int = PASSES) -> None:
        """Some passes of every kernel, after one that is not counted."""
        for name, kernel in _KERNELS.items():
            seconds = _passes(lambda: list(self._pool.map(kernel, self._parts)), passes)  # noqa: B023 (used at once)
            self.rates[name] += [self.buffer_mb / s / 1e3 for s in seconds]


def measure_limits(
    threads: int,
    *,
    bandwidth: Bandwidth | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    passes: int = PASSES,
    side: int = GEMM_SIDE,
) -> MachineLimits:
    """Measure the machine; a few seconds.

    Args:
        threads: as many as the engine uses.
        bandwidth: with the passes taken so far; None for a fresh one.
        buffer_bytes, passes: of a fresh bandwidth, and passes of the matrix products. side: of fp32 matrices.
    """
    with bandwidth or Bandwidth(threads, buffer_bytes=buffer_bytes) as memory:
        memory.probe(passes)
    best = max(memory.rates, key=lambda name: max(memory.rates[name]))
    matrix = np.ones((side, side), np.float32)
    seconds = _passes(lambda: matrix @ matrix, passes)
    return MachineLimits(
        bandwidth_gb_s=max(memory.rates[best]),
        bandwidth_median_gb_s=float(np.median(memory.rates[best])),
        bandwidth_by=best,
        bandwidth_passes=len(memory.rates[best]),
        fp32_gflop_s=2 * side**3 / min(seconds) / 1e9,
        int8_gop_s=_int8_rate(threads, passes),
        threads=threads,
    )


def _int8_rate(threads: int, passes: int) -> float | None:
    """Rate of one W8A8 product of decoder size, as the prefill graphs of int8 and int4 bundles have them."""
    try:
        helper = import_module("onnx.helper")
    except ImportError:
        return None
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 127, (INT8_K, INT8_N), np.int8)
    float32, int8 = 1, 3  # TensorProto data types
    node = helper.make_node("DynamicQuantizeMatMul", ["a", "w", "scale"], ["y"], domain="com.microsoft")
    stored = [
        helper.make_tensor("w", int8, weight.shape, weight.tobytes(), raw=True),
        helper.make_tensor("scale", float32, [INT8_N], np.ones(INT8_N, np.float32).tobytes(), raw=True),
    ]
    given = helper.make_tensor_value_info("a", float32, [INT8_ROWS, INT8_K])
    made = helper.make_tensor_value_info("y", float32, [INT8_ROWS, INT8_N])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "rate", [given], [made], stored), opset_imports=opsets, ir_version=8
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": rng.standard_normal((INT8_ROWS, INT8_K)).astype(np.float32)}
    seconds = _passes(lambda: session.run(None, feed), passes)
    return 2 * INT8_ROWS * INT8_K * INT8_N / min(seconds) / 1e9


def _passes(work: Callable[[], Any], passes: int) -> list[float]:
    """Seconds of each pass, after one that is not counted."""
    work()
    found = []
    for _ in range(passes):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found
