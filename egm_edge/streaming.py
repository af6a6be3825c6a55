"""GroundingStream: the events of one request as they come, the Grounding last. Closing it early cancels the request.

The request runs in a thread of its own, so that neither the clock nor the engine waits for a slow reader.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from egm_edge.closing import ClosedByWith

if TYPE_CHECKING:
    from egm_edge.decoding import TokenEvent
    from egm_edge.grounding import Grounding

OnToken = Callable[["TokenEvent"], None]
ShouldStop = Callable[[], bool]


class GroundingStream(ClosedByWith):
    """An iterator over TokenEvents that ends with a Grounding.

    Args:
        run: grounds, given what to ask before every token and whom to tell about every token.

    Example:
        for event in grounder.stream("frame.png", "the red mug"):
            print(event.text if isinstance(event, TokenEvent) else event.box)
    """

    def __init__(self, run: Callable[[ShouldStop, OnToken], Grounding]) -> None:
        self._events: queue.SimpleQueue[TokenEvent | Grounding | BaseException] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._finished = False
        work = (run, self._closed, self._events)  # not self: a stream that nobody holds any more must be collected
        self._thread = threading.Thread(target=_work, args=work, name="egm-stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[TokenEvent | Grounding]:
        return self

    def __next__(self) -> TokenEvent | Grounding:
        from egm_edge.decoding import TokenEvent

        if self._finished or self._closed.is_set():
            raise StopIteration
        item = self._events.get()
        if not isinstance(item, TokenEvent):
            self._finished = True
            self._thread.join()
        if isinstance(item, BaseException):
            raise item
        return item

    def __del__(self) -> None:
        self._closed.set()

    def close(self) -> None:
        """Cancel what is still running and wait until the engine is free."""
        self._closed.set()
        self._thread.join()


def _work(
    run: Callable[[ShouldStop, OnToken], Grounding],
    closed: threading.Event,
    events: queue.SimpleQueue[TokenEvent | Grounding | BaseException],
) -> None:
    try:
        events.put(run(closed.is_set, events.put))
    except BaseException as error:  # raised in the reader's thread instead
        events.put(error)
