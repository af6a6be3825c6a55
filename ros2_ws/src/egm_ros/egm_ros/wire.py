"""What the node and the model's process say to each other: small frozen records, as JSON over a pipe.

JSON, not pickle, so that neither side can be made to run anything by the other. Pixels do not travel here but through
`shared_frame.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, get_args

from egm_edge.errors import BackendError


@dataclass(frozen=True, slots=True)
class GroundRequest:
    """Node to model: ground this. Heartbeats follow, then a Result or a Failed.

    Attributes:
        token: names the request in a Stop.
        frame_key: equal for equal frames, so that the model may reuse what it has computed.
        height, width: of the [height, width, 3] uint8 pixels in shared memory.
        byte_count: size of the shared memory, which may have grown.
        color: "rgb" or "bgr".
        deadline_s: instant of time.monotonic(), which processes of one machine share; None for none.
        max_new_tokens, max_think_tokens: None for the bundle's own; no thought at all with 0.
        progress_period_s: least time between two Heartbeats.
    """

    token: int
    frame_key: int
    height: int
    width: int
    byte_count: int
    color: str
    stamp_ns: int
    expression: str
    task: str
    deadline_s: float | None
    max_new_tokens: int | None
    max_think_tokens: int | None
    progress_period_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Node to model: end the request `token` before its next token."""

    token: int


@dataclass(frozen=True, slots=True)
class ReleaseFrame:
    """Node to model: free the frame that is kept."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Model to node: loaded and warmed up."""

    bundle_hash: str
    pixel_spec_hash: str
    prompt_spec_hash: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Model to node: a sign of life. `text` is what was generated since the last one."""

    stage: str
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """Model to node: the answer, as `Grounding.to_dict` gives it."""

    grounding: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """Model to node: no answer, or before Ready no engine. As an EgmError; `trace` only for what nobody expected."""

    expected: str
    found: str
    hint: str
    trace: str = ""


Message = GroundRequest | Stop | ReleaseFrame | Ready | Heartbeat | Result | Failed
_KINDS = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode()


def decode(data: bytes) -> Message:
    """Raises: BackendError: these bytes are not one of the messages above."""
    try:
        name, values = json.loads(data)
        return _KINDS[name](**values)
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError("a message of egm_ros.wire", f"{data[:80]!r}", "start the node again") from error
