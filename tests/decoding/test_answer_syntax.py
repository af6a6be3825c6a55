"""The answer syntax of both families over four tokenizers: what it accepts parses, and well-formed answers pass unchanged."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import Tokenizer

from egm_edge.assets import shipped_checkpoint
from egm_edge.decoding.constrained.fsm import BOX_NUMBERS, State, bounds, complete, fits
from egm_edge.decoding.constrained.grammar import AnswerSyntax
from egm_edge.grounding import Outcome
from egm_edge.parsing import parse_answer
from tests.decoding.scripted import QWEN_LAYOUTS, TAG_LAYOUTS, well_formed
from tests.support.qwen_tokenizer import (
    INTERNVL3_SPECIALS,
    QWEN3_SPECIALS,
    byte_tokenizer,
    qwen_tokenizer,
    qwen_vocabulary_available,
)

SLOW = pytest.mark.slow


def _syntax(name: str) -> AnswerSyntax:
    if name.startswith("qwen") and not qwen_vocabulary_available():
        pytest.skip("the true vocabulary is not installed")
    makers = {
        "nano": lambda: (Tokenizer.from_file(str(shipped_checkpoint() / "tokenizer.json")), "bbox_2d_json"),
        "bytes": lambda: (byte_tokenizer(QWEN3_SPECIALS), "bbox_2d_json"),
        "bytes, tags": lambda: (byte_tokenizer(INTERNVL3_SPECIALS), "ref_box"),
        "qwen": lambda: (qwen_tokenizer(), "bbox_2d_json"),
        "qwen, tags": lambda: (qwen_tokenizer(INTERNVL3_SPECIALS), "ref_box"),
    }
    tokenizer, syntax = makers[name]()
    return AnswerSyntax(syntax, tokenizer)


@pytest.fixture(
    scope="module",
    params=["nano", "bytes", "bytes, tags", *(pytest.param(n, marks=SLOW) for n in ("qwen", "qwen, tags"))],
)
def syntax(request: pytest.FixtureRequest) -> AnswerSyntax:
    return _syntax(request.param)


def _walk(syntax: AnswerSyntax, text: str) -> State | None:
    state: State | None = syntax.automaton.start
    for token in syntax.encode(text):
        if state is None:
            break
        state = syntax.step(state, token)
    return state


def test_random_walks_through_the_syntax_always_parse(syntax: AnswerSyntax) -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        state, tokens = syntax.automaton.start, []
        while not syntax.automaton.accepts(state) and len(tokens) < 40:
            token = int(rng.choice(syntax.allowed(state)))
            after = syntax.step(state, token)
            assert after is not None
            state, tokens = after, [*tokens, token]
        if not syntax.automaton.accepts(state):
            ending = syntax.automaton.shortest_ending(state)
            if ending is None:
                continue
            tokens += syntax.encode(ending.decode())
        found = parse_answer(syntax.tokenizer.decode(tokens, skip_special_tokens=False))
        outcomes.add(found.outcome)
        assert found.outcome in (Outcome.FOUND, Outcome.NOT_FOUND)
    assert Outcome.NOT_FOUND in outcomes


def test_every_well_formed_answer_passes(syntax: AnswerSyntax) -> None:
    rng = random.Random(1)
    layouts = TAG_LAYOUTS if syntax.tokenizer.token_to_id("<box>") is not None else QWEN_LAYOUTS
    for layout in layouts:
        for _ in range(10):
            text = well_formed(rng, layout)
            state = _walk(syntax, text)
            assert state is not None, text
            assert syntax.automaton.accepts(state), text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[{"bbox_2d": [300, 20, 100, 40]}]', id="x2 left of x1"),
        pytest.param('[{"bbox_2d": [100, 40, 300, 40]}]', id="no height"),
        pytest.param('[{"bbox_2d": [100, 20, 1001, 40]}]', id="beyond the grid"),
        pytest.param('[{"bbox_2d": [007, 20, 100, 40]}]', id="leading zeros"),
        pytest.param('[{"bbox_2d": [1, 2, 3]}]', id="three numbers"),
        pytest.param('[{"bbox_2d": [1, 2, 3, 4, 5]}]', id="five numbers"),
        pytest.param('[{"bbox_2d": [1, 2, 3, 4]}, {}]', id="two entries"),
        pytest.param("I think it is there", id="prose"),
    ],
)
def test_what_is_not_well_formed_is_stopped(text: str) -> None:
    assert _walk(_syntax("bytes"), text) is None


def test_the_digit_trie_allows_exactly_the_ordered_numbers() -> None:
    for numbers in [(), (0,), (998, 3), (500, 20), (500, 20, 501), (0, 999)]:
        low, high = bounds(numbers)
        allowed = {v for v in range(1001) if complete(str(v), numbers)}
        assert allowed == set(range(low, high + 1))
        prefixes = {str(v)[:n] for v in allowed for n in range(1, len(str(v)) + 1)}
        assert all(fits(str(v), numbers) == (str(v) in prefixes) for v in range(1001))


def test_a_box_can_always_be_finished_without_the_model(syntax: AnswerSyntax) -> None:
    layouts = TAG_LAYOUTS if syntax.tokenizer.token_to_id("<box>") is not None else QWEN_LAYOUTS
    text = well_formed(random.Random(3), layouts[0])
    state: State | None = syntax.automaton.start
    written: list[int] = []
    finished = 0
    for token in syntax.encode(text):
        state = syntax.step(state, token) if state is not None else None
        assert state is not None
        written.append(token)
        if len(state.numbers) == BOX_NUMBERS:
            ending = syntax.automaton.shortest_ending(state)
            assert ending is not None
            whole = syntax.tokenizer.decode([*written, *syntax.encode(ending.decode())], skip_special_tokens=False)
            assert parse_answer(whole).outcome is Outcome.FOUND
            finished += 1
    assert finished > 1
