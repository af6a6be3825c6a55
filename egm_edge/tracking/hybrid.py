"""HybridFollower, the default: alignment where the grounded look fits, a correlation filter where it does not.

Smooth, rigid, drawn-like things that turn or go half behind something are followed best by aligning their grounded look;
textured things in real light by a filter that learns. Which of the two says where the object is, the fit of the look decides
frame by frame. What is asked of both is the same: the probability that IoU >= 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from egm_edge.tracking.alignment.aligner import MOSTLY_VISIBLE, SURE_FIT, Aligner
from egm_edge.tracking.alignment.appearance import Appearance, Fit
from egm_edge.tracking.alignment.extent import Extent
from egm_edge.tracking.dcf.object_filter import Detection, ObjectFilter
from egm_edge.tracking.follower import Prediction, Sighting
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.identity import Identity, Likeness
from egm_edge.tracking.similarity import Similarity

# Logistic regression of IoU >= 0.5 on six sequences, absence included: first filter's response, colour, agreement, constant.
PLACE_WEIGHTS = (11.06, 4.79, 9.73, -13.89)
BESIDE_DOUBT = 0.9  # more on that logit: absences lowered the constant, and the doubt of identity sees them too
FOLLOWED_ABOVE, FOLLOWED = 0.2, 0.16  # doubted or not, it is followed: the doubt may be wrong
COAST_S = 0.7  # behind what came in front, by the last motion alone: what a filter sees there is half of the object
HIDDEN_QUALITY = 0.4
MUCH_HIDDEN = 0.2  # part of the object
LEARN_ABOVE, REMEMBER_ABOVE = 0.35, 0.5
IN_DOUBT = 0.45
TRUST_PACE, TRUSTED, RETRY_EVERY = 0.2, 0.5, 4
SEARCH_EVERY = 2
MIN_SEARCH_SCORE = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A detection, the probability that its place is right, and that what is there is the object."""

    seen: Detection
    likeness: Likeness
    place: float
    probability: float


class HybridFollower:
    """Follows one object by its grounded look, or else by a correlation filter."""

    def __init__(self, frame: SmallFrame, pose: Similarity, half_wh: tuple[float, float], phase: float) -> None:
        self._look = Appearance(frame, pose, half_wh)
        self._aligner = Aligner(self._look)
        self._filter = ObjectFilter(frame, pose, half_wh, phase)
        self._identity = Identity()
        self._half_wh = half_wh
        self._trust = 1.0
        self._occluded = False  # something came in front while alignment saw it
        self._frames = int(phase * RETRY_EVERY)

    @property
    def extent(self) -> Extent:
        return self._aligner.extent

    def find(self, frame: SmallFrame, prediction: Prediction) -> Sighting:
        if not self._look.usable:
            return Sighting(prediction.expected, 0.0)
        self._frames += 1
        sighting = self._by_alignment(frame, prediction) or self._by_filter(frame, prediction)
        self._filter.previous = frame
        return sighting

    def _by_alignment(self, frame: SmallFrame, prediction: Prediction) -> Sighting | None:
        trusted = self._trust >= TRUSTED
        if not (trusted or self._frames % RETRY_EVERY == 0):
            return None
        fit = self._aligner.align(frame, prediction.expected, prediction.seconds)
        if trusted and self._aligner.half_hidden(fit):
            self._occluded = fit.hidden > MUCH_HIDDEN
            return self._aligned(frame, self._aligner.seen_whole(frame, prediction.expected, fit))
        believable = self._aligner.believable(fit)
        if self._occluded and not believable and prediction.unseen_s < COAST_S:
            return Sighting(prediction.expected, min(HIDDEN_QUALITY, fit.quality), partly_hidden=True)
        self._occluded = False
        if believable or prediction.unseen_s == 0.0:  # what is not to be seen says nothing of how it is followed best
            self._trust += TRUST_PACE * (float(believable) - self._trust)
        return self._aligned(frame, fit) if trusted and believable else None

    def _aligned(self, frame: SmallFrame, fit: Fit) -> Sighting:
        part = self._aligner.accept(frame, fit)
        if fit.quality >= SURE_FIT and self._filter.keeps_up(frame):
            self._identity.remember(Likeness.of(self._filter.learn(frame, fit.pose), fit.likeness))
        return Sighting(fit.pose, fit.quality, fit.visible < MOSTLY_VISIBLE, part)

    def _by_filter(self, frame: SmallFrame, prediction: Prediction) -> Sighting:
        carried = prediction.carried
        upright = Similarity(complex(carried.scale), carried.shift)
        # Only of what stands out is an angle that alignment gave believed once alignment has failed.
        start, other_angle = (carried, upright) if self._look.separate else (upright, carried)
        best = self._judged(frame, self._filter.detect(frame, start))
        if best.place < IN_DOUBT or best.seen.far:
            places = self._other_places(frame, prediction, start)
            for place in [*places, other_angle] if carried.angle_rad else places:
                best = max(
                    best, self._judged(frame, self._filter.detect(frame, place)), key=lambda judged: judged.place
                )
        pose = best.seen.pose
        if self._trust >= TRUSTED and self._look.separate:  # after a sudden turn
            fit = self._aligner.align(frame, pose, prediction.seconds)
            if self._aligner.believable(fit):
                return self._aligned(frame, fit)
        if best.probability > LEARN_ABOVE:
            if self._filter.sizes(frame):
                pose = self._filter.sized(frame, pose)
            if self._filter.learns(frame):
                self._filter.learn(frame, pose, best.seen)
                if best.probability > REMEMBER_ABOVE:
                    self._identity.remember(best.likeness)
        return Sighting(pose, max(best.probability, FOLLOWED) if best.place > FOLLOWED_ABOVE else best.probability)

    def _other_places(self, frame: SmallFrame, prediction: Prediction, start: Similarity) -> list[Similarity]:
        places = []
        by_flow = self._filter.by_flow(frame, start)
        if by_flow is not None:
            places.append(by_flow)
        if prediction.unseen_s > 0 and (self._frames % SEARCH_EVERY == 0 or self._trust >= TRUSTED):
            reach = max(self._half_wh) * min(6.0, 0.6 + 1.5 * prediction.unseen_s) + 2.0
            found, score = self._look.search(frame, prediction.expected, reach)
            if score > MIN_SEARCH_SCORE:
                places.append(found)
        return places

    def _judged(self, frame: SmallFrame, seen: Detection) -> Judged:
        fit = self._look.judge(frame, seen.pose)
        likeness = Likeness.of(seen.first_look, fit.likeness)
        first, colour, agree, constant = PLACE_WEIGHTS
        place = first * seen.first_look + colour * seen.colour + agree * fit.agreement + constant
        probability = _logistic(place + BESIDE_DOUBT + self._identity.doubt(likeness))
        return Judged(seen, likeness, _logistic(place), probability)


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))
