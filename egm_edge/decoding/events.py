"""What a decoder reports while it generates, and what it leaves behind. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from egm_edge.decoding.uncertainty import NumberChoice
from egm_edge.grounding import Truncation


class Stage(str, Enum):
    """Which part of the reply a token belongs to: the thought, up to and including its closing tag, or the answer."""

    THINK = "think"
    ANSWER = "answer"


class StopReason(str, Enum):
    """Why generation ended."""

    END_TOKEN = "end_token"
    TOKEN_LIMIT = "token_limit"
    STOPPED = "stopped"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token.

    Attributes:
        count: tokens generated so far, this one included.
        text: the text it completes ("" while a character is unfinished).
        stage: thought or answer.
    """

    count: int
    text: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished reply.

    Attributes:
        token_ids: generated ids without the end token.
        text: their text, special tokens left out.
        marked_text: their text with special tokens, for parsing (InternVL's <box> is one).
        uncounted_tokens: of them closing a thought that was never begun (they are fed with the prompt), or written behind an
            answer that the token limit ended (they are never fed).
        think_tokens: how many belong to the thought, its closing included.
        steps: decode steps that the engine ran; fewer than tokens where several were checked at once.
        stop_reason: why it ended.
        prefill_ms: the request's own prompt tokens, up to the first logits.
        think_ms, answer_ms: time of the generated tokens of each stage.
        truncated_by: what was cut short.
        log_probabilities: natural logarithm of each token's probability, NaN for tokens that the model did not choose.
        choices: how sure the model was of every token of a coordinate.
    """

    token_ids: tuple[int, ...]
    text: str
    marked_text: str
    uncounted_tokens: int
    think_tokens: int
    steps: int
    stop_reason: StopReason
    prefill_ms: float
    think_ms: float
    answer_ms: float
    truncated_by: frozenset[Truncation] = frozenset()
    log_probabilities: tuple[float, ...] = ()
    choices: tuple[NumberChoice, ...] = ()
