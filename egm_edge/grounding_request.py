"""GroundingRequest: one expression on one frame with its decoding options; and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from egm_edge.backends.base import EngineFrame
from egm_edge.decoding.events import TokenEvent
from egm_edge.decoding.options import DecodingOptions
from egm_edge.grounding import Task, Truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundingRequest:
    """One expression on one frame.

    Attributes:
        expression, task: as in Grounding.
        request_ids: the prompt tokens behind the frame's prefix.
        options: how to decode.
        stop_ids: end tokens; without any, answers go on to the token limit and are held to no grammar.
        started: when the call began, `time.perf_counter()` seconds.
        due_at: when the answer is due, `time.monotonic()` seconds; infinite for never.
        made_frame: the call made the frame itself, so its cost is part of the request.
        should_stop, on_token: as in `Grounder.ground`.
        speculate, lookup: as in Grounder.
    """

    expression: str
    task: Task
    request_ids: list[int]
    options: DecodingOptions
    stop_ids: frozenset[int]
    started: float
    due_at: float = math.inf
    made_frame: bool = False
    should_stop: Callable[[], bool] | None = None
    on_token: Callable[[TokenEvent], None] | None = None
    speculate: bool = True
    lookup: bool = True

    @property
    def is_constrained(self) -> bool:
        """Whether the answer can be forced."""
        forces = self.options.force_syntax or self.due_at < math.inf or self.options.max_think_tokens is not None
        return forces and bool(self.stop_ids)


@dataclass(slots=True)
class RequestProgress:
    """How far a request has come, so that one that is stopped can say so.

    Attributes:
        engine_frame: None before prefill. reused: an earlier request paid for it.
        reopened_ms: putting its prefix back into the cache, where another frame had displaced it.
        together: replies are decoded in one batch.
        limited_by: what bounds their tokens.
    """

    engine_frame: EngineFrame | None = None
    reused: bool = False
    reopened_ms: float = 0.0
    together: bool = False
    limited_by: Truncation = Truncation.MAX_NEW_TOKENS
    truncated_by: set[Truncation] = field(default_factory=set)
