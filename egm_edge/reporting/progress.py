"""Progress of long work: tqdm's bar for a person at a terminal, a plain line now and then for a log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_INTERVAL_S = 5.0
SLOW_AFTER_S = 2.0


class ProgressBar:
    """Counts units of work over named stages; or, called with (done, total), shows what somebody else counts.

    Args:
        name: what is running.
        stream: where to write; None keeps silent.
        total: units of the whole job, where they are known before.
    """

    def __init__(self, name: str, stream: TextIO | None, total: int = 0) -> None:
        self._name, self._stream, self._stage = name, stream, ""
        self._done, self._total = 0, max(total, 1)
        self._started = time.monotonic()
        self._printed = self._started if not total else 0.0
        self._bar: tqdm[Any] | None = None
        if stream and stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, desc=name, file=stream, dynamic_ncols=True, unit_scale=True)

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage = name
        if self._bar is not None:
            self._bar.set_description(f"{self._name}: {name}")
        self._log(force=True)

    def advance(self, units: int) -> None:
        """`units` more are done."""
        self._move(min(self._done + units, self._total))

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` units are done; the last one ends the line."""
        if total != self._total and self._bar is not None:
            self._bar.total = total
        self._total = max(total, 1)
        self._move(done)
        if done >= total:
            self.finish()

    def finish(self) -> None:
        """All is done; end the line."""
        self._stage = "done"
        self._move(self._total, force=True)
        if self._bar is not None:
            self._bar.set_description(f"{self._name}: done")
            self._bar.close()

    def _move(self, done: int, *, force: bool = False) -> None:
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done
        self._log(force=force)

    def _log(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._stream is None or self._bar is not None or not (force or now - self._printed > LOG_INTERVAL_S):
            return
        self._printed = now
        elapsed, share = now - self._started, self._done / self._total
        left = f"{elapsed / share - elapsed:.0f} s left" if 0.02 < share < 1 else ""
        line = f"{self._name}: {self._stage:<28} {share:4.0%}  {elapsed:5.1f} s  {left}"
        self._stream.write(line.rstrip() + "\n")
        self._stream.flush()


@contextlib.contextmanager
def told_when_slow(doing: str, stream: TextIO | None) -> Iterator[None]:
    """Say what is being waited for where it takes longer than two seconds, then every few seconds how long it has taken."""
    done, started = threading.Event(), time.monotonic()

    def tell() -> None:
        wait_s = SLOW_AFTER_S
        while stream is not None and not done.wait(wait_s):
            stream.write(f"egm: {doing}, {time.monotonic() - started:.0f} s\n")
            stream.flush()
            wait_s = LOG_INTERVAL_S

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
