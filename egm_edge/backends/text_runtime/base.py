"""TextRuntime: the protocol of whatever takes a picture and a user's text and gives text. Knows nothing of boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, message_of
from egm_edge.openai import Retry, TextStream

ONE_TRY = Retry(tries=1, timeout_s=float("inf"), lost_answers=False)  # of an engine in this process
# A fenced list of one box, the answer of Qwen3-VL's grounding prompt; the numbers are 0 to 1000. For guided decoding.
BOX_PATTERN = r'```json\n\[\{"bbox_2d": \[(-?\d{1,4}, ){3}-?\d{1,4}\], "label": "[^"\n]{0,200}"\}\]\n```'


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What a runtime is asked, greedily.

    Attributes:
        picture: as `TextRuntime.encode_image` made it.
        user_text: the user's turn, as the model was trained on it.
        max_new_tokens: cap on generated tokens.
    """

    picture: Any
    user_text: str
    max_new_tokens: int


class TextRuntime(Protocol):
    """One model, loaded or served. Threads may share it.

    Attributes:
        where: its name in messages.
        facts: the engine and how it runs, for reports.
        retry: what is tried again. stall_timeout_s: silence after which a request without deadline is given up.
    """

    where: str
    facts: RuntimeFacts
    retry: Retry
    stall_timeout_s: float

    def encode_image(self, image_rgb: NDArray[np.uint8]) -> Any:
        """A picture [H, W, 3] as the runtime takes it, made once for every request on it."""

    def open_stream(self, request: TextRequest) -> TextStream:
        """Send a request; its reply comes piece by piece and may be closed at any time."""

    def close(self) -> None:
        """Free the engine; waits for requests that are running."""


class BundleRuntime(TextRuntime, Protocol):
    """A TextRuntime that a bundle is opened with."""

    @classmethod
    def open(cls, bundle: Bundle, served: ServedModel, guided: tuple[str, str] | None) -> TextRuntime:
        """Load the engine; arguments and errors as `TextGrounder.from_bundle`."""


def words_of(error: BaseException) -> str:
    """A foreign error as one bounded line."""
    return f"{type(error).__name__}: {message_of(error, 250)}"


def require_open(engine: Any) -> Any:
    """The engine.

    Raises:
        BackendError: `close` was called.
    """
    if engine is None:
        raise BackendError("an open grounder", "a closed one", "open the bundle again")
    return engine
