"""Greedy decoding over a scripted session: stages, limits, cancelling, events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer

from egm_edge.decoding import Stage, StopReason, TokenEvent, greedy
from tests.support.qwen_tokenizer import QWEN3_SPECIALS, byte_tokenizer


class ScriptedSession:
    """Continues every prompt with a fixed reply; counts what it was fed."""

    def __init__(self, tokenizer: Tokenizer, reply_ids: Sequence[int]) -> None:
        self.vocab = tokenizer.get_vocab_size()
        self.reply = list(reply_ids)
        self.fed: list[list[int]] = []

    @property
    def length(self) -> int:
        return sum(map(len, self.fed))

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> np.ndarray:
        assert not every_position
        self.fed.append(list(token_ids))
        logits = np.zeros(self.vocab, np.float32)
        logits[self.reply[len(self.fed) - 1]] = 1.0
        return logits

    def truncate(self, length: int) -> None:
        raise AssertionError("greedy decoding never rewinds")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer(QWEN3_SPECIALS)


def _session(tokenizer: Tokenizer, text: str) -> tuple[ScriptedSession, int]:
    end = tokenizer.token_to_id("<|im_end|>")
    return ScriptedSession(tokenizer, [*tokenizer.encode(text, add_special_tokens=False).ids, end, end]), end


@pytest.mark.parametrize(
    ("text", "thinking", "thought"),
    [
        pytest.param("it is red\n</think>\n\n[1]", True, "it is red\n</think>", id="prompt opened the thought"),
        pytest.param("<think>red</think>[1]", False, "<think>red</think>", id="reply opens the thought"),
        pytest.param("[1, 2, 3, 4]", False, "", id="no thought"),
        pytest.param("never closed", True, "never closed", id="thought cut short"),
    ],
)
def test_tokens_are_counted_to_the_stage_they_belong_to(
    tokenizer: Tokenizer, text: str, thinking: bool, thought: str
) -> None:
    session, end = _session(tokenizer, text)
    generation = greedy(session, [1, 2, 3], tokenizer, {end}, max_new_tokens=99, thinking=thinking)
    assert generation.text == generation.marked_text == text
    assert generation.stop_reason is StopReason.END_TOKEN
    assert tokenizer.decode(generation.token_ids[: generation.think_tokens]) == thought
    assert session.fed == [[1, 2, 3], *([token] for token in generation.token_ids)]


def test_the_token_limit_saves_the_step_nobody_would_read(tokenizer: Tokenizer) -> None:
    session, end = _session(tokenizer, "abcdef")
    generation = greedy(session, [1], tokenizer, {end}, max_new_tokens=3, thinking=False)
    assert (generation.text, generation.stop_reason) == ("abc", StopReason.TOKEN_LIMIT)
    assert len(session.fed) == 3


def test_should_stop_is_asked_before_every_token(tokenizer: Tokenizer) -> None:
    session, end = _session(tokenizer, "abcdef")
    answers = iter([False, False, True])
    generation = greedy(
        session, [1], tokenizer, {end}, max_new_tokens=9, thinking=False, should_stop=lambda: next(answers)
    )
    assert (generation.text, generation.stop_reason) == ("ab", StopReason.STOPPED)


def test_events_spell_the_reply_and_change_stage_after_the_closing_tag(tokenizer: Tokenizer) -> None:
    session, end = _session(tokenizer, "né 猫</think>x")
    events: list[TokenEvent] = []
    greedy(session, [1], tokenizer, {end}, max_new_tokens=99, thinking=True, on_token=events.append)
    assert "".join(event.text for event in events) == "né 猫</think>x"
    assert [event.count for event in events] == list(range(1, len(events) + 1))
    assert [event.stage for event in events if event.text == "x"] == [Stage.ANSWER]
    assert all(event.stage is Stage.THINK for event in events[:-1])
