"""Aligner: fits the grounded look to a frame, and tells a hidden side from a smaller object. Knows one frame at a time."""

from __future__ import annotations

import cmath
import math

import cv2
import numpy as np

from egm_edge.tracking.alignment.appearance import Appearance, Fit
from egm_edge.tracking.alignment.extent import Extent, Outline, outline
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.similarity import Similarity

SURE_FIT, BELIEVABLE_FIT = 0.94, 0.8  # of quality
MAX_SCALE = 6.0
REFRESH_FIT, REFRESH_FRAMES = 0.85, 5
SURE_AGREEMENT = 0.85  # of what is visible, where something known to be foreign hides the rest
MIN_HIDDEN_QUALITY = 0.5
COVERED = 0.05  # part of the object
SCALE_PACE = 0.15  # of one frame
STEADY = 0.995
MIN_GROWTH = -0.003  # log scale per frame
MOSTLY_VISIBLE = 0.92
MAX_JUMP_PER_S = 5.0  # log scale plus radians


class Aligner:
    """One object's grounded look and outline.

    Args:
        look: the object as it was grounded; it stands out from its surroundings (`separate`): its outline holds it, and
            what is in front of it can be told.
    """

    def __init__(self, look: Appearance) -> None:
        self.look = look
        self.extent = Extent(look.half_wh, outline(look.silhouette, look.step))
        self._steady_scale = 1.0
        self._recent: Appearance | None = None
        self._accepted = 0

    def believable(self, fit: Fit) -> bool:
        """Whether a fit is right for all that is known."""
        return fit.quality >= BELIEVABLE_FIT and 1 / MAX_SCALE < fit.pose.scale < MAX_SCALE

    def half_hidden(self, fit: Fit) -> bool:
        """Whether the rest of the object fits, behind something that is neither it nor its surroundings."""
        return fit.hidden > COVERED and fit.agreement > SURE_AGREEMENT and fit.quality > MIN_HIDDEN_QUALITY

    def accept(self, frame: SmallFrame, fit: Fit) -> Outline | None:
        """Remember scale and look; returns the outline of what is visible where less than all of it is."""
        scale = fit.pose.scale
        self._steady_scale = max(scale, self._steady_scale * (scale / self._steady_scale) ** SCALE_PACE)
        self._accepted += 1
        clear = fit.quality >= REFRESH_FIT and fit.visible > MOSTLY_VISIBLE
        if clear and self._accepted >= REFRESH_FRAMES:
            self._recent, self._accepted = Appearance(frame, fit.pose, self.look.half_wh, like=self.look), 0
        if fit.hidden <= COVERED or not self.extent.known:
            return None
        return outline(self.look.silhouette & fit.fitting, self.look.step)

    def align(self, frame: SmallFrame, start: Similarity, seconds: float) -> Fit:
        """The best fit near `start` of the grounded look, or of the newer one where the surroundings have changed."""
        fit = self._align(self.look, frame, start, seconds)
        if self._recent is not None and not self.believable(fit) and fit.hidden <= COVERED:
            by_recent = self._align(self._recent, frame, start, seconds)
            return by_recent if by_recent.quality > fit.quality + 0.1 else fit
        return fit

    def _align(self, look: Appearance, frame: SmallFrame, start: Similarity, seconds: float) -> Fit:
        """Align; where something has come in front, by shifting alone and without the pixels that show it.

        A side that is being hidden looks just like an object that shrinks. It is told from that by colour: where an object
        shrinks, the table comes to light. A slow memory of the scale makes enough of it visible.
        """
        free = look.align(frame, start)
        turned = free.pose.turn / start.turn
        grown, angle_rad = math.log(max(1e-6, abs(turned))), abs(cmath.phase(turned))
        jump = abs(grown) + angle_rad
        jumped = jump > MAX_JUMP_PER_S * max(seconds, 1 / 30)
        shrunken = free.pose.scale < STEADY * self._steady_scale
        if not (jumped or shrunken or grown < MIN_GROWTH or free.visible < MOSTLY_VISIBLE):
            return free
        steady = Similarity(start.turn * max(1.0, self._steady_scale / start.scale), start.shift)
        before = look.judge(frame, steady)
        covered = before.hidden > COVERED
        if not covered and not jumped:
            return free
        ignore = cv2.dilate(before.foreign.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        shifted = look.align(frame, steady if covered else start, shift_only=True, ignore=ignore)
        shrinks = grown < MIN_GROWTH - 0.5 * angle_rad
        if jumped or shrinks or free.visible < shifted.visible + 0.1:
            return shifted
        return free

    def seen_whole(self, frame: SmallFrame, predicted: Similarity, covered: Fit) -> Fit:
        """A sudden turn looks covered at the predicted place; then more of the object is visible a shift away."""
        start, score = self.look.search(frame, predicted, 0.6 * max(self.look.half_wh) + 2.0)
        if score <= 0.3:
            return covered
        fit = self.look.align(frame, start, shift_only=True)
        return fit if fit.visible > covered.visible + 0.05 and fit.quality > covered.quality else covered
