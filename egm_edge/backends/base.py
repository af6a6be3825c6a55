"""The backend protocol: patches and token ids in, logits out.

A backend knows nothing of prompts, tokenizers, answer syntax or boxes. It turns a frame's patches into image embeddings,
keeps the frame's prefix in a KV cache, and extends that cache token by token; `decoding` does the rest.

Tensor notation: V vocabulary size, n number of fed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from egm_edge.decoding.session import InterruptedRunError, Session
from egm_edge.errors import BackendError, InputError
from egm_edge.pixels import Pixels


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do; callers fall back to the nearest it offers.

    Attributes:
        tokens: logits of every step are exposed (forced syntax, confidence, deadlines at token granularity).
        frame_reuse: a second expression on a frame skips vision and image prefix.
        rewind: `Session.truncate` works (speculation, several samples from one prefill).
        interrupt: `Backend.interrupt` stops a call that is running (deadlines in the middle of vision or prefill).
        branches: `Session.fork` works (several samples decoded in one batch).
    """

    tokens: bool = True
    frame_reuse: bool = True
    rewind: bool = True
    interrupt: bool = False
    branches: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What a report says of the engine that answered.

    Attributes:
        runtime: its name and version ("onnxruntime 1.31.1").
        device: where it computes ("cpu", "cuda:0", a server's address).
        threads: compute threads on this host, 0 where it computes elsewhere.
        memory: its memory mode ("fast", "low"), "" where it has none.
        instruction_set: of this processor, where it decides how numbers are rounded; "" where something else computes.
    """

    runtime: str
    device: str = "cpu"
    threads: int = 0
    memory: str = ""
    instruction_set: str = ""

    @property
    def engine(self) -> str:
        """Runtime and instruction set, for reports."""
        return f"{self.runtime} ({self.instruction_set})" if self.instruction_set else self.runtime


class EngineFrame(Protocol):
    """One image inside the engine: its prompt prefix, image included, already in the KV cache."""

    @property
    def prefix_token_count(self) -> int: ...

    @property
    def image_token_count(self) -> int: ...

    @property
    def vision_ms(self) -> float: ...

    @property
    def prefill_ms(self) -> float: ...


def require_tokens(token_ids: Sequence[int]) -> None:
    """Refuse to feed nothing to a session."""
    if len(token_ids) == 0:
        raise InputError("at least one token", "none", "feed the request before asking for logits")


def require_reached(length: int, reached: int) -> None:
    """Refuse to truncate a session to a length that it does not have."""
    if not 0 <= length <= reached:
        raise InputError(f"a length of 0 to {reached}", str(length), "pass a length the session has reached")


def require_room(needed: int, context_tokens: int) -> None:
    """Refuse more tokens than the model has positions for."""
    if needed > context_tokens:
        hint = "shorten the expression, lower max_new_tokens, or use fewer pixels"
        raise InputError(f"at most {context_tokens} tokens", str(needed), hint)


class Interruptible:
    """What engines share that look at a flag between the calls of their runtime."""

    _interrupted = _closed = False

    def arm(self) -> None:
        """Nothing to prepare."""

    def interrupt(self) -> None:
        """What the runtime was given goes on; the next call of it raises InterruptedRunError."""
        self._interrupted = True

    def disarm(self) -> None:
        self._interrupted = False

    def _require_running(self) -> None:
        if self._closed:
            raise BackendError("an open engine", "one that was closed", "open it again")
        if self._interrupted:
            raise InterruptedRunError("an engine that may run", "one that was interrupted", "call disarm")


def require_same_frame(resident: EngineFrame | None, frame: EngineFrame) -> None:
    """Refuse a session whose frame was displaced from the engine."""
    if resident is not frame:
        found = "another frame, opened since"
        raise BackendError("the session's own frame in the engine", found, "open the session again")


@runtime_checkable
class Backend(Protocol):
    """Runs the graphs of one bundle."""

    capabilities: Capabilities

    @property
    def facts(self) -> RuntimeFacts:
        """The engine and how it runs, for reports."""

    def open_frame(self, pixels: Pixels, prefix_ids: Sequence[int]) -> EngineFrame:
        """Run the vision tower and the prefix. `prefix_ids` holds the image pad tokens already expanded."""

    def open_session(self, frame: EngineFrame) -> Session:
        """Start a request on `frame`, rewound to its prefix."""

    def arm(self) -> None:
        """From now on `interrupt` works."""

    def interrupt(self) -> None:
        """Make the call that runs now, and all that follow, raise InterruptedRunError; from any thread."""

    def disarm(self) -> None:
        """Undo `arm` and `interrupt`."""

    def close(self) -> None:
        """Free the engine."""
