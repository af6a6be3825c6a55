"""Track: the life of one object through consecutive small frames. Knows nothing of threads, rings or other tracks.

Per frame: predict (camera motion, own velocity), let a follower look, believe it or coast on the prediction, until the object
is seen again or is LOST.
"""

from __future__ import annotations

import cmath
import math

from egm_edge.boxes import Box
from egm_edge.tracking.alignment.extent import Bounds, Outline
from egm_edge.tracking.follower import Follower, Prediction, Sighting
from egm_edge.tracking.followers import FollowerMaker
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.settings import TrackerSettings
from egm_edge.tracking.similarity import Similarity
from egm_edge.tracking.tracked import TrackedBox, TrackState

VELOCITY_MEMORY, HIDDEN_VELOCITY_MEMORY = 0.55, 0.9  # of one frame
COAST_DECAY_S = 0.5
COAST_BELOW = 0.1
STEADY = 0.2  # of the way it goes in a frame: a velocity that errs by less is gone on by where nothing is seen
AT_REST_PX, FIRST_ERROR_PX = 0.2, 0.5
CLEARLY_SEEN = 0.8
QUALITY_PACE = 0.4  # of one frame: one good or bad frame proves little
USUAL_PACE = 0.1
FOUND_AGAIN = 0.5
MIN_SIDE_PX = 4.0  # small: less is looked for with what is round it, and half a pixel off is IoU < 0.5


class Track:
    """One object, from the frame it was grounded on.

    Args:
        track_id: the caller's name.
        box, amodal_box: pixels of the original image.
        frame: the grounded frame; None when it is not known any more, which makes the track LOST from the start.
        grounded_stamp_ns: stamp of the answer.
        settings: when to give up.
        make_follower, phase: what looks for it, and when it does its rare work.
        before: the track of the same object from an earlier answer, whose looks are remembered.
    """

    def __init__(
        self,
        track_id: str,
        box: Box,
        amodal_box: Box | None,
        frame: SmallFrame | None,
        grounded_stamp_ns: int,
        settings: TrackerSettings,
        make_follower: FollowerMaker,
        phase: float,
        before: Track | None = None,
    ) -> None:
        self.track_id, self._settings = track_id, settings
        self._grounded_stamp_ns = grounded_stamp_ns
        self.stamp_ns = grounded_stamp_ns
        self._state, self._quality, self._usual_quality = TrackState.GROUNDED, 1.0, 1.0
        self._box, self._amodal_box = box, amodal_box
        self._velocity = 0j  # small pixels per second, relative to the background
        self._turn_rate = 0.0  # radians per second
        self._way, self._error = 0.0, FIRST_ERROR_PX  # small pixels a frame: gone of itself, foretold wrongly
        self._seen_ns = self._looked_ns = grounded_stamp_ns
        self._visible_part: Outline | None = None
        self._follower: Follower | None = None
        if frame is None:
            self.lose()
            return
        self._seen_ns = self._looked_ns = self.stamp_ns = frame.stamp_ns
        self._to_small = sx, sy = frame.to_small
        inside = box.clipped(*frame.original_wh)
        if inside.area_px2 <= 0:
            self.lose()
            return
        self._box = inside
        centre, half_wh = _small(inside, sx, sy)
        self._pose = self._carried = Similarity(1 + 0j, centre)  # `_carried`: since the last look by the camera alone
        self._whole: tuple[complex, tuple[float, float]] | None = None
        if amodal_box is not None:
            middle, half = _small(amodal_box, sx, sy)
            self._whole = (middle - centre, half)
        seen_half = (max(MIN_SIDE_PX / 2, half_wh[0]), max(MIN_SIDE_PX / 2, half_wh[1]))
        self._part = (half_wh[0] / seen_half[0], half_wh[1] / seen_half[1])
        self._most_quality = min(1.0, math.sqrt(self._part[0] * self._part[1]))
        self._follower = make_follower(frame, self._pose, seen_half, phase, before._follower if before else None)

    @property
    def state(self) -> TrackState:
        return self._state

    @property
    def seen_ns(self) -> int:
        """Stamp of the last frame in which it was believed to be seen."""
        return self._seen_ns

    @property
    def expected_quality(self) -> float:
        """What the quality will be soon if it goes on to fall or rise as it did, 0-1; 0 when LOST."""
        if self._state is TrackState.LOST:
            return 0.0
        return max(0.0, min(1.0, 2 * self._quality - self._usual_quality))

    def result(self) -> TrackedBox:
        return TrackedBox(
            self.track_id,
            self._box,
            self._amodal_box,
            self._state,
            self._quality if self._state is not TrackState.LOST else 0.0,
            self._grounded_stamp_ns,
            self.stamp_ns,
        )

    def lose(self) -> None:
        """Give up for good: it is not looked for any more."""
        self._state, self._quality, self._follower = TrackState.LOST, 0.0, None

    def move_to(self, frame: SmallFrame, look: bool = True) -> None:
        """Carry the boxes on to the next frame, by what is seen there or, without a look, by the last motion."""
        self.stamp_ns = frame.stamp_ns
        unseen_s = (self._looked_ns - self._seen_ns) / 1e9
        if self._follower is None or unseen_s > self._settings.recover_s:
            self._state = TrackState.LOST
            return
        seconds = (frame.stamp_ns - self._looked_ns) / 1e9
        self._carried = Similarity(self._carried.turn, frame.camera(self._carried.shift))
        turn = self._carried.turn * cmath.exp(1j * self._turn_rate * seconds)
        expected = Similarity(turn, self._carried.shift + self._velocity * seconds)
        if look:
            lost, steady = self._state is TrackState.LOST, self._error < max(AT_REST_PX, STEADY * self._way)
            self._look(frame, Prediction(self._carried, expected, seconds, unseen_s, lost, steady))
        else:
            self._pose = expected
            self._state = TrackState.LOST if self._state is TrackState.LOST else TrackState.PROPAGATED
        self._write_boxes(frame)

    def _look(self, frame: SmallFrame, prediction: Prediction) -> None:
        assert self._follower is not None
        sighting = self._follower.find(frame, prediction)
        self._looked_ns, self._visible_part = frame.stamp_ns, sighting.visible_part
        probability = min(self._most_quality, sighting.probability)
        self._quality += QUALITY_PACE * (probability - self._quality)
        self._usual_quality += USUAL_PACE * (self._quality - self._usual_quality)
        if probability >= COAST_BELOW or not (prediction.steady or sighting.stands_out):
            self._follow(sighting, prediction)
        else:
            self._pose = prediction.expected
            self._velocity *= math.exp(-prediction.seconds / COAST_DECAY_S)
            self._turn_rate = 0.0
        if probability >= self._settings.min_quality:
            self._seen_ns = frame.stamp_ns
        if self._quality < self._settings.min_quality or probability == 0.0:
            self._state = TrackState.LOST
        elif not prediction.lost or self._quality > FOUND_AGAIN:
            self._state = TrackState.PROPAGATED
        self._carried = self._pose

    def _follow(self, sighting: Sighting, prediction: Prediction) -> None:
        carried, seconds = prediction.carried, prediction.seconds
        if prediction.lost:
            self._velocity, self._turn_rate = 0j, 0.0
        elif seconds > 0:
            keep = HIDDEN_VELOCITY_MEMORY if sighting.partly_hidden else VELOCITY_MEMORY
            way = sighting.pose.shift - carried.shift
            if sighting.probability > CLEARLY_SEEN and not sighting.partly_hidden:
                self._way += USUAL_PACE * (abs(way) - self._way)
                self._error += USUAL_PACE * (abs(sighting.pose.shift - prediction.expected.shift) - self._error)
            self._velocity = keep * self._velocity + (1 - keep) * way / seconds
            turned_rad = cmath.phase(sighting.pose.turn / carried.turn)
            self._turn_rate = keep * self._turn_rate + (1 - keep) * turned_rad / seconds
        self._pose = sighting.pose

    def _write_boxes(self, frame: SmallFrame) -> None:
        """Boxes at the pose, which goes on by the last motion while LOST; out of the image, the last ones stay."""
        assert self._follower is not None
        extent = self._follower.extent
        whole = self._to_box(_shrunk(extent.bounds(self._pose), *self._part))
        box = whole.clipped(*frame.original_wh)
        if box.area_px2 < self._settings.min_visible * whole.area_px2:
            self._state, self._quality = TrackState.LOST, 0.0
            return
        if self._visible_part is not None:
            box = self._to_box(extent.bounds_of_part(self._pose, self._visible_part)).clipped(*frame.original_wh)
        self._box = box
        if self._whole is not None:
            self._amodal_box = self._to_box(extent.bounds_of_other(self._pose, *self._whole))

    def _to_box(self, bounds: Bounds) -> Box:
        sx, sy = self._to_small
        return Box(bounds[0] / sx, bounds[1] / sy, bounds[2] / sx, bounds[3] / sy)


def _shrunk(bounds: Bounds, across: float, down: float) -> Bounds:
    """Bounds of the middle part of a box, as shares of its sides."""
    x, y = (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2
    half_width, half_height = across * (bounds[2] - bounds[0]) / 2, down * (bounds[3] - bounds[1]) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _small(box: Box, sx: float, sy: float) -> tuple[complex, tuple[float, float]]:
    """Centre and half width and height, small pixels."""
    centre = complex((box.x1 + box.x2) / 2 * sx, (box.y1 + box.y2) / 2 * sy)
    return centre, ((box.x2 - box.x1) * sx / 2, (box.y2 - box.y1) * sy / 2)
