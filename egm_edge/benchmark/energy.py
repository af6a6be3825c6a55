"""Energy between two moments, from what the machine itself counts: RAPL packages, NVIDIA boards, Jetson power rails.

Each meter says what it covers; a machine without a readable one gives no number at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Protocol

from egm_edge.benchmark.gpu import open_board
from egm_edge.machine import read_int, read_text

ROOT = Path("/")
SAMPLE_INTERVAL_S = 0.05


class Meter(Protocol):
    """Counts joules while it is entered."""

    name: str

    def start(self) -> None: ...

    def stop_j(self) -> float: ...


class RaplMeter:
    """Intel's and AMD's running average power limit counters: whole packages, DRAM not included, all processes.

    A zone beside the packages, "psys", counts the platform with the packages in it (the kernel's powercap documentation).
    """

    name = "rapl"

    def __init__(self, root: Path = ROOT) -> None:
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]"))
        self._zones = [
            (z / "energy_uj", read_int(z / "max_energy_range_uj") or 0)
            for z in zones
            if read_text(z / "name").startswith("package") and read_int(z / "energy_uj") is not None
        ]
        self._began: list[int] = []

    @property
    def available(self) -> bool:
        return bool(self._zones)

    def start(self) -> None:
        self._began = [read_int(path) or 0 for path, _ in self._zones]

    def stop_j(self) -> float:
        total_uj = 0
        for (path, wrap_uj), began in zip(self._zones, self._began, strict=True):
            used = (read_int(path) or 0) - began
            total_uj += used + wrap_uj if used < 0 else used  # the counter wraps every few hours
        return total_uj / 1e6


class RailMeter:
    """Jetson's INA3221 power monitor, sampled in a thread and summed over time.

    VDD_IN is the whole module; boards without it get the sum of all their labelled rails. The name says which.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._rails = self._find(root)
        self.name = f"jetson rails {' + '.join(self._rails)}"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._joules = 0.0

    @property
    def available(self) -> bool:
        return bool(self._rails)

    def start(self) -> None:
        self._joules = 0.0
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop_j(self) -> float:
        self._stop.set()
        if self._thread:
            self._thread.join()
        return self._joules

    @staticmethod
    def _find(root: Path) -> dict[str, tuple[Path, Path]]:
        """Rail -> its files of millivolts and milliamperes."""
        found = {}
        for label in sorted(root.glob("sys/class/hwmon/hwmon*/in*_label")):
            with contextlib.suppress(OSError):
                number, rail = label.name.removeprefix("in").removesuffix("_label"), label.read_text().strip()
                files = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
                if label.with_name("name").read_text().strip() == "ina3221" and all(p.is_file() for p in files):
                    found[rail] = files
        return {"VDD_IN": found["VDD_IN"]} if "VDD_IN" in found else found

    def _sample(self) -> None:
        before, before_w = time.perf_counter(), self._watts()
        while True:
            ended = self._stop.wait(SAMPLE_INTERVAL_S)
            now, now_w = time.perf_counter(), self._watts()
            self._joules += (before_w + now_w) / 2 * (now - before)
            before, before_w = now, now_w
            if ended:
                return

    def _watts(self) -> float:
        return sum((read_int(volts) or 0) * (read_int(amperes) or 0) for volts, amperes in self._rails.values()) / 1e6


class NvmlMeter:
    """The first NVIDIA board's own energy counter, where pynvml is installed; the host is not included."""

    name = "nvml"

    def __init__(self) -> None:
        self._nvml, self._board = open_board(lambda nvml, board: nvml.nvmlDeviceGetTotalEnergyConsumption(board))
        self._began = 0

    @property
    def available(self) -> bool:
        return self._nvml is not None

    def start(self) -> None:
        self._began = self._millijoules()

    def stop_j(self) -> float:
        return (self._millijoules() - self._began) / 1e3

    def _millijoules(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board))


class Energy:
    """All meters of this machine, started and stopped together.

    Example:
        with Energy() as energy:
            ...
        energy.joules  # {"rapl": 31.4}, or {} where nothing can be read
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._meters: list[Meter] = [m for m in (RaplMeter(root), RailMeter(root), NvmlMeter()) if m.available]
        self.joules: dict[str, float] = {}

    def __enter__(self) -> Energy:
        for meter in self._meters:
            meter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.joules = {meter.name: meter.stop_j() for meter in self._meters}
