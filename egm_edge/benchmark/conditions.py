"""Conditions of a measurement: clocks, temperatures, throttling, power mode, memory, and who else uses the machine.

Read from the kernel's own files under `root`; what a machine does not tell is None, never guessed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from egm_edge.machine import kib_as_mb, read_int, read_table, read_text

ROOT = Path("/")
BUSY_FIELDS, IDLE_FIELDS = (0, 1, 2, 5, 6, 7), (3, 4)  # of the "cpu" line of /proc/stat, see proc(5)


@dataclass(frozen=True, slots=True)
class Conditions:
    """One snapshot at the machine.

    Attributes:
        governor: of the first CPU. clock_mhz: mean over CPUs. clock_max_mhz: highest allowed.
        temperatures_c: zone -> degrees. throttled: how often the CPUs were throttled since boot.
        power_mode: of a Jetson. load_1min: runnable processes. memory_available_mb, rss_mb, peak_rss_mb: 10^6 bytes.
        busy_s, idle_s: of all CPUs since boot. own_s: CPU time of this process.
    """

    governor: str | None
    clock_mhz: float | None
    clock_max_mhz: float | None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    throttled: int | None = None
    power_mode: str | None = None
    load_1min: float | None = None
    memory_available_mb: float | None = None
    rss_mb: float | None = None
    peak_rss_mb: float | None = None
    busy_s: float | None = None
    idle_s: float | None = None
    own_s: float = 0.0


def snapshot(root: Path = ROOT) -> Conditions:
    """The machine as it is now."""
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    busy_s, idle_s = _cpu_seconds(root)
    load = _words(root / "proc/loadavg")
    status = read_table(root / "proc/self/status")
    throttles = [read_int(p) for p in root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")]
    counted = [count for count in throttles if count is not None]
    return Conditions(
        governor=read_text(frequency / "scaling_governor") or None,
        clock_mhz=_clock_mhz(root),
        clock_max_mhz=_scaled(frequency / "scaling_max_freq", 1e-3),
        temperatures_c=_temperatures(root),
        throttled=sum(counted) if counted else None,
        power_mode=_power_mode(root),
        load_1min=float(load[0]) if load else None,
        memory_available_mb=kib_as_mb(read_table(root / "proc/meminfo"), "MemAvailable"),
        rss_mb=kib_as_mb(status, "VmRSS"),
        peak_rss_mb=kib_as_mb(status, "VmHWM"),
        busy_s=busy_s,
        idle_s=idle_s,
        own_s=time.process_time(),
    )


def others_share(before: Conditions, after: Conditions) -> float | None:
    """Share of the machine's CPU time that other processes used between two looks, 0.0-1.0; None where it does not tell."""
    if before.busy_s is None or after.busy_s is None or before.idle_s is None or after.idle_s is None:
        return None
    busy = after.busy_s - before.busy_s
    total = busy + after.idle_s - before.idle_s
    own = after.own_s - before.own_s
    return min(max((busy - own) / total, 0.0), 1.0) if total > 0 else None


def _clock_mhz(root: Path) -> float | None:
    scaled = [_scaled(p, 1e-3) for p in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    clocks = [value for value in scaled if value is not None]
    if not clocks:
        lines = read_text(root / "proc/cpuinfo").splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(clocks) / len(clocks) if clocks else None


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = _scaled(zone / "temp", 1e-3)
        if value is not None:
            found[f"{read_text(zone / 'type') or zone.name} {zone.name.removeprefix('thermal_zone')}"] = value
    return found


def _power_mode(root: Path) -> str | None:
    """Number of the chosen nvpmodel, with its name where the configuration gives one."""
    words = _words(root / "var/lib/nvpmodel/status")
    number = words[0].partition(":")[2] if words else ""
    if not number:
        return None
    for line in read_text(root / "etc/nvpmodel.conf").splitlines():
        if line.startswith("< POWER_MODEL") and f"ID={int(number)} " in line:
            return f"{int(number)} {line.partition('NAME=')[2].rstrip(' >')}"
    return number


def _cpu_seconds(root: Path) -> tuple[float | None, float | None]:
    words = _words(root / "proc/stat")
    if len(words) < 9 or words[0] != "cpu":
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    values = [float(word) / ticks for word in words[1:9]]
    return sum(values[i] for i in BUSY_FIELDS), sum(values[i] for i in IDLE_FIELDS)


def _words(path: Path) -> list[str]:
    return read_text(path).split()


def _scaled(path: Path, factor: float) -> float | None:
    value = read_int(path)
    return None if value is None else value * factor
