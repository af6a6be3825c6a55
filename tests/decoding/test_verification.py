"""A draft is accepted as far as the model would have written it itself."""

from __future__ import annotations

import pytest

from egm_edge.decoding.speculative.verification import Verdict, verify

REPLY = [7, 8, 9, 5]


@pytest.mark.parametrize(
    ("draft", "accepted", "pending"),
    [
        pytest.param([], 0, (7,), id="no draft"),
        pytest.param([7, 8], 2, (9,), id="all right"),
        pytest.param([7, 3, 9], 1, (8,), id="wrong in the middle: what is behind it does not count"),
        pytest.param([3], 0, (7,), id="wrong at once"),
        pytest.param([7, 8, 9, 5], 4, (), id="to the end of the reply"),
    ],
)
def test_what_is_accepted_and_what_comes_instead(draft: list[int], accepted: int, pending: tuple[int, ...]) -> None:
    assert verify(draft, lambda row: REPLY[row : row + 1]) == Verdict(accepted, pending)


def test_certain_tokens_behind_a_choice_are_compared_too() -> None:
    """A forced answer takes its constants with the digit before them: several tokens come of one row."""
    rows = {0: [1, 2, 3], 3: [4]}
    assert verify([1, 2, 3, 9], rows.__getitem__) == Verdict(3, (4,))
    assert verify([1, 9], rows.__getitem__) == Verdict(1, (2, 3))
