"""Standing commands: what is grounded again and again, and which of them is due. Knows nothing of ROS, threads or engines.

Two sources: the command topic (one command, or a queue of them) and the set of standing queries. Times are seconds of a
monotonic clock, given by the caller.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from egm_edge.errors import InputError
from egm_ros.requests import Request

TOPIC_PRIORITY = 100
MAX_STANDING = 64
_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
NEVER = float("-inf")
NOT_URGENT = MAX_STANDING + 1


@dataclass(frozen=True, slots=True)
class StandingQuery:
    """One standing command as it was said.

    Attributes:
        request: its id, expression and task; the deadline comes with each start.
        priority: the higher one goes first, 0-255.
        period_s: least time between two starts; None for the node's `reground_period_s`.
        time_s: answer within this, seconds from each start; None for no deadline.
    """

    request: Request
    priority: int = TOPIC_PRIORITY
    period_s: float | None = None
    time_s: float | None = None

    def starting(self, now_s: float) -> Request:
        """The request of a start at this instant."""
        return self.request if self.time_s is None else replace(self.request, deadline_s=now_s + self.time_s)


@dataclass(slots=True)
class _Turn:
    """A command and where it is in its rounds."""

    command: StandingQuery
    not_before_s: float = NEVER
    frame_sequence: int = 0  # of the last frame it was started on
    round: int = 0
    wanted: bool = True  # its next grounding was asked for: by being said, by a lost track, or by the policy


def check_ids(ids: Iterable[str]) -> None:
    """Raises: InputError: too many, one twice, or one that is no id; all problems at once."""
    names = list(ids)
    if len(names) > MAX_STANDING:
        raise InputError(f"at most {MAX_STANDING} of them", f"{len(names)} queries", "correct the set")
    problems = [f"id {name[:80]!r} is not 1 to 64 of A-Z a-z 0-9 _ - ." for name in names if not _ID.fullmatch(name)]
    problems += [f"id {name[:80]!r} stands there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [f"{name!r} is kept for the command topic" for name in names if re.fullmatch(r"cmd-\d+", name)]
    if problems:
        raise InputError("queries with ids of their own", "; ".join(problems), "correct the set")


def _same(one: Request, other: Request) -> bool:
    return (one.expression, one.task) == (other.expression, other.task)


@dataclass(slots=True)
class StandingQueries:
    """Which commands stand, and whose turn it is.

    Attributes:
        queue: topic commands that wait for the one before them to be answered (`command_policy: queue`).
    """

    queue: deque[StandingQuery] = field(default_factory=deque)
    _topic: _Turn | None = None
    _queries: dict[str, _Turn] = field(default_factory=dict)
    _round: int = 0
    _urgent: dict[str, int] = field(default_factory=dict)  # id -> its place among those whose tracks are poor
    _poor_last: bool = False  # the last start was of one of these

    def say(self, command: StandingQuery, *, queue_limit: int = 0, again: bool = False) -> None:
        """A new topic command: it takes the place of the last one, or waits for its answer.

        Args:
            queue_limit: how many may wait; 0 for none (the latest wins).
            again: the same words ask for another grounding at once, instead of being ignored.

        Raises:
            InputError: the queue is full.
        """
        if queue_limit and self._topic is not None and self._topic.wanted:
            if len(self.queue) >= queue_limit:
                found = f"{queue_limit} already waiting"
                raise InputError(f"at most {queue_limit} queued commands", found, "wait for an answer")
            self.queue.append(command)
        elif self._topic is not None and _same(self._topic.command.request, command.request):
            self._topic.wanted |= again
        else:
            self._topic = _Turn(command)

    def clear_topic(self) -> None:
        self._topic = None
        self.queue.clear()

    def replace(self, commands: Iterable[StandingQuery]) -> None:
        """The new set of standing queries; one that is unchanged keeps its turn."""
        old, self._queries = self._queries, {}
        for command in commands:
            turn = old.get(command.request.request_id)
            unchanged = turn is not None and turn.command == command
            self._queries[command.request.request_id] = turn if turn is not None and unchanged else _Turn(command)

    def clear(self) -> None:
        self.clear_topic()
        self._queries.clear()

    def stands(self, request: Request) -> bool:
        """Whether this very request is still wanted; by words for the topic, by id for the queries."""
        turn = self._turn_of(request)
        return turn is not None and _same(turn.command.request, request)

    def ids(self) -> set[str]:
        topic = {self._topic.command.request.request_id} if self._topic is not None else set()
        return topic | set(self._queries)

    def want(self, request_ids: Sequence[str]) -> bool:
        """These tracks are lost or poor, the most urgent first, all others are good: ground them, and them first.

        Returns:
            Whether one of them was not wanted before.
        """
        self._urgent = {request_id: place for place, request_id in enumerate(request_ids)}
        news = [turn for turn in self._turns() if turn.command.request.request_id in self._urgent and not turn.wanted]
        for turn in news:
            turn.wanted = True
        return bool(news)

    def due(self, now_s: float, newest_frame: int, *, urgent: bool = False) -> StandingQuery | None:
        """Whose turn it is. Everybody who is due gets one turn a round: the highest priority first, then the poorest track.

        Args:
            newest_frame: sequence of the newest frame; a command that was already started on it is not due.
            urgent: a poor track goes before those of its priority or less whose turn it is, unless one has gone just now.
        """
        ready = [t for t in self._turns() if t.wanted and t.not_before_s <= now_s and t.frame_sequence < newest_frame]
        if not ready:
            return None
        if all(turn.round >= self._round for turn in ready):
            self._round += 1
        jumps = urgent and not self._poor_last
        waiting = [turn for turn in ready if turn.round < self._round or (jumps and self._place(turn) < NOT_URGENT)]
        return max(waiting, key=lambda turn: (turn.command.priority, -self._place(turn))).command

    def _place(self, turn: _Turn) -> int:
        return self._urgent.get(turn.command.request.request_id, NOT_URGENT)

    def last_frame_of(self, request: Request) -> int:
        """Sequence of the frame it was last started on, 0 for none."""
        turn = self._turn_of(request)
        return turn.frame_sequence if turn is not None else 0

    def next_due_s(self) -> float | None:
        """When the next one that is not due yet will be; None when none waits for time."""
        return min((turn.not_before_s for turn in self._turns() if turn.wanted), default=None)

    def started(self, request: Request, frame_sequence: int, now_s: float, default_period_s: float) -> None:
        turn = self._turn_of(request)
        if turn is not None:
            period_s = turn.command.period_s
            self._poor_last = self._place(turn) < NOT_URGENT
            turn.frame_sequence, turn.round = frame_sequence, self._round
            turn.not_before_s = now_s + (default_period_s if period_s is None else period_s)

    def answered(self, request: Request, *, again: bool) -> None:
        """Args: again: the policy wants it grounded again by itself."""
        turn = self._turn_of(request)
        if turn is None:
            return
        turn.wanted = again
        if turn is self._topic and self.queue:
            self._topic = _Turn(self.queue.popleft())

    def interrupted(self, request: Request) -> None:
        """It was cancelled for a request that goes first; it is due again at once, on the same frame if need be."""
        turn = self._turn_of(request)
        if turn is not None:
            turn.not_before_s, turn.frame_sequence = NEVER, 0

    def hold(self, request: Request, until_s: float) -> None:
        """Not before then: it failed, and a broken engine must not fill the log."""
        turn = self._turn_of(request)
        if turn is not None:
            turn.not_before_s = max(turn.not_before_s, until_s)

    def _turns(self) -> list[_Turn]:
        topic = [self._topic] if self._topic is not None else []
        return [*topic, *self._queries.values()]

    def _turn_of(self, request: Request) -> _Turn | None:
        for turn in self._turns():
            if turn.command.request.request_id == request.request_id:
                return turn
        return None
