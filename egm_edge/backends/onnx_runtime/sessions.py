"""Opening ONNX Runtime sessions: options, memory mode, and foreign errors translated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import onnxruntime as ort

from egm_edge.backends.onnx_runtime.int8_products import product_options
from egm_edge.bundle import Bundle
from egm_edge.decoding.session import InterruptedRunError
from egm_edge.errors import BackendError, InputError, message_of
from egm_edge.machine import memory_gb

VISION, DECODER, PREFILL, HEAD = (f"graphs/{name}.onnx" for name in ("vision", "decoder", "prefill", "head"))
SINGLE_THREAD_BYTES = 16 << 20
FAST_MODE_MARGIN_BYTES = 1 << 30  # activations, KV cache and the rest of the process
MAPPED_BYTES = 9 << 30  # more than any quantized decoder of 8 billion parameters
SPIN_US = 20  # how long a thread waits awake for the next of a step's few hundred short operators
SPIN_DURATION_SINCE = (1, 26)  # the ONNX Runtime that can be told; older ones would spin for milliseconds


class MemoryMode(str, Enum):
    """FAST keeps a second copy of the decoder, in the format that multiplies many rows fastest, for prefill; LOW does
    everything with one copy. AUTO takes FAST when the weights and a margin fit into the memory that is free now."""

    AUTO = "auto"
    FAST = "fast"
    LOW = "low"

    @classmethod
    def parse(cls, value: MemoryMode | str) -> MemoryMode:
        try:
            return cls(value)
        except ValueError:
            raise InputError("memory mode auto, fast or low", repr(value), "pass one of the three") from None


@dataclass(frozen=True, slots=True)
class Sessions:
    """The graphs of one bundle, loaded. `prefill` is the decoder itself where no second copy is kept."""

    vision: ort.InferenceSession
    decoder: ort.InferenceSession
    prefill: ort.InferenceSession
    head: ort.InferenceSession
    memory: MemoryMode
    threads: int


def open_sessions(bundle: Bundle, memory: MemoryMode, threads: int | None) -> Sessions:
    """Load a bundle's graphs, one at a time so that load-time copies do not add up."""
    count = _thread_count(threads)
    has_prefill = PREFILL in bundle.manifest.files
    if memory is MemoryMode.AUTO:
        memory = MemoryMode.FAST if _fits(bundle) else MemoryMode.LOW
    alone = has_prefill and memory is MemoryMode.FAST
    # Waking a second thread for every product of a small decode step costs more than it saves.
    small = alone and bundle.manifest.files[DECODER + ".data"].bytes < SINGLE_THREAD_BYTES
    decoder = _open(bundle.path(DECODER), 1 if small else count)
    prefill = _open(bundle.path(PREFILL), count) if alone else decoder
    return Sessions(_open(bundle.path(VISION), count), decoder, prefill, _open(bundle.path(HEAD), count), memory, count)


def _thread_count(asked: int | None) -> int:
    if asked is None:
        return physical_cores()
    most = os.cpu_count() or 1
    if not 1 <= asked <= most:
        raise InputError(f"1 to {most} threads (this machine's CPUs)", str(asked), "lower it, or leave it out")
    return asked


def physical_cores() -> int:
    """Cores this process may use, two hardware threads of one core counted once where the system tells."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(path.read_text().strip() if path.is_file() else str(cpu))
    return max(1, len(siblings))


def available_bytes() -> int | None:
    """Memory that can be taken without swapping, None where the system does not tell."""
    return int(memory_gb()[1] * 1e9) or None


def _fits(bundle: Bundle) -> bool:
    free = available_bytes()
    weights = sum(record.bytes for name, record in bundle.manifest.files.items() if name.startswith("graphs/"))
    return free is None or weights + FAST_MODE_MARGIN_BYTES < free


def _open(path: Path, threads: int) -> ort.InferenceSession:
    data = path.with_name(path.name + ".data")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come back as exceptions, which are translated
    options.enable_mem_pattern = False  # shapes change with every image and prompt
    for key, value in (_spinning() | product_options()).items():
        options.add_session_config_entry(key, value)
    if data.is_file() and data.stat().st_size > MAPPED_BYTES:  # a reordered copy of such weights would not fit beside them
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise BackendError(
            f"{path.name} to load into ONNX Runtime {ort.__version__}", message_of(error), "rebuild the bundle"
        ) from None


def _spinning() -> dict[str, str]:
    """A robot's cores are shared: threads may spin for microseconds inside a run, and never between runs.

    Waking a sleeping thread for every operator costs about a tenth of a decode step on an idle machine; on a busy one,
    milliseconds of spinning would double it.
    """
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < SPIN_DURATION_SINCE:
        return {"session.intra_op.allow_spinning": "0"}
    return {
        "session.intra_op.allow_spinning": "1",
        "session.intra_op.spin_duration_us": str(SPIN_US),
        "session.force_spinning_stop": "1",
    }


@contextmanager
def running(graph: str, options: ort.RunOptions | None) -> Iterator[None]:
    """Turns what ONNX Runtime raises while `graph` runs into a BackendError, or InterruptedRunError where `options` ended it."""
    try:
        yield
    except Exception as error:  # onnxruntime's exceptions share no public base class
        if options is not None and options.terminate:
            raise InterruptedRunError(
                f"the {graph} graph to run to its end", "an interrupt", "ask again with more time"
            ) from None
        raise BackendError(
            f"the {graph} graph to run on ONNX Runtime {ort.__version__}",
            message_of(error),
            "free some memory or open the bundle with memory 'low'; rebuild the bundle if this stays",
        ) from None
