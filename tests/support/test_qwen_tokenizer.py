"""The rebuilt vocabulary against published check values."""

from __future__ import annotations

import pytest

from tests.support.qwen_tokenizer import INTERNVL3_SPECIALS, qwen_tokenizer, qwen_vocabulary_available

pytestmark = pytest.mark.skipif(not qwen_vocabulary_available(), reason="the package with the Qwen ranks is missing")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param("Hello, world!", [9707, 11, 1879, 0], id="plain sentence"),
        pytest.param("Locate the red mug", [9152, 349, 279, 2518, 51489], id="start of the task text"),
        pytest.param("<|im_start|>", [151644], id="special token"),
        pytest.param("<think></think>", [151667, 151668], id="thought tags"),
    ],
)
def test_known_ids(text: str, ids: list[int]) -> None:
    assert qwen_tokenizer().encode(text).ids == ids


def test_an_answer_costs_one_token_a_digit() -> None:
    answer = '[{"bbox_2d": [123, 45, 678, 1000], "label": "mug"}]'
    assert len(qwen_tokenizer().encode(answer).ids) == 35


@pytest.mark.parametrize("text", ["红色的杯子", "mug \N{CUP WITH STRAW} {left} [2]", "Tasse à café", "a\n\n  b\t1234"])
def test_round_trip(text: str) -> None:
    tokenizer = qwen_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_internvl_image_tokens_have_the_ids_of_the_published_checkpoints() -> None:
    tokenizer = qwen_tokenizer(INTERNVL3_SPECIALS)
    assert [tokenizer.token_to_id(t) for t in ("<img>", "</img>", "<IMG_CONTEXT>")] == [151665, 151666, 151667]
