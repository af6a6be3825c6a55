"""What a coordinate's logits say about it: the choice among the numbers that may still be written."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tokenizers import Tokenizer

from egm_edge.assets import shipped_checkpoint
from egm_edge.decoding.constrained.fsm import State
from egm_edge.decoding.constrained.token_bytes import TokenBytes
from egm_edge.decoding.uncertainty import NumberChoice, number_choice, std_norm1000


@pytest.fixture(scope="module")
def tokens() -> TokenBytes:
    return TokenBytes(Tokenizer.from_file(str(shipped_checkpoint() / "tokenizer.json")))


@pytest.mark.parametrize("numbers", [(), (100,), (100, 200), (100, 200, 300), (995, 990)])
def test_the_branches_of_a_whole_number_are_the_allowed_ones(tokens: TokenBytes, numbers: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(numbers))
    logits = rng.normal(0, 3, len(tokens.of)).astype(np.float32)
    low = numbers[len(numbers) - 2] + 1 if len(numbers) >= 2 else 0
    high = 1000 if len(numbers) >= 2 else 999
    values = {int(tokens.of[i]): int(i) for i in tokens.digits if str(int(tokens.of[i])).encode() == tokens.of[i]}
    allowed = {value: token for value, token in values.items() if low <= value <= high}
    assert 0 < len(allowed) < len(values)
    weights = {value: math.exp(float(logits[token])) for value, token in allowed.items()}
    for value, token in values.items():
        choice = number_choice(logits, State(frozenset([0]), "", numbers), token, tokens)
        assert (choice is not None) == (value in allowed)
        if choice is not None:
            share = {other: weight / sum(weights.values()) for other, weight in weights.items()}
            assert choice.probability == pytest.approx(share[value], rel=1e-4)
            assert choice.entropy == pytest.approx(-sum(p * math.log(p) for p in share.values()), rel=1e-4)
            assert choice.variance == pytest.approx(sum(p * (other - value) ** 2 for other, p in share.items()), rel=1e-4)


def test_four_certain_numbers_have_no_spread_and_three_have_none_to_tell() -> None:
    sure = [NumberChoice(number, 0.0, 0.0, 1.0) for number in range(4)]
    assert std_norm1000(sure) == (0.0, 0.0, 0.0, 0.0)
    assert std_norm1000(sure[:3]) is None
