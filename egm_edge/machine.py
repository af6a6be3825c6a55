"""What computer this is: board, processor, memory. Read from the kernel's own files; unknown values are said to be so."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve", "bf16")


def cpu_name() -> str:
    """The processor as it names itself, "unknown CPU" where the system does not say."""
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def cpu_flags() -> list[str]:
    """The instruction sets that decide how fast low-bit arithmetic is here, of those in `CPU_FLAGS`."""
    words = set(read_text(Path("/proc/cpuinfo")).split())
    return [flag for flag in CPU_FLAGS if flag in words]


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> tuple[float, float]:
    """Total and available memory, GB of 10^9 bytes; zeros where the system does not say."""
    table = read_table(Path("/proc/meminfo"))
    return (kib_as_mb(table, "MemTotal") or 0.0) / 1e3, (kib_as_mb(table, "MemAvailable") or 0.0) / 1e3


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB of 10^6 bytes; 0.0 where the system does not say. (`getrusage` would
    give the peak of whatever started this process, if that is larger.)"""
    return kib_as_mb(read_table(Path("/proc/self/status")), "VmHWM") or 0.0


def limit_heaps(count: int = 2) -> None:
    """Let all threads of this process share a few heaps (glibc; elsewhere nothing). By default each thread gets one of its
    own, and what one of them frees is of no use to the others. For threads that are started afterwards."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


_M_ARENA_MAX = -8  # malloc.h


def has_nvidia_gpu() -> bool:
    """Whether the kernel offers an NVIDIA GPU: a card, a Jetson's own, or one through WSL."""
    own = any(Path(path).exists() for path in ("/dev/nvgpu", "/dev/nvhost-gpu", "/dev/dxg"))
    return own or any(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))


def nvidia_gpus(*fields: str) -> list[list[str]]:
    """For each GPU that the driver shows, those fields of `nvidia-smi --help-query-gpu`; memory as "24576 MiB"."""
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, errors="replace", timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[value.strip() for value in line.split(",")] for line in told.splitlines() if line.strip()]


def board_name() -> str:
    """The board's own name on a Jetson or another device-tree machine, "" elsewhere."""
    return read_text(Path("/proc/device-tree/model"))


def read_text(path: Path) -> str:
    """What a file of the kernel's says, "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    """The whole number in a file of the kernel's, None where there is none."""
    try:
        return int(read_text(path))
    except ValueError:
        return None


def read_table(path: Path) -> dict[str, str]:
    """Lines of `name: value`."""
    return dict(line.split(":", 1) for line in read_text(path).splitlines() if ":" in line)


def kib_as_mb(table: dict[str, str], name: str) -> float | None:
    """A size in the kernel's KiB as MB of 10^6 bytes."""
    return int(table[name].split()[0]) * 1024 / 1e6 if name in table else None
