"""Votes: hand-worked ballots, and the promises that hold for any."""

from __future__ import annotations

import numpy as np
import pytest

from egm_edge.decoding.voting import Vote, vote

LEFT, LEFT_TOO, RIGHT = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        pytest.param([LEFT], Vote(0, 1.0, False), id="one"),
        pytest.param([LEFT, LEFT_TOO, LEFT], Vote(0, 1.0, False), id="all agree"),
        pytest.param([RIGHT, LEFT, LEFT_TOO], Vote(1, 2 / 3, False), id="two against one"),
        pytest.param([LEFT, LEFT, RIGHT, RIGHT], Vote(0, 0.5, True), id="a tie is ambiguous"),
        pytest.param([LEFT] * 3 + [RIGHT] * 2, Vote(0, 0.6, True), id="three against two is no clear answer"),
        pytest.param([LEFT] * 5 + [RIGHT] * 3, Vote(0, 0.625, False), id="five against three is"),
        pytest.param([None, None, LEFT], Vote(None, 2 / 3, False), id="not there wins"),
        pytest.param([None, LEFT], Vote(1, 0.5, False), id="a box stands against one not there"),
        pytest.param([None], Vote(None, 1.0, False), id="not there alone"),
    ],
)
def test_ballots(boxes: list[tuple[float, ...] | None], expected: Vote) -> None:
    assert vote(boxes) == expected


def test_the_winner_is_the_box_in_the_middle() -> None:
    """Of three shifted boxes the one that overlaps the others most stands for them."""
    assert vote([(0, 0, 10, 10), (2, 0, 12, 10), (4, 0, 14, 10)]).winner == 1


def test_order_changes_nothing_but_the_index() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.integers(0, 60, (6, 2))
        boxes = [(x, y, x + 20, y + 20) for x, y in corners.tolist()]
        order = rng.permutation(6)
        first, second = vote(boxes), vote([boxes[i] for i in order])
        assert (first.agreement, first.ambiguous) == (second.agreement, second.ambiguous)
