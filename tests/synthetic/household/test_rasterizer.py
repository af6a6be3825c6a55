"""The rasteriser against plain geometry: which pixels, which triangle in front, where on it."""

from __future__ import annotations

import numpy as np
import pytest

from egm_edge.synthetic.household.rasterizer import rasterize


def test_a_triangle_covers_the_pixel_centres_inside_it() -> None:
    points = np.array([[1, 1, 1], [14, 2, 1], [3, 13, 1]], np.float32)
    hits = rasterize(points, np.array([[0, 1, 2]]), 16)
    inside = set()
    (ax, ay), (bx, by), (cx, cy) = points[:, :2].tolist()
    for row in range(16):
        for column in range(16):
            x, y = column + 0.5, row + 0.5
            sides = [
                (bx - ax) * (y - ay) - (by - ay) * (x - ax),
                (cx - bx) * (y - by) - (cy - by) * (x - bx),
                (ax - cx) * (y - cy) - (ay - cy) * (x - cx),
            ]
            if min(sides) >= 0 or max(sides) <= 0:
                inside.add(row * 16 + column)
    assert set(hits.pixel.tolist()) == inside
    np.testing.assert_allclose(hits.weights.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("first", [0, 1], ids=["the near one first", "the near one last"])
def test_the_nearer_triangle_wins_in_any_order_and_winding(first: int) -> None:
    far = np.array([[0, 0, 0.5], [16, 0, 0.5], [0, 16, 0.5]], np.float32)
    near = np.array([[0, 0, 1.0], [0, 8, 1.0], [8, 0, 1.0]], np.float32)
    both = [near, far] if first == 0 else [far, near]
    hits = rasterize(np.concatenate(both), np.array([[0, 1, 2], [3, 4, 5]]), 16)
    at = dict(zip(hits.pixel.tolist(), hits.face.tolist(), strict=True))
    assert at[16 + 1] == first and at[12] == 1 - first


def test_weights_are_perspective_correct() -> None:
    """Half-way across the picture an edge from depth 1 to depth 3 is a quarter of the way along."""
    points = np.array([[0, 0, 1.0], [100, 0, 1 / 3], [0, 100, 1.0]], np.float32)
    hits = rasterize(points, np.array([[0, 1, 2]]), 100)
    at = np.flatnonzero(hits.pixel == 50)[0]
    assert hits.weights[at, 1] == pytest.approx(0.25, abs=0.01)
