"""The first NVIDIA board while something runs: memory, clock, temperature, power, throttling, through NVML.

Nothing here where pynvml or a board is missing. Memory is the whole board's, other processes included.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SAMPLE_INTERVAL_S = 0.05
Readings = tuple[float, float, float, float | None, int]  # MB, MHz, degrees Celsius, W, bits of THROTTLE_REASONS
# NVML's reasons that mean "too hot or too little power", not "idle" or "as the user asked".
THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "too hot",
    0x40: "hardware, too hot",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class GpuRun:
    """What the board did during a run.

    Attributes:
        name: the board's own. memory_total_mb, memory_before_mb, memory_peak_mb: MB of 10^6 bytes.
        clock_mhz: of the streaming multiprocessors, mean over samples.
        temperature_before_c, temperature_peak_c: of the chip. power_peak_w: None where it does not tell.
        throttled: reasons seen, each once.
    """

    name: str
    memory_total_mb: float
    memory_before_mb: float
    memory_peak_mb: float
    clock_mhz: float
    temperature_before_c: float
    temperature_peak_c: float
    power_peak_w: float | None
    throttled: tuple[str, ...]


def open_board(ask: Callable[[Any, Any], object]) -> tuple[Any, Any]:
    """NVML and its first board; None twice without the package, the driver, a board, or one that answers `ask(nvml, board)`."""
    with contextlib.suppress(Exception):
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        board = nvml.nvmlDeviceGetHandleByIndex(0)
        ask(nvml, board)
        return nvml, board
    return None, None


class GpuWatch:
    """Samples the board in a thread while entered.

    Example:
        with GpuWatch() as watch:
            ...
        watch.run  # a GpuRun, or None where there is no board
    """

    def __init__(self) -> None:
        self._nvml, self._board = open_board(_readings)
        self._stop = threading.Event()
        self._rows: list[Readings] = []
        self.run: GpuRun | None = None

    def __enter__(self) -> GpuWatch:
        if self._nvml:
            self._rows.append(_readings(self._nvml, self._board))
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._nvml:
            return
        self._stop.set()
        self._thread.join()
        self._rows.append(_readings(self._nvml, self._board))
        memory, clocks, heat, power, reasons = zip(*self._rows, strict=True)
        seen = 0
        for bits in reasons:
            seen |= bits
        name = self._nvml.nvmlDeviceGetName(self._board)
        self.run = GpuRun(
            name=name.decode() if isinstance(name, bytes) else str(name),
            memory_total_mb=self._nvml.nvmlDeviceGetMemoryInfo(self._board).total / 1e6,
            memory_before_mb=memory[0],
            memory_peak_mb=max(memory),
            clock_mhz=sum(clocks) / len(clocks),
            temperature_before_c=heat[0],
            temperature_peak_c=max(heat),
            power_peak_w=max((w for w in power if w is not None), default=None),
            throttled=tuple(words for bit, words in THROTTLE_REASONS.items() if seen & bit),
        )

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            self._rows.append(_readings(self._nvml, self._board))


def _readings(nvml: Any, board: Any) -> Readings:
    power_w = None
    with contextlib.suppress(Exception):  # integrated boards have no such sensor
        power_w = nvml.nvmlDeviceGetPowerUsage(board) / 1e3
    return (
        nvml.nvmlDeviceGetMemoryInfo(board).used / 1e6,
        float(nvml.nvmlDeviceGetClockInfo(board, nvml.NVML_CLOCK_SM)),
        float(nvml.nvmlDeviceGetTemperature(board, nvml.NVML_TEMPERATURE_GPU)),
        power_w,
        int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(board)),
    )
