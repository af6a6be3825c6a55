"""What computer this is: board, processor, memory. Read from the kernel's own files; unknown values are said to be so."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve", "bf16")


def cpu_name() -> str:
    """The processor as it names itself, "unknown CPU" where the system does not say."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def cpu_flags() -> list[str]:
    """The instruction sets that decide how fast low-bit arithmetic is here, of those in `CPU_FLAGS`."""
    words = set(_read("/proc/cpuinfo").split())
    return [flag for flag in CPU_FLAGS if flag in words]


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> tuple[float, float]:
    """Total and available memory, GB of 10^9 bytes; zeros where the system does not say."""
    kib = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    return kib.get("MemTotal", 0) * 1024 / 1e9, kib.get("MemAvailable", 0) * 1024 / 1e9


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB of 10^6 bytes; 0.0 where the system does not say. (`getrusage` would
    give the peak of whatever started this process, if that is larger.)"""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def limit_heaps(count: int = 2) -> None:
    """Let all threads of this process share a few heaps (glibc; elsewhere nothing). By default each thread gets one of its
    own, and what one of them frees is of no use to the others. For threads that are started afterwards."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


_M_ARENA_MAX = -8  # malloc.h


def board_name() -> str:
    """The board's own name on a Jetson or another device-tree machine, "" elsewhere."""
    return _read("/proc/device-tree/model").strip("\0\n")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
