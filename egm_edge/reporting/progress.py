"""Progress of long runs: share done and time left; one moving line for a person, a line now and then for a log."""

from __future__ import annotations

import time
from typing import TextIO

LOG_INTERVAL_S, TTY_INTERVAL_S = 10.0, 0.1
BAR_CHARS = 24


class Progress:
    """Called with (done, total) after each unit of work.

    Args:
        name: what is running.
        stream: where to write; None keeps silent.
    """

    def __init__(self, name: str, stream: TextIO | None) -> None:
        self._name, self._stream = name, stream
        self._tty = bool(stream and stream.isatty())
        self._started = self._printed = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._stream is None:
            return
        self._first = done - 1 if self._first is None else self._first
        now, finished = time.monotonic(), done >= total
        if not finished and now - self._printed < (TTY_INTERVAL_S if self._tty else LOG_INTERVAL_S):
            return
        self._printed = now
        elapsed = now - self._started
        left_s = elapsed / max(done - self._first, 1) * (total - done)
        filled = BAR_CHARS * done // max(total, 1)
        bar = "#" * filled + "." * (BAR_CHARS - filled)
        line = f"{self._name}: {bar} {done}/{total}  {elapsed:.0f} s" + ("" if finished else f", {left_s:.0f} s left")
        self._stream.write(f"\r{line:<78}" + ("\n" if finished else "") if self._tty else line + "\n")
        self._stream.flush()
