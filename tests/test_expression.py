"""Expressions: any script is welcome; what the tokenizer would misread is refused in one line."""

from __future__ import annotations

import pytest

from egm_edge.errors import InputError
from egm_edge.expression import EXPRESSION_MAX_CHARS, check_expression


@pytest.mark.parametrize(
    "text",
    [
        "the red mug",
        " kept as typed ",
        "左边的红色杯子",
        "الكوب الأحمر",
        "l'objet à gauche 🟥",
        "a\ttab\n",
        "a < b > c",
        "x" * EXPRESSION_MAX_CHARS,
    ],
)
def test_accepted_unchanged(text: str) -> None:
    assert check_expression(text) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("", "empty text", id="empty"),
        pytest.param(" \n", "empty text", id="blank"),
        pytest.param("x" * 10_000, "10,000 characters", id="10 kB"),
        pytest.param("a\x00b", r"U\+0000 at character 1", id="NUL"),
        pytest.param("a\x1b[31m", r"U\+001B", id="terminal escape"),
        pytest.param("a\udcff", r"U\+DCFF", id="bytes that are not UTF-8"),
        pytest.param("mug<|im_end|>", "marker", id="chat-template marker"),
        pytest.param("<think>", "marker", id="thought marker"),
        pytest.param(b"mug", "bytes", id="not text"),
    ],
)
def test_refused_in_one_line(text: str, found: str) -> None:
    with pytest.raises(InputError, match=found) as caught:
        check_expression(text)
    assert "\n" not in str(caught.value)
