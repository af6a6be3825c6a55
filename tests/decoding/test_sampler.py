"""Draws against transformers' own warpers: the same tokens may come, with the same probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from egm_edge.decoding.sampler import Sampler

torch = pytest.importorskip("torch")
LOGITS = np.random.default_rng(3).normal(0, 2, 40).astype(np.float32)
LEVELS = np.linspace(0, 1, 4001)[:-1]


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, None), (0.7, 0.9, None), (0.7, 1.0, 5), (1.5, 0.8, 20), (2.0, 0.5, 1), (1.0, 0.9, 100)],
)
def test_draws_are_those_of_transformers(temperature: float, top_p: float, top_k: int | None) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(temperature)(None, torch.tensor(LOGITS)[None])
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = torch.softmax(scores[0].double(), -1).numpy()
    sampler = Sampler(temperature, top_p, 0, top_k)
    drawn = np.bincount([sampler._draw(LOGITS, None, chosen) for chosen in LEVELS], minlength=len(LOGITS)) / len(LEVELS)
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(expected))
    np.testing.assert_allclose(drawn, expected, atol=2 / len(LEVELS) * 10)


def test_one_token_is_the_most_likely_one() -> None:
    sampler = Sampler(2.0, 1.0, None, 1)
    assert {sampler(LOGITS) for _ in range(20)} == {int(LOGITS.argmax())}
