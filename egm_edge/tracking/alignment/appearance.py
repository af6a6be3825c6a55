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

from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.sampling import SHADOW, Floats, Mask, colour_axis, grid, own_pixels, sample
from egm_edge.tracking.similarity import Similarity

PATCH_SIDE = 36  # samples along the longer side of box plus margin; cost per frame grows with its square
SEARCH_SIDE = 14
MARGIN = 0.14  # of the box on every side: the outline lies on the border of the box
MIN_MARGIN_PX = 2.0
MAX_ITERATIONS = 8
CONVERGED_STEPS = 0.04
NOISE_LEVELS = 5.0  # grey levels that two pictures of one thing may differ by
MIN_CONTRAST = 2.0
SEPARATE = 3.0  # of the surroundings' spread; tabletops have 5 to 20, real footage 0.5 to 3
ALIKE = 0.02  # of the surroundings: of no other colours than the object; a flat thing on a pattern has 0, real footage 0.03 to 1
FAR_PENALTY = 0.15
SHIFT_ONLY = np.array([0, 1, 4, 5])
ALL_UNKNOWNS = np.arange(6)
DAMPED = np.array([0.05, 0.05, 1.0, 1.0, 0.0, 0.0])


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How an appearance lies in a frame.

    Attributes:
        pose: where.
        agreement: correlation of the pixels that fit, 0-1.
        visible: part of the object's pixels that fit, 0-1.
        fitting: which samples fit, [h, w].
        foreign: which samples of the object show something that is neither it nor what was round it, [h, w].
        hidden: part of the object that is foreign, 0-1.
        likeness: correlation of all its pixels, -1 to 1.
    """

    pose: Similarity
    agreement: float
    visible: float
    fitting: Mask
    foreign: Mask
    hidden: float
    likeness: float

    @property
    def quality(self) -> float:
        """0-1: agreement, less where something hides the object."""
        return max(0.0, min(1.0, self.agreement)) * min(1.0, self.visible / 0.85)


class Appearance:
    """The pixels in and just round a box.

    Args:
        frame: the frame to take them from.
        pose: object coordinates to that frame; the identity turn at grounding.
        half_wh: half width and height of the box in object coordinates.
        like: a newer look of the same object: grid, colour axis and silhouette are this one's.

    Attributes:
        silhouette: [h, w], samples that are the object's own colour rather than its surroundings'.
        distinct: False where object and surroundings cannot be told apart by colour; `silhouette` is the whole box then.
        separate: True where the object is of a colour that none of its surroundings is near: its outline can be relied on.
    """

    def __init__(
        self, frame: SmallFrame, pose: Similarity, half_wh: tuple[float, float], like: Appearance | None = None
    ) -> None:
        self.half_wh = half_wh
        if like is None:
            margin = max(MIN_MARGIN_PX, MARGIN * 2 * max(half_wh))
            width, height = (2 * (half + margin) for half in half_wh)
            self.step = max(width, height) / PATCH_SIDE
            self.size = (max(8, round(width / self.step)), max(8, round(height / self.step)))
        else:
            self.step, self.size = like.step, like.size
        u, v = grid(self.size, self.step)
        nearest = np.maximum(np.abs(u) / half_wh[0], np.abs(v) / half_wh[1])
        taken, valid = sample(frame, pose, self.size, self.step)
        self.pixels = taken.astype(np.float32)
        in_box = (nearest <= 1.0) & valid
        if like is None:
            around = (nearest > 1.05) & valid
            self.silhouette, self.distinct = own_pixels(self.pixels, in_box, around, 3 * NOISE_LEVELS)
            self.axis, self.zero, self.apart = colour_axis(self.pixels, self.silhouette, around)
            ground = self.pixels[around] if around.any() else self.pixels.reshape(-1, self.pixels.shape[2])
            self._outside = np.median(ground, 0)
            # On a patterned table nearly everything may be table.
            self._outside_spread = float(np.percentile(np.abs(ground - self._outside).max(1), 85))
            apart = self.apart > SEPARATE * self._outside_spread
            self.separate = self.distinct and (apart or _share_alike(self.pixels, self.silhouette, around) < ALIKE)
        else:
            self.axis, self.zero, self.apart = like.axis, like.zero, like.apart
            self.silhouette, self.distinct = like.silhouette & valid, like.distinct
            self._outside, self._outside_spread = like._outside, like._outside_spread
            self.separate = like.separate
        self._planes = _planes(taken)
        self._brightness = _sum_of(self._planes) + 1.0
        self.patch = self._along_axis(taken)
        self.contrast = float(self.patch.std())
        self._weights = (np.where(nearest <= 1.0, 1.0, 0.6) * valid).astype(np.float32)
        self._radius = max(half_wh)
        gradient_y, gradient_x = np.gradient(cv2.GaussianBlur(self.patch, (3, 3), 0.7), self.step)
        turned = (-v * gradient_x + u * gradient_y) / self._radius
        grown = (u * gradient_x + v * gradient_y) / self._radius
        parts = (gradient_x, gradient_y, turned, grown, self.patch, np.ones_like(self.patch))
        self._basis = np.stack([part.ravel() for part in parts]).astype(np.float32)  # [6, N]
        weighted = self._basis * self._weights.ravel()
        self._solver = np.asarray(np.linalg.inv(_normal(weighted, self._basis, ALL_UNKNOWNS)) @ weighted, np.float32)
        shrink_by = SEARCH_SIDE / max(self.size)
        self._search_size = (max(4, round(self.size[0] * shrink_by)), max(4, round(self.size[1] * shrink_by)))
        self._search_patch = cv2.resize(self.patch, self._search_size, interpolation=cv2.INTER_AREA)

    @property
    def usable(self) -> bool:
        """False for a patch without any structure: it fits everywhere."""
        return self.contrast >= MIN_CONTRAST

    def _along_axis(self, pixels: NDArray[np.uint8]) -> Floats:
        height, width = pixels.shape[:2]
        flat = pixels.reshape(-1, pixels.shape[2]).astype(np.float32) @ self.axis[0] - self.zero
        return flat.reshape(height, width).astype(np.float32, copy=False)

    def align(
        self, frame: SmallFrame, start: Similarity, *, shift_only: bool = False, ignore: Mask | None = None
    ) -> Fit:
        """The pose near `start` at which the frame looks most like this.

        Args:
            frame: where to look.
            start: first guess, at most about a fifth of the object away.
            shift_only: keep the start's scale and angle; half an outline cannot tell those from a shift.
            ignore: samples not to trust, [h, w]: what hides the object moves, too.
        """
        pose = start
        template, unknowns = self.patch.ravel(), SHIFT_ONLY if shift_only else ALL_UNKNOWNS
        trusted = self._weights if ignore is None else self._weights * np.where(ignore, np.float32(0.1), np.float32(1))
        basis, plain = self._basis[unknowns], ignore is None and not shift_only
        tolerance = max(NOISE_LEVELS, 0.5 * self.contrast)
        for iteration in range(MAX_ITERATIONS):
            taken, valid = sample(frame, pose, self.size, self.step)
            difference = self._along_axis(taken).ravel() - template
            weights, solution = trusted.ravel(), np.zeros(6)
            if plain and valid.all():
                found = self._solver @ difference
            else:
                weights = (trusted * valid).ravel()
                found = _least_squares(basis, difference, weights, unknowns)
            if iteration > 0:  # far from the answer the outline itself looks like an outlier
                rest = difference - found[-2:].astype(np.float32) @ basis[-2:]
                found = _least_squares(basis, difference, weights / (1.0 + (rest / tolerance) ** 2), unknowns)
            solution[unknowns] = found
            gain = 1.0 + float(solution[4])
            if not 0.3 < gain < 3.0:
                return Fit(start, 0.0, 0.0, np.zeros_like(valid), np.zeros_like(valid), 0.0, 0.0)
            dx, dy, dturn, dgrow = (float(value) / gain for value in solution[:4])
            dx, dy = (max(-4 * self.step, min(4 * self.step, value)) for value in (dx, dy))
            dturn, dgrow = (max(-0.15, min(0.15, value / self._radius)) for value in (dturn, dgrow))
            pose = pose.after(Similarity(complex(1 + dgrow, dturn), complex(dx, dy)).inverse)
            if math.hypot(dx, dy) + self._radius * math.hypot(dturn, dgrow) < CONVERGED_STEPS * self.step:
                break
        return self.judge(frame, pose)

    def judge(self, frame: SmallFrame, pose: Similarity) -> Fit:
        """How well this fits at a pose, without moving it.

        One exposure factor is allowed for all colours and all pixels; what then still differs is something else.
        """
        taken, valid = sample(frame, pose, self.size, self.step)
        seen = _planes(taken)
        limit = min(45.0, max(3.0 * NOISE_LEVELS, 0.4 * self.apart))
        brightness = _sum_of(seen) + 1.0
        exposure = 1.0
        fitting = valid
        for _ in range(2):
            trusted = fitting & self.silhouette
            if trusted.any():
                exposure = _middle(brightness[trusted]) / _middle(self._brightness[trusted])
            exposure = min(2.5, max(0.4, exposure))
            fitting = valid & (_max_of(np.abs(seen - np.float32(exposure) * self._planes)) < limit)
        object_pixels = self.silhouette & valid
        whole = float(np.count_nonzero(object_pixels))
        visible = float(np.count_nonzero(object_pixels & fitting)) / whole if whole else 0.0
        foreign = object_pixels & ~fitting
        if self.separate and foreign.any():
            off_table = self._off_table(seen / np.float32(exposure))
            foreign &= off_table > max(3.5 * NOISE_LEVELS, 1.5 * self._outside_spread)
        hidden = float(np.count_nonzero(foreign)) / whole if whole else 0.0
        line = self._along_axis(taken)
        agreement = _correlation(self.patch, line, self._weights * fitting)
        return Fit(
            pose, agreement, visible, fitting, foreign, hidden, _correlation(self.patch, line, self._weights * valid)
        )

    def likeness(self, frame: SmallFrame, pose: Similarity) -> float:
        """Correlation of all its pixels with the frame's at a pose, -1 to 1."""
        taken, valid = sample(frame, pose, self.size, self.step)
        return _correlation(self.patch, self._along_axis(taken), self._weights * valid)

    def _off_table(self, planes: Floats) -> Floats:
        """How far colours [C, h, w] are from the surroundings', in light or in shadow, grey levels, [h, w]."""
        outside = self._outside[:, None, None]
        brightness = _sum_of(planes * outside) / max(1.0, float(self._outside @ self._outside))
        return _max_of(np.abs(planes - np.clip(brightness, SHADOW[0], 1.05) * outside))

    def search(self, frame: SmallFrame, around: Similarity, radius: float) -> tuple[Similarity, float]:
        """Translation by correlation.

        Args:
            frame: where to look.
            around: the pose to move.
            radius: how far, object coordinates.

        Returns:
            The best pose and its correlation, -1 to 1. Far places lose up to FAR_PENALTY against near ones.
        """
        width, height = self._search_size
        step = self.step * self.size[0] / width
        reach = max(1, math.ceil(radius / step))
        taken, valid = sample(frame, around, (width + 2 * reach, height + 2 * reach), step)
        if not valid.any():
            return around, -1.0
        scores = cv2.matchTemplate(self._along_axis(taken), self._search_patch, cv2.TM_CCOEFF_NORMED)
        offsets = np.arange(-reach, reach + 1, dtype=np.float32)
        distance = (offsets[None, :] ** 2 + offsets[:, None] ** 2) / reach**2
        scores = np.where(np.isfinite(scores), scores, -1.0) - FAR_PENALTY * np.minimum(distance, 1.0)
        row, column = divmod(int(np.argmax(scores)), scores.shape[1])
        offset = complex((column - reach) * step, (row - reach) * step)
        return Similarity(around.turn, around(offset)), float(scores[row, column])


def _share_alike(pixels: Floats, own: Mask, around: Mask) -> float:
    """Part of the surroundings that is no farther from the object's middle colour than most of the object, 0-1."""
    away = np.linalg.norm(pixels - np.median(pixels[own], 0), axis=2)
    return float((away[around] < max(3 * NOISE_LEVELS, float(np.percentile(away[own], 85)))).mean())


def _planes(pixels: NDArray[np.uint8]) -> Floats:
    """[C, h, w] of [h, w, C]: arithmetic over so short a last axis takes five times as long."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def _max_of(planes: Floats) -> Floats:
    return np.asarray(planes.max(0), np.float32)


def _sum_of(planes: Floats) -> Floats:
    return np.asarray(planes.sum(0), np.float32)


def _middle(values: Floats) -> float:
    """The upper median."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _least_squares(basis: Floats, target: Floats, weights: Floats, unknowns: NDArray[np.intp]) -> NDArray[np.float64]:
    """[K] of `basis` [K, N], weighted."""
    weighted = basis * weights
    return np.asarray(np.linalg.solve(_normal(weighted, basis, unknowns), weighted @ target), np.float64)


def _normal(weighted: Floats, basis: Floats, unknowns: NDArray[np.intp]) -> NDArray[np.float64]:
    normal = np.asarray(weighted @ basis.T, np.float64)
    # A round object has no angle and a straight edge no position along it: damped, not solved for.
    damping = 0.01 * (normal[0, 0] + normal[1, 1]) + 1e-3
    normal.ravel()[:: len(unknowns) + 1] += (damping * DAMPED + 1e-3)[unknowns]
    return normal


def _correlation(template: Floats, patch: Floats, weights: Floats) -> float:
    """Weighted correlation coefficient; 0 where either side is flat."""
    w = weights.ravel()
    total = float(w.sum())
    if total <= 1e-6:
        return 0.0
    t, p = template.ravel(), patch.ravel()
    t, p = t - np.float32(w @ t / total), p - np.float32(w @ p / total)
    weighted = w * p
    tt, pp, tp = float((w * t) @ t), float(weighted @ p), float(weighted @ t)
    return tp / math.sqrt(tt * pp) if tt > 1e-6 and pp > 1e-6 else 0.0
