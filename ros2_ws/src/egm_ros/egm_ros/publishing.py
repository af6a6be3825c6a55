"""A thread of its own for what is published, so that a subscriber that stalls holds nobody up. Knows nothing of ROS."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]
MAX_KEPT = 64
SLOW_S = 0.05  # a publisher that blocks this long has a subscriber that stalls


class PublishingThread:
    """Runs what it is given; of what must be current only the newest, of what must be kept the last MAX_KEPT.

    Args:
        name: of the thread.
        on_error: called with what a job raised.
        on_slow: called when a job took longer than SLOW_S.
        on_skipped: called when a job was passed over for a newer one.
    """

    def __init__(
        self,
        name: str,
        on_error: Callable[[Exception], None],
        *,
        on_slow: Callable[[], None] = lambda: None,
        on_skipped: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_slow, self._on_skipped, self._on_error = on_slow, on_skipped, on_error
        self._wake = threading.Condition()
        self._kept: deque[Job] = deque(maxlen=MAX_KEPT)
        self._newest: Job | None = None
        self._is_busy = self._is_paused = self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def newest(self, job: Job) -> None:
        """Run this unless a newer one comes before its turn, or it is paused; returns at once."""
        with self._wake:
            if self._is_paused:
                return
            if self._newest is not None:
                self._on_skipped()
            self._newest = job
            self._wake.notify_all()

    def keep(self, job: Job) -> None:
        """Run this, in order; returns at once."""
        with self._wake:
            if len(self._kept) == MAX_KEPT:
                self._on_skipped()
            self._kept.append(job)
            self._wake.notify_all()

    def pause(self, timeout_s: float) -> None:
        """Take nothing for `newest` until `resume`; returns when what was to be kept has run, at the latest after `timeout_s`."""
        with self._wake:
            self._is_paused, self._newest = True, None
            self._wake.wait_for(lambda: not (self._kept or self._is_busy), timeout_s)

    def resume(self) -> None:
        with self._wake:
            self._is_paused = False

    def stop(self, timeout_s: float) -> None:
        """End after the job that is running; a publisher that blocks for longer than that is left to the process's end."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(timeout_s)

    def _next(self) -> Job | None:
        with self._wake:
            self._is_busy = False
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._kept or self._newest is not None or self._stopping)
            self._is_busy = True
            if self._stopping:
                return None
            if self._kept:
                return self._kept.popleft()
            job, self._newest = self._newest, None
            return job

    def _run(self) -> None:
        while (job := self._next()) is not None:
            started_s = time.monotonic()
            try:
                job()
            except Exception as error:
                self._on_error(error)
            if time.monotonic() - started_s > SLOW_S:
                self._on_slow()
