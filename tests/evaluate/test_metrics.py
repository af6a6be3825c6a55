"""Metrics against hand-worked rows, intervals against textbook values, published averages."""

from __future__ import annotations

import numpy as np
import pytest

from egm_edge.evaluate.expression_type import expression_type
from egm_edge.evaluate.metrics import EIGHT_SPLITS, accuracies, box_size, eight_split_average
from egm_edge.evaluate.published import matching, published_models, sources
from egm_edge.reporting.intervals import bootstrap_average, bootstrap_mean, mcnemar, paired, wilson


def test_accuracy_is_strict_at_its_threshold() -> None:
    assert accuracies([0.5, np.nextafter(0.5, 1.0), 0.75, 1.0], (0.5, 0.75)) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 31, 33), "small"), ((0, 0, 32, 32), "medium"), ((0, 0, 95, 97), "medium"), ((0, 0, 96, 96), "large")],
)
def test_box_sizes_have_cocos_bounds(box: tuple, size: str) -> None:
    assert box_size(box) == size


def test_the_published_average_is_the_mean_of_its_eight_splits() -> None:
    readme = {m.model: m for m in published_models() if m.source == "README"}
    assert round(readme["EGM-8B"].average or 0.0, 1) == 91.4 == readme["EGM-8B"].average_stated
    for model in readme.values():
        assert model.average == pytest.approx(model.average_stated, abs=0.051)
    card = next(m for m in published_models() if (m.model, m.source) == ("EGM-8B", "CARD"))
    assert card.average == pytest.approx(91.65)  # the card contradicts itself; the table keeps both


def test_published_rows_have_sources_and_plausible_percentages() -> None:
    for model in published_models():
        assert model.source in sources()
        assert all(50.0 < value < 100.0 for value in model.acc50.values())
        assert len(model.acc50) in (0, 8)


def test_no_average_without_all_eight_splits() -> None:
    some = dict.fromkeys(EIGHT_SPLITS[:7], 0.9)
    assert eight_split_average(some) is None
    assert eight_split_average(some | {EIGHT_SPLITS[7]: 0.1}) == pytest.approx(0.8)
    assert matching([("refcoco", "testB"), ("own", "all"), ("refcoco", "val")]) == [
        ("refcoco", "val"),
        ("refcoco", "testB"),
    ]


@pytest.mark.parametrize(
    ("successes", "rows", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_has_the_textbook_values(successes: int, rows: int, low: float, high: float) -> None:
    assert wilson(successes, rows) == pytest.approx((low, high), abs=1e-3)


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(100, 10_000) < 1e-300


def test_bootstrap_covers_the_mean_and_widens_with_clusters() -> None:
    values = np.repeat(np.random.default_rng(1).random(50) > 0.4, 8).astype(float)
    alone = bootstrap_mean(values, range(400))
    clustered = bootstrap_mean(values, np.repeat(np.arange(50), 8).tolist())
    assert alone[0] < values.mean() < alone[1]
    assert clustered[1] - clustered[0] > 2.0 * (alone[1] - alone[0])  # √8 in theory
    assert bootstrap_mean(values, range(400)) == alone  # seeded
    low, high = bootstrap_average([(values, range(400)), (1 - values, range(400))])
    assert low < 0.5 < high


def test_paired_sees_a_real_difference_and_calls_noise_noise() -> None:
    rng = np.random.default_rng(2)
    first = rng.random(400)
    better = np.where(rng.random(400) < 0.2, 1.0, first)
    found = paired(first, better, range(400))
    assert found.differs
    assert found.only_first == 0
    assert found.acc50_gain == pytest.approx(found.acc50_second - found.acc50_first)
    assert found.acc50_gain == found.only_second / 400
    shuffled = first.copy()
    shuffled[:2] = 1.0 - shuffled[:2]
    assert not paired(first, shuffled, range(400)).differs
    assert paired(first, first, range(400)).mcnemar_p == 1.0


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("second cup from the left", "ordinal"),
        ("2nd zebra", "ordinal"),
        ("leftmost chair", "superlative"),
        ("the tallest man", "superlative"),
        ("man in the forest", "attribute"),
        ("woman in a vest", "attribute"),
        ("the mug left of the kettle", "relation"),
        ("girl holding an umbrella", "relation"),
        ("man on right", "position"),
        ("the man on the right", "position"),
        ("red mug", "attribute"),
    ],
)
def test_query_kinds_by_words(expression: str, kind: str) -> None:
    assert expression_type(expression) == kind
