"""Appearance: what an object looked like, and where in a new frame it looks like that again.

Knows one frame at a time: no velocity, no history. Coordinates of an object: small pixels of the frame it was taken from,
origin at the centre of its box; a pose (`Similarity`) maps them to small pixels of a frame.

`align` is inverse compositional Lucas-Kanade (Baker & Matthews, "Lucas-Kanade 20 Years On", IJCV 2004) on the whole box
with a similarity warp, gain and bias, and robust weights: a flat-coloured object has nothing to track but its outline,
and only all of the outline together fixes both directions. `search` is normalised cross-correlation in a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.frames import LEVELS, SmallFrame
from egm_edge.tracking.similarity import Similarity

Floats = NDArray[np.float32]

PATCH_SIDE = 40  # samples along the longer side of box plus margin; cost per frame grows with its square
SEARCH_SIDE = 14
MARGIN = 0.14  # of the box on every side: the outline lies on the border of the box
MIN_MARGIN_PX = 2.0
MAX_ITERATIONS = 10
CONVERGED_PX = 0.03
NOISE_LEVELS = 5.0  # grey levels that two pictures of one thing may differ by
MIN_CONTRAST = 2.0


@dataclass(frozen=True, slots=True)
class Fit:
    """How an appearance lies in a frame.

    Attributes:
        pose: where.
        agreement: correlation of the pixels that fit, 0-1.
        visible: part of the box's pixels that fit, 0-1.
    """

    pose: Similarity
    agreement: float
    visible: float

    @property
    def quality(self) -> float:
        """0-1: agreement, less where something hides the object."""
        return max(0.0, self.agreement) * min(1.0, self.visible / 0.85)


class Appearance:
    """The pixels in and just round a box.

    Args:
        frame: the frame to take them from.
        pose: object coordinates to that frame; the identity turn at grounding.
        half_wh: half width and height of the box in object coordinates.
        like: take sampling grid and colour axis from this one (a newer look of the same object).
    """

    def __init__(
        self, frame: SmallFrame, pose: Similarity, half_wh: tuple[float, float], like: Appearance | None = None
    ) -> None:
        self.half_wh = half_wh
        if like is None:
            margin = max(MIN_MARGIN_PX, MARGIN * 2 * max(half_wh))
            width, height = (2 * (half + margin) for half in half_wh)
            self.step = max(width, height) / PATCH_SIDE
            self.size = (max(6, round(width / self.step)), max(6, round(height / self.step)))
            self.axis, self.zero = _colour_axis(frame, pose, half_wh, margin)
        else:
            self.step, self.size, self.axis, self.zero = like.step, like.size, like.axis, like.zero
        columns = ((np.arange(self.size[0]) + 0.5 - self.size[0] / 2) * self.step).astype(np.float32)
        rows = ((np.arange(self.size[1]) + 0.5 - self.size[1] / 2) * self.step).astype(np.float32)
        u, v = np.meshgrid(columns, rows)
        inside_box = (np.abs(u) <= half_wh[0]) & (np.abs(v) <= half_wh[1])
        patch, valid = self._sample(frame, pose, self.size, self.step)
        self.patch = patch
        self.weights = (np.where(inside_box, 1.0, 0.6) * valid).astype(np.float32)
        self.body = (inside_box * valid).astype(np.float32)
        self.contrast = float(patch.std())
        self.colour = _mean_colour(frame, pose, half_wh)
        self._radius = max(half_wh)
        gradient_y, gradient_x = np.gradient(cv2.GaussianBlur(patch, (3, 3), 0.7), self.step)
        turned = (-v * gradient_x + u * gradient_y) / self._radius
        grown = (u * gradient_x + v * gradient_y) / self._radius
        parts = (gradient_x, gradient_y, turned, grown, patch, np.ones_like(patch))
        self._jacobian = np.stack([part.ravel() for part in parts], 1).astype(np.float32)  # [N, 6]
        shrink_by = SEARCH_SIDE / max(self.size)
        self._search_size = (max(4, round(self.size[0] * shrink_by)), max(4, round(self.size[1] * shrink_by)))
        self._search_patch = cv2.resize(patch, self._search_size, interpolation=cv2.INTER_AREA)

    @property
    def usable(self) -> bool:
        """False for a patch without any structure: it fits everywhere."""
        return self.contrast >= MIN_CONTRAST

    def _sample(
        self, frame: SmallFrame, pose: Similarity, size: tuple[int, int], step: float
    ) -> tuple[Floats, NDArray[np.bool_]]:
        patch, valid = _sample(frame, pose, size, step)
        if self.axis is None:
            return patch[..., 0].astype(np.float32), valid
        return cv2.transform(patch.astype(np.float32), self.axis) - self.zero, valid

    def align(self, frame: SmallFrame, start: Similarity) -> Fit:
        """The pose near `start` at which the frame looks most like this."""
        pose = start
        template = self.patch.ravel()
        basis = self._jacobian
        tolerance = max(NOISE_LEVELS, 0.5 * self.contrast)
        for iteration in range(MAX_ITERATIONS):
            patch, valid = self._sample(frame, pose, self.size, self.step)
            weights = self.weights.ravel() * valid.ravel()
            solution = _solve(basis, patch.ravel(), template, weights, tolerance, iteration)
            gain = 1.0 + float(solution[4])
            if not 0.3 < gain < 3.0:
                return Fit(start, 0.0, 0.0)
            dx, dy, dturn, dgrow = (float(v) / gain for v in solution[:4])
            dturn, dgrow = dturn / self._radius, dgrow / self._radius
            dx, dy = (max(-4 * self.step, min(4 * self.step, value)) for value in (dx, dy))
            dturn, dgrow = (max(-0.15, min(0.15, value)) for value in (dturn, dgrow))
            small = Similarity(complex(1 + dgrow, dturn), complex(dx, dy))
            pose = pose.after(small.inverse)
            if math.hypot(dx, dy) + self._radius * math.hypot(dturn, dgrow) < CONVERGED_PX * self.step:
                break
        return self._judge(frame, pose)

    def _judge(self, frame: SmallFrame, pose: Similarity) -> Fit:
        patch, valid = self._sample(frame, pose, self.size, self.step)
        return Fit(pose, *_agreement(self.patch, patch, self.weights * valid, self.body * valid, self.contrast))

    def search(self, frame: SmallFrame, around: Similarity, radius: float) -> tuple[Similarity, float]:
        """Translation by correlation.

        Args:
            frame: where to look.
            around: the pose to move.
            radius: how far, object coordinates.

        Returns:
            The best pose and its correlation, -1 to 1. Far places lose up to 0.15 against near ones.
        """
        width, height = self._search_size
        step = self.step * self.size[0] / width
        reach = max(1, math.ceil(radius / step))
        window, valid = self._sample(frame, around, (width + 2 * reach, height + 2 * reach), step)
        if not valid.any():
            return around, -1.0
        scores = cv2.matchTemplate(window, self._search_patch, cv2.TM_CCOEFF_NORMED)
        offsets = np.arange(-reach, reach + 1, dtype=np.float32)
        distance = (offsets[None, :] ** 2 + offsets[:, None] ** 2) / reach**2
        scores = np.where(np.isfinite(scores), scores, -1.0) - 0.15 * np.minimum(distance, 1.0)
        row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
        offset = complex((int(column) - reach) * step, (int(row) - reach) * step)
        return Similarity(around.turn, around(offset)), float(scores[row, column])


def _solve(
    basis: Floats, patch: Floats, template: Floats, weights: Floats, tolerance: float, iteration: int
) -> NDArray[np.float64]:
    """One weighted least-squares step; returns the six unknowns.

    The first step trusts every pixel alike: far from the answer the outline itself looks like an outlier.
    """
    difference = patch - template
    solution = _least_squares(basis, difference, weights)
    if iteration > 0:
        rest = difference - basis[:, 4:] @ solution[4:].astype(np.float32)
        solution = _least_squares(basis, difference, weights / (1.0 + (rest / tolerance) ** 2))
    return solution


def _least_squares(basis: Floats, target: Floats, weights: Floats) -> NDArray[np.float64]:
    weighted = basis * weights[:, None]
    normal = (weighted.T @ basis).astype(np.float64)
    # A round object has no angle and a straight edge no position along it: damped, not solved for.
    damping = 0.01 * (normal[0, 0] + normal[1, 1]) + 1e-3
    normal[np.arange(4), np.arange(4)] += damping * np.array([0.05, 0.05, 1.0, 1.0])
    normal[4, 4] += 1e-3
    normal[5, 5] += 1e-3
    return np.linalg.solve(normal, (weighted.T @ target).astype(np.float64))


def _agreement(template: Floats, patch: Floats, weights: Floats, body: Floats, contrast: float) -> tuple[float, float]:
    """(correlation of the pixels that fit, part of the box's pixels that fit)."""
    fitting = weights
    gain, bias = 1.0, 0.0
    limit = max(2.5 * NOISE_LEVELS, 0.8 * contrast)
    correlation = 0.0
    rest = np.abs(patch - template)
    for _ in range(2):
        total = float(fitting.sum())
        if total <= 1e-6:
            return 0.0, 0.0
        mean_t, mean_p = float((fitting * template).sum()) / total, float((fitting * patch).sum()) / total
        t, p = template - mean_t, patch - mean_p
        tt, pp, tp = (float((fitting * v).sum()) for v in (t * t, p * p, t * p))
        correlation = tp / math.sqrt(tt * pp) if tt > 1e-6 and pp > 1e-6 else 0.0
        gain = min(3.0, max(0.3, tp / tt)) if tt > 1e-6 else 1.0
        bias = mean_p - gain * mean_t
        rest = np.abs(patch - gain * template - bias)
        fitting = weights * (rest < limit)
    whole = float(body.sum())
    visible = float((body * (rest < limit)).sum()) / whole if whole > 0 else 0.0
    return correlation, visible


def _sample(
    frame: SmallFrame, pose: Similarity, size: tuple[int, int], step: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """[h, w, C] pixels of the frame on the object's grid, and which of them lie inside the image ([h, w])."""
    stride = step * pose.scale
    level = 0 if stride < 1.5 else 1 if stride < 3.0 else LEVELS - 1
    image = frame.levels[level]
    rows, columns = image.shape[:2]
    fx, fy = columns / frame.wh[0], rows / frame.wh[1]
    turn = pose.turn * step
    first = pose.shift + turn * complex(0.5 - size[0] / 2, 0.5 - size[1] / 2)
    matrix = np.array(
        [
            [turn.real * fx, -turn.imag * fx, first.real * fx - 0.5],
            [turn.imag * fy, turn.real * fy, first.imag * fy - 0.5],
        ]
    )
    patch = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    ).reshape(size[1], size[0], -1)
    corners = matrix @ np.array([[0, size[0] - 1, 0, size[0] - 1], [0, 0, size[1] - 1, size[1] - 1], [1, 1, 1, 1]])
    if corners.min() >= -0.5 and corners[0].max() <= columns - 0.5 and corners[1].max() <= rows - 0.5:
        return patch, _all_inside(size)  # type: ignore[return-value]
    across, down = np.arange(size[0]), np.arange(size[1])[:, None]
    x = matrix[0, 0] * across + matrix[0, 1] * down + matrix[0, 2]
    y = matrix[1, 0] * across + matrix[1, 1] * down + matrix[1, 2]
    return patch, (x >= -0.5) & (y >= -0.5) & (x <= columns - 0.5) & (y <= rows - 0.5)  # type: ignore[return-value]


def _all_inside(size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.ones((size[1], size[0]), bool)


def _colour_axis(
    frame: SmallFrame, pose: Similarity, half_wh: tuple[float, float], margin: float
) -> tuple[Floats | None, float]:
    """The line through colour space along which this object differs most from what is round it.

    Returns:
        [1, C] weights of length 1 and the value at the middle; (None, 0) for grey frames.
    """
    if frame.levels[0].shape[2] == 1:
        return None, 0.0
    reach = max(margin, 0.5 * max(half_wh))
    width, height = half_wh[0] + reach, half_wh[1] + reach
    step = 2 * max(width, height) / 32
    size = (max(8, round(2 * width / step)), max(8, round(2 * height / step)))
    patch, valid = _sample(frame, pose, size, step)
    across = np.abs((np.arange(size[0]) + 0.5 - size[0] / 2) * step)[None, :] / half_wh[0]
    down = np.abs((np.arange(size[1]) + 0.5 - size[1] / 2) * step)[:, None] / half_wh[1]
    nearest = np.maximum(across, down)
    core, around = (nearest < 0.6) & valid, (nearest > 1.1) & valid
    grey = np.full(3, 1 / math.sqrt(3))
    if core.any() and around.any():
        apart = patch[core].mean(0) - patch[around].mean(0)
        length = float(np.linalg.norm(apart))
        # Some grey stays in: shading inside the object is mostly grey.
        axis = apart / length * min(1.0, length / 10.0) + 0.35 * math.copysign(1.0, float(apart.sum())) * grey
    else:
        axis = grey
    axis = axis / float(np.linalg.norm(axis))
    middle = float(patch[valid].mean(0) @ axis) if valid.any() else 0.0
    return axis.astype(np.float32)[None, :], middle


def _mean_colour(frame: SmallFrame, pose: Similarity, half_wh: tuple[float, float]) -> Floats:
    """[C] float32: mean of the middle of the box, less the frame's own mean so that exposure does not count."""
    size = 8
    step_w = Similarity(pose.turn, pose.shift)
    patch, valid = _sample(frame, step_w, (size, size), max(0.5, 1.2 * min(half_wh) / size))
    inner = patch[valid] if valid.any() else patch.reshape(-1, patch.shape[2])
    whole = frame.levels[-1].reshape(-1, patch.shape[2]).mean(0)
    return np.asarray(inner.mean(0) - whole, np.float32)


def colour_distance(appearance: Appearance, frame: SmallFrame, pose: Similarity) -> float:
    """How far the middle of the object at `pose` is from the colour it had, grey levels."""
    return float(np.linalg.norm(_mean_colour(frame, pose, appearance.half_wh) - appearance.colour))
