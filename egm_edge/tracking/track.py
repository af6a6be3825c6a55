"""Track: one object through consecutive small frames. Knows nothing of threads, rings or other tracks.

Per frame: predict (camera motion, own velocity), align the grounded look there, search when that does not fit, and when
nothing fits go on with the prediction alone until the object is seen again or is LOST.
"""

from __future__ import annotations

import cmath
import math

import cv2
import numpy as np

from egm_edge.boxes import Box
from egm_edge.tracking.appearance import Appearance, Fit
from egm_edge.tracking.extent import Extent, Outline, outline
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.settings import TrackerSettings
from egm_edge.tracking.similarity import Similarity
from egm_edge.tracking.tracked import TrackedBox, TrackState

GOOD_FIT = 0.85
REFRESH_FRAMES = 5
VELOCITY_MEMORY, HIDDEN_VELOCITY_MEMORY = 0.55, 0.9  # of one frame
COAST_DECAY_S = 0.5
RECOVER_QUALITY = 0.75
MIN_SEARCH_SCORE = 0.3
COVERED = 0.05  # part of the object
SCALE_PACE = 0.15  # of one frame
STEADY = 0.995
MIN_GROWTH = -0.003  # log scale per frame
MOSTLY_VISIBLE = 0.92
MAX_JUMP_PER_S = 5.0  # log scale plus radians
MAX_SCALE = 6.0
MIN_SIDE_PX = 2.0


class Track:
    """One object, from the frame it was grounded on.

    Args:
        track_id: the caller's name.
        box, amodal_box: pixels of the original image.
        frame: the grounded frame; None when it is not known any more, which makes the track LOST from the start.
        grounded_stamp_ns: stamp of the answer.
        settings: when to give up.
    """

    def __init__(
        self,
        track_id: str,
        box: Box,
        amodal_box: Box | None,
        frame: SmallFrame | None,
        grounded_stamp_ns: int,
        settings: TrackerSettings,
    ) -> None:
        self.track_id, self._settings = track_id, settings
        self._grounded_stamp_ns = grounded_stamp_ns
        self.stamp_ns = grounded_stamp_ns
        self._state, self._quality = TrackState.GROUNDED, 1.0
        self._box, self._amodal_box = box, amodal_box
        self._velocity = 0j  # small pixels per second, relative to the background
        self._turn_rate = 0.0  # radians per second
        self._seen_ns = grounded_stamp_ns
        self._since_refresh = 0
        self._steady_scale = 1.0
        self._visible_part: Outline | None = None  # None: all of it
        self._look: Appearance | None = None
        self._recent: Appearance | None = None
        if frame is None:
            self.lose()
            return
        self._seen_ns = self.stamp_ns = frame.stamp_ns
        sx, sy = frame.to_small
        self._to_small = (sx, sy)
        inside = box.clipped(*frame.original_wh)
        centre = complex((inside.x1 + inside.x2) / 2 * sx, (inside.y1 + inside.y2) / 2 * sy)
        self._half_wh = (
            max(MIN_SIDE_PX, (inside.x2 - inside.x1) * sx / 2),
            max(MIN_SIDE_PX, (inside.y2 - inside.y1) * sy / 2),
        )
        self._pose = Similarity(1 + 0j, centre)
        self._whole: tuple[complex, tuple[float, float]] | None = None
        if amodal_box is not None:
            middle = complex((amodal_box.x1 + amodal_box.x2) / 2 * sx, (amodal_box.y1 + amodal_box.y2) / 2 * sy)
            half = ((amodal_box.x2 - amodal_box.x1) * sx / 2, (amodal_box.y2 - amodal_box.y1) * sy / 2)
            self._whole = (middle - centre, half)
        if inside.area_px2 <= 0:
            self.lose()
            return
        self._box = inside
        look = Appearance(frame, self._pose, self._half_wh)
        self._extent = Extent(self._half_wh, outline(look.silhouette, look.step) if look.distinct else None)
        self._look = look if look.usable else None

    @property
    def state(self) -> TrackState:
        return self._state

    def result(self) -> TrackedBox:
        return TrackedBox(
            self.track_id,
            self._box,
            self._amodal_box,
            self._state,
            self._quality,
            self._grounded_stamp_ns,
            self.stamp_ns,
        )

    def lose(self) -> None:
        """Give up for good: it is not looked for any more."""
        self._state, self._quality, self._look = TrackState.LOST, 0.0, None

    def move_to(self, frame: SmallFrame) -> None:
        """Carry the boxes on to the next frame."""
        seconds = (frame.stamp_ns - self.stamp_ns) / 1e9
        self.stamp_ns = frame.stamp_ns
        if self._look is None:
            self._state, self._quality = TrackState.LOST, 0.0
            return
        carried = frame.camera.after(self._pose)
        turn = carried.turn * cmath.exp(1j * self._turn_rate * seconds)
        predicted = Similarity(turn, carried.shift + self._velocity * seconds)
        unseen_s = (frame.stamp_ns - self._seen_ns) / 1e9
        fit = self._find(frame, predicted, unseen_s, seconds)
        if fit is not None:
            self._accept(fit, frame, carried, seconds)
        else:
            self._coast(predicted, seconds, unseen_s)
        self._write_boxes(frame)

    def _find(self, frame: SmallFrame, predicted: Similarity, unseen_s: float, seconds: float) -> Fit | None:
        """The best believable fit, or None."""
        look = self._look
        assert look is not None
        lost = self._state is TrackState.LOST
        if lost and unseen_s > self._settings.recover_s:
            return None
        best = self._align(look, frame, predicted, seconds)
        half_hidden = best.hidden > COVERED and best.agreement > GOOD_FIT and best.quality > self._settings.min_quality
        if half_hidden:
            best = self._seen_whole(look, frame, predicted, best)
        elif best.quality < GOOD_FIT:
            reach = max(self._half_wh) * min(3.0, 0.6 + 1.5 * unseen_s) + 2.0
            for turn in (1.0,) if unseen_s < 0.3 else (1.0, 0.85, 1.18):
                start, score = look.search(frame, Similarity(predicted.turn * turn, predicted.shift), reach)
                if score > MIN_SEARCH_SCORE:
                    best = max(best, self._align(look, frame, start, seconds), key=lambda fit: fit.quality)
        if best.quality < GOOD_FIT and not half_hidden and self._recent is not None and unseen_s < 0.5:
            by_recent = self._align(self._recent, frame, predicted, seconds)
            if by_recent.quality > best.quality + 0.1:
                best = by_recent
        wanted = RECOVER_QUALITY if lost or unseen_s > 0.3 else self._settings.min_quality
        if best.quality < wanted or not 1 / MAX_SCALE < best.pose.scale < MAX_SCALE:
            return None
        return best

    def _seen_whole(self, look: Appearance, frame: SmallFrame, predicted: Similarity, covered: Fit) -> Fit:
        """A sudden turn looks covered at the predicted place; then more of the object is visible a shift away."""
        start, score = look.search(frame, predicted, 0.6 * max(self._half_wh) + 2.0)
        if score <= MIN_SEARCH_SCORE:
            return covered
        fit = look.align(frame, start, shift_only=True)
        return fit if fit.visible > covered.visible + 0.05 and fit.quality > covered.quality else covered

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

    def _accept(self, fit: Fit, frame: SmallFrame, carried: Similarity, seconds: float) -> None:
        if self._state is TrackState.LOST:
            self._velocity, self._turn_rate = 0j, 0.0
        elif seconds > 0:
            measured = (fit.pose.shift - carried.shift) / seconds
            keep = VELOCITY_MEMORY if fit.visible > MOSTLY_VISIBLE else HIDDEN_VELOCITY_MEMORY
            self._velocity = keep * self._velocity + (1 - keep) * measured
            turned_rad = cmath.phase(fit.pose.turn / carried.turn)
            self._turn_rate = keep * self._turn_rate + (1 - keep) * turned_rad / seconds
        self._pose, self._seen_ns, self._quality = fit.pose, frame.stamp_ns, min(1.0, fit.quality)
        self._state = TrackState.PROPAGATED
        self._steady_scale = max(
            fit.pose.scale, self._steady_scale * (fit.pose.scale / self._steady_scale) ** SCALE_PACE
        )
        self._visible_part = None
        if fit.hidden > COVERED and self._look is not None and self._extent.known:
            self._visible_part = outline(self._look.silhouette & fit.fitting, self._look.step)
        self._since_refresh += 1
        if fit.quality >= GOOD_FIT and fit.visible > MOSTLY_VISIBLE and self._since_refresh >= REFRESH_FRAMES:
            self._recent = Appearance(frame, fit.pose, self._half_wh, like=self._look)
            self._since_refresh = 0

    def _coast(self, predicted: Similarity, seconds: float, unseen_s: float) -> None:
        self._velocity *= math.exp(-seconds / COAST_DECAY_S)
        self._turn_rate = 0.0
        if self._state is not TrackState.LOST:
            self._pose = predicted
            left = max(0.0, 1.0 - unseen_s / max(1e-6, self._settings.lost_after_s))
            self._quality = min(self._quality, self._settings.min_quality * left)
            self._state = TrackState.PROPAGATED
        if unseen_s >= self._settings.lost_after_s:
            self._state, self._quality = TrackState.LOST, 0.0

    def _write_boxes(self, frame: SmallFrame) -> None:
        """Boxes at the pose; while LOST the last believed ones stay."""
        if self._state is TrackState.LOST:
            return
        whole = self._to_box(self._extent.bounds(self._pose))
        box = whole.clipped(*frame.original_wh)
        if box.area_px2 < self._settings.min_visible * whole.area_px2:
            self._state, self._quality = TrackState.LOST, 0.0
            return
        if self._visible_part is not None:
            part = self._to_box(self._extent.bounds_of_part(self._pose, self._visible_part))
            box = part.clipped(*frame.original_wh)
        self._box = box
        if self._whole is not None:
            self._amodal_box = self._to_box(self._extent.bounds_of_other(self._pose, *self._whole))

    def _to_box(self, bounds: tuple[float, float, float, float]) -> Box:
        sx, sy = self._to_small
        return Box(bounds[0] / sx, bounds[1] / sy, bounds[2] / sx, bounds[3] / sy)
