"""Progress of long builds: stage, share done, time left; one moving line for a person, plain lines for a log."""

from __future__ import annotations

import time
from typing import TextIO

LOG_INTERVAL_S = 5.0
TTY_INTERVAL_S = 0.1


class Progress:
    """Counts units of work (parameters written) over named stages.

    Args:
        total: units of the whole job.
        stream: where to write; None keeps silent.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total = max(total, 1)
        self.done = 0
        self._stream = stream
        self._tty = bool(stream and stream.isatty())
        self._stage = ""
        self._started = self._printed = time.monotonic()

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage = name
        self._print(force=True)

    def advance(self, units: int) -> None:
        self.done = min(self.done + units, self.total)
        self._print(force=False)

    def finish(self) -> None:
        """End the line."""
        self.done = self.total
        self._stage = "done"
        self._print(force=True)
        if self._stream and self._tty:
            self._stream.write("\n")

    def _print(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._stream is None or not (
            force or now - self._printed > (TTY_INTERVAL_S if self._tty else LOG_INTERVAL_S)
        ):
            return
        self._printed = now
        elapsed = now - self._started
        share = self.done / self.total
        left = f"{elapsed / share - elapsed:.0f} s left" if 0.02 < share < 1 else ""
        line = f"build: {self._stage:<28} {share:4.0%}  {elapsed:5.1f} s  {left}"
        self._stream.write(f"\r{line:<72}" if self._tty else line.rstrip() + "\n")
        self._stream.flush()
