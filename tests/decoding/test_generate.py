"""Free decoding over a scripted session: stages, limits, cancelling, events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer

from egm_edge.decoding import Budget, Decoder, Stage, StopReason, TokenEvent
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer, NgramStatistics
from tests.support.qwen_tokenizer import QWEN3_SPECIALS, byte_tokenizer


class ScriptedSession:
    """A model that always wants the same reply after a request of three tokens, whatever it is fed; keeps count."""

    REQUEST = (1, 2, 3)

    def __init__(self, tokenizer: Tokenizer, reply_ids: Sequence[int]) -> None:
        self.vocab = tokenizer.get_vocab_size()
        self.reply = list(reply_ids)
        self.sequence: list[int] = []
        self.steps = 0

    @property
    def length(self) -> int:
        return len(self.sequence)

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> np.ndarray:
        self.steps += 1
        logits = np.zeros((len(token_ids), self.vocab), np.float32)
        for row, token in zip(logits, token_ids, strict=True):
            self.sequence.append(token)
            row[self.reply[min(max(self.length - len(self.REQUEST), 0), len(self.reply) - 1)]] = 1.0
        return logits if every_position else logits[-1]

    def truncate(self, length: int) -> None:
        del self.sequence[length:]


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
    generation = Decoder(tokenizer, {end}, Budget(99), thinking=thinking).generate(session, ScriptedSession.REQUEST)
    assert generation.text == generation.marked_text == text
    assert generation.stop_reason is StopReason.END_TOKEN
    assert tokenizer.decode(generation.token_ids[: generation.think_tokens]) == thought
    assert session.sequence[3:] == list(generation.token_ids)


def test_the_token_limit_saves_the_step_nobody_would_read(tokenizer: Tokenizer) -> None:
    session, end = _session(tokenizer, "abcdef")
    generation = Decoder(tokenizer, {end}, Budget(3), thinking=False).generate(session, ScriptedSession.REQUEST)
    assert (generation.text, generation.stop_reason) == ("abc", StopReason.TOKEN_LIMIT)
    assert session.steps == 3


def test_should_stop_is_asked_before_every_token(tokenizer: Tokenizer) -> None:
    session, end = _session(tokenizer, "abcdef")
    answers = iter([False, False, True])
    generation = Decoder(tokenizer, {end}, Budget(9), thinking=False, should_stop=lambda: next(answers)).generate(
        session, ScriptedSession.REQUEST
    )
    assert (generation.text, generation.stop_reason) == ("ab", StopReason.STOPPED)


def test_events_spell_the_reply_and_change_stage_after_the_closing_tag(tokenizer: Tokenizer) -> None:
    session, end = _session(tokenizer, "né 猫</think>x")
    events: list[TokenEvent] = []
    Decoder(tokenizer, {end}, Budget(99), thinking=True, on_token=events.append).generate(
        session, ScriptedSession.REQUEST
    )
    assert "".join(event.text for event in events) == "né 猫</think>x"
    assert [event.count for event in events] == list(range(1, len(events) + 1))
    assert [event.stage for event in events if event.text == "x"] == [Stage.ANSWER]
    assert all(event.stage is Stage.THINK for event in events[:-1])


REPETITIVE = "box [120, 45, 300, 410] so </think>[120, 45, 300, 410] and [120, 45, 310, 410] [120, 45, 300, 410]"


@pytest.mark.parametrize("limit", [1, 2, 7, 40, 62, 99, 200])
def test_drafts_change_the_steps_but_no_token(tokenizer: Tokenizer, limit: int) -> None:
    replies = {}
    for speculate in (False, True):
        session, end = _session(tokenizer, REPETITIVE)
        seen: list[TokenEvent] = []
        replies[speculate] = Decoder(
            tokenizer,
            {end},
            Budget(limit),
            thinking=True,
            speculate=speculate,
            proposer=NgramProposer(),
            on_token=seen.append,
        ).generate(session, ScriptedSession.REQUEST)
        assert [event.count for event in seen] == list(range(1, len(replies[speculate].token_ids) + 1))
    slow, fast = replies[False], replies[True]
    assert (slow.token_ids, slow.think_tokens, slow.stop_reason) == (
        fast.token_ids,
        fast.think_tokens,
        fast.stop_reason,
    )
    assert fast.steps <= slow.steps
    if limit == 200:
        assert fast.steps < 0.75 * slow.steps


def test_a_stop_among_accepted_drafts_keeps_only_what_was_asked_for(tokenizer: Tokenizer) -> None:
    for stop_after in range(40, 80):
        session, end = _session(tokenizer, REPETITIVE)
        seen: list[TokenEvent] = []
        generation = Decoder(
            tokenizer,
            {end},
            Budget(200),
            thinking=True,
            proposer=NgramProposer(),
            should_stop=lambda seen=seen, n=stop_after: len(seen) >= n,
            on_token=seen.append,
        ).generate(session, ScriptedSession.REQUEST)
        assert generation.stop_reason is StopReason.STOPPED
        assert len(generation.token_ids) == stop_after


def test_lookup_copies_what_stood_behind_the_same_words() -> None:
    lookup = NgramProposer([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.propose(2) == [4, 5]
    assert lookup.propose(0) == []
    assert NgramProposer([1, 2, 3, 4]).propose(4) == []


def test_lookup_never_guesses_a_number_behind_words() -> None:
    number = {10, 11, 12, 13}
    lookup = NgramProposer([1, 2, 3, 10, 4, 1, 2, 3], digits=number)
    assert lookup.propose(4) == []
    lookup.add(10)
    assert lookup.propose(1) == [4]


def test_lookup_sees_the_same_shape_whatever_the_numbers() -> None:
    box = [1, 2, 3, 10, 4, 11, 4, 12, 4, 13, 5]
    lookup = NgramProposer([*box, 6, *[1, 2, 3, 12, 4, 10]], digits={10, 11, 12, 13})
    assert lookup.propose(1) == [4]
    memory = NgramStatistics()
    NgramProposer(box, digits={10, 11, 12, 13}, statistics=memory)
    assert NgramProposer([1, 2, 3, 11, 4, 13], digits={10, 11, 12, 13}, statistics=memory).propose(1) == [4]


def test_lookup_stops_guessing_what_keeps_being_wrong() -> None:
    lookup = NgramProposer([1, 2, 3, 4, 1, 2, 3])
    assert lookup.propose(1) == [4]
    for _ in range(30):
        lookup.propose(1)
        lookup.record_accepted(0)
    assert lookup.propose(1) == []
