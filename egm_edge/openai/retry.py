"""When a request is sent again, and how long is waited before that. The one set of statuses, the one `Retry-After`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from egm_edge.decoding import TokenEvent
from egm_edge.errors import BackendError
from egm_edge.openai.errors import NoAnswerError, RequestRefusedError, StatusError
from egm_edge.openai.reply import POLL_S, ChatReply, Limits, TextStream, gather, has_ended

RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FATAL_STATUS = frozenset({401, 402, 403, 404, 405})  # of the server as a whole, not of one request
MENDS = {
    401: "pass the server's API key",
    403: "pass an API key that is allowed to",
    404: "check the model's name and the address",
    413: "use fewer pixels",
    429: "ask less often, or raise the deadline",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently to try.

    Attributes:
        tries: requests at most, the first one included.
        first_wait_s, longest_wait_s: back-off doubles from one to the other, with jitter; `Retry-After` wins up to the latter.
        timeout_s: for one try as a whole.
        lost_answers: try again also what broke on its way or was no answer, not only what the server asks to repeat.
    """

    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = 120.0
    lost_answers: bool = True

    def run(self, once: Callable[[], _T], where: str, pause: Callable[[float], bool]) -> _T | None:
        """The result of the first try that has one; None where `pause` says that there is no time for another.

        Raises:
            NoAnswerError: every try failed. RequestRefusedError: the server refuses this request.
            BackendError: the server refuses us altogether.
        """
        for attempt in range(1, self.tries + 1):
            wait_s = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
            try:
                return once()
            except StatusError as error:
                kind = _error_kind(error.status)
                hint = MENDS.get(error.status, "see the server's log")
                failure: BackendError = kind(f"an answer from {where}", str(error), hint)
                wait_s = wait_s if error.retry_after_s is None else error.retry_after_s
                again = kind is NoAnswerError
            except NoAnswerError as error:
                failure, again = error, self.lost_answers
            if not again:
                raise failure from None
            if attempt == self.tries:
                tries = f" ({attempt} tries)" if attempt > 1 else ""
                raise NoAnswerError(failure.expected, f"{failure.found}{tries}", failure.hint) from None
            if not pause(min(wait_s, self.longest_wait_s)):
                return None
        raise AssertionError("the last try returns or raises")


def ask(
    open_stream: Callable[[], TextStream],
    limits: Limits,
    retry: Retry,
    *,
    where: str,
    should_stop: Callable[[], bool] | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
    in_thought: bool = False,
) -> ChatReply:
    """One reply; what passes is tried again as long as the deadline allows.

    Args:
        on_token: told each piece of text as it comes, from the start again when a try fails half-way.
        in_thought: the prompt opens a thought, so the reply begins inside it.

    Raises:
        BackendError: as `Retry.run`, and for a server that falls silent.
    """
    reply = ChatReply(in_thought)

    def once() -> ChatReply:
        nonlocal reply
        reply = ChatReply(in_thought)
        try_ends_at = time.monotonic() + retry.timeout_s
        first_end = min(try_ends_at, limits.ends_at)
        found = gather(reply, open_stream, replace(limits, ends_at=first_end), should_stop, on_token, where=where)
        if found.out_of_time and first_end == try_ends_at:
            hint = "see that the server runs, or give it more time"
            raise NoAnswerError(f"an answer from {where}", f"no answer within {retry.timeout_s:g} s", hint)
        return found

    def pause(seconds: float) -> bool:
        until = time.perf_counter() + seconds
        while (left_s := until - time.perf_counter()) > 0 and not has_ended(reply, limits, should_stop):
            time.sleep(min(POLL_S if should_stop else left_s, left_s, max(0.0, limits.left_s())))
        return not has_ended(reply, limits, should_stop)

    return retry.run(once, where, pause) or reply


def _error_kind(status: int) -> type[BackendError]:
    if status in RETRYABLE_STATUS:
        return NoAnswerError
    return BackendError if status in FATAL_STATUS else RequestRefusedError
