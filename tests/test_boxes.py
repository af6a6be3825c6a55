"""Box and IoU."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egm_edge.boxes import Box, iou_matrix, iou_xyxy
from egm_edge.errors import InputError

sides = st.floats(-2000, 4000, allow_nan=False)
boxes = st.builds(lambda a, b, c, d: Box(min(a, c), min(b, d), max(a, c), max(b, d)), sides, sides, sides, sides)


NAN, INF = float("nan"), float("inf")
HAND_WORKED = [
    pytest.param((0, 0, 10, 10), (0, 0, 10, 10), 1.0, id="identical"),
    pytest.param((0, 0, 10, 10), (10, 0, 20, 10), 0.0, id="touching along an edge"),
    pytest.param((0, 0, 10, 10), (10, 10, 20, 20), 0.0, id="touching at a corner"),
    pytest.param((0, 0, 10, 10), (0, 0, 10, 5), 0.5, id="exactly one half"),
    pytest.param((0, 0, 4, 4), (0, 0, 4, 3), 0.75, id="exactly three quarters"),
    pytest.param((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, id="one square of seven"),
    pytest.param((0, 0, 10, 10), (4, 4, 6, 6), 0.04, id="one inside the other"),
    pytest.param((0, 0, 10, 10), (20, 20, 30, 30), 0.0, id="apart"),
    pytest.param((10, 10, 0, 0), (0, 0, 10, 10), 0.0, id="inverted in both axes"),
    pytest.param((10, 0, 0, 10), (0, 0, 10, 10), 0.0, id="inverted in x"),
    pytest.param((5, 5, 5, 5), (5, 5, 5, 5), 0.0, id="both empty"),
    pytest.param((5, 0, 5, 10), (0, 0, 10, 10), 0.0, id="without width"),
    pytest.param((NAN, 0, 10, 10), (0, 0, 10, 10), 0.0, id="NaN"),
    pytest.param((0, 0, INF, 10), (0, 0, 10, 10), 0.0, id="infinite"),
    pytest.param((-10, -10, 10, 10), (-10, -10, 10, 10), 1.0, id="amodal, outside the image"),
]


@pytest.mark.parametrize(("first", "second", "expected"), HAND_WORKED)
def test_iou_of_hand_worked_pairs(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    assert iou_xyxy(first, second) == pytest.approx(expected, abs=1e-15)
    assert iou_xyxy(second, first) == pytest.approx(expected, abs=1e-15)


def test_iou_equals_an_independent_computation() -> None:
    rng = np.random.default_rng(5)
    firsts, seconds = (np.sort(rng.integers(0, 12, (1000, 2, 2)), 1).reshape(-1, 4).astype(float) for _ in range(2))

    def by_counting_cells(*pair: np.ndarray) -> float:  # whole-number boxes: IoU by painting a grid
        grids = [np.zeros((12, 12), bool) for _ in range(2)]
        for grid, (x1, y1, x2, y2) in zip(grids, (box.astype(int) for box in pair), strict=True):
            grid[y1:y2, x1:x2] = True
        return (grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum() if all(g.any() for g in grids) else 0.0

    found = [iou_xyxy(a, b) for a, b in zip(firsts, seconds, strict=True)]
    naive = [by_counting_cells(a, b) for a, b in zip(firsts, seconds, strict=True)]
    assert found == pytest.approx(naive, abs=1e-12)
    assert found == pytest.approx([iou_matrix(a, b)[0, 0] for a, b in zip(firsts, seconds, strict=True)], abs=1e-12)


@given(boxes, boxes)
def test_iou_is_symmetric_and_between_0_and_1(a: Box, b: Box) -> None:
    assert 0.0 <= a.iou(b) <= 1.0 + 1e-12
    assert a.iou(b) == pytest.approx(b.iou(a))


def test_iou_matrix_equals_the_pairwise_value() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 100, (7, 2, 2)), axis=1)
    xyxy = corners.reshape(7, 4)
    matrix = iou_matrix(xyxy[:3], xyxy[3:])
    one_by_one = [[Box(*a).iou(Box(*b)) for b in xyxy[3:]] for a in xyxy[:3]]
    np.testing.assert_allclose(matrix, one_by_one)


def test_an_inverted_box_has_iou_0_with_itself() -> None:
    assert iou_matrix(np.array([[5, 5, 1, 1]]), np.array([[5, 5, 1, 1]])) == 0.0


@given(boxes, st.integers(1, 5000), st.integers(1, 5000))
def test_norm1000_and_back(box: Box, width: int, height: int) -> None:
    again = Box.from_norm1000(box.to_norm1000(width, height), width, height)
    np.testing.assert_allclose(again.xyxy, box.xyxy, atol=1e-6)


def test_norm1000_is_relative_to_width_and_height_and_orders_corners() -> None:
    assert Box.from_norm1000((750, 1000, 250, 500), width_px=640, height_px=480).xyxy == (160, 240, 480, 480)


@given(boxes, st.integers(1, 3000), st.integers(1, 3000))
def test_clipped_lies_inside_the_image(box: Box, width: int, height: int) -> None:
    clipped = box.clipped(width, height)
    assert 0 <= clipped.x1 <= clipped.x2 <= width
    assert 0 <= clipped.y1 <= clipped.y2 <= height


@pytest.mark.parametrize(
    "values",
    [
        pytest.param((1, 0, 0, 1), id="x1 beyond x2"),
        pytest.param((0, 1, 1, 0), id="y1 beyond y2"),
        pytest.param((0, 0, math.nan, 1), id="not a number"),
        pytest.param((0, 0, math.inf, 1), id="infinite"),
    ],
)
def test_impossible_boxes_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="x1 <= x2"):
        Box(*values)


def test_iou_matrix_of_touching_identical_and_empty_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 10, 10], [5, 5, 5, 5]], float)
    iou = iou_matrix(boxes, boxes)
    assert iou[0].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert iou[3, 3] == 0.0
