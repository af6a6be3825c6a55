"""The tokenizer: any text round-trips, and the words of the job are single tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egm_edge.synthetic.vocabulary import COLOURS, SHAPES
from training.nano.prompts import tokenizer
from training.nano.tokenizer import CHUNKS, NUMBERS, SPECIAL


@given(st.text(max_size=200))
def test_any_text_round_trips(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", [*(str(n) for n in NUMBERS), *(f" {w}" for w in (*SHAPES, *COLOURS)), *CHUNKS, *SPECIAL]
)
def test_is_one_token(text: str) -> None:
    assert len(tokenizer().encode(text).ids) == 1


def test_chunks_survive_skipping_special_tokens() -> None:
    text = "".join(CHUNKS)
    ids = tokenizer().encode(text).ids
    assert tokenizer().decode(ids, skip_special_tokens=True) == text
    assert tokenizer().decode(tokenizer().encode("".join(SPECIAL)).ids, skip_special_tokens=True) == ""


def test_amodal_prompt_is_not_cut_at_the_modal_chunk() -> None:
    tokens = tokenizer().encode("Locate the red mug amodally, output its bbox coordinates using JSON format").ids
    assert len(tokens) == 5
