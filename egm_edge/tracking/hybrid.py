"""HybridFollower, the default: a correlation filter, and alignment of what stands out while its grounded look fits.

Smooth, rigid, drawn-like things that turn or go half behind something are followed best by aligning their grounded look: their
outline holds it. Textured things in real light by a filter that learns. What is asked of both is the same: the probability that
IoU >= 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from egm_edge.tracking.alignment.aligner import MOSTLY_VISIBLE, SURE_FIT, Aligner
from egm_edge.tracking.alignment.appearance import Appearance, Fit
from egm_edge.tracking.alignment.extent import Extent
from egm_edge.tracking.dcf.object_filter import Detection, ObjectFilter
from egm_edge.tracking.follower import Follower, Prediction, Sighting
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.identity import Identity, Likeness
from egm_edge.tracking.similarity import Similarity

# Logistic regression of IoU >= 0.5 on eight sequences, forwards, backwards, at 30 and 10 frames/s and with made absences: the
# first filter's response, colour, falls below the usual likeness, constant (0.82 by the fit; less finds more absences).
WEIGHTS = (2.86, 5.65, 4.67, 5.65, 0.4)
COAST_S = 0.7  # behind what came in front, by the last motion alone: what a filter sees there is half of the object
HIDDEN_QUALITY = 0.4
MUCH_HIDDEN = 0.2  # part of the object
LEARN_ABOVE = 0.6
IN_DOUBT = 0.45
TRUST_PACE, TRUSTED, RETRY_EVERY = 0.2, 0.5, 4
SEARCH_EVERY = 2
MIN_SEARCH_SCORE = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A detection, and the probability that it is the object."""

    seen: Detection
    likeness: Likeness
    probability: float


class HybridFollower:
    """Follows one object by its grounded look, or else by a correlation filter."""

    def __init__(
        self,
        frame: SmallFrame,
        pose: Similarity,
        half_wh: tuple[float, float],
        phase: float,
        before: Follower | None = None,
    ) -> None:
        self._look = Appearance(frame, pose, half_wh)
        self._aligner = Aligner(self._look) if self._look.separate else None
        self.extent = self._aligner.extent if self._aligner else Extent(half_wh, None)
        known = before._filter if isinstance(before, HybridFollower) else None
        self._filter: ObjectFilter = ObjectFilter(frame, pose, half_wh, phase, known)
        self._identity = Identity()
        self._half_wh = half_wh
        self._trust = 1.0
        self._occluded = False  # something came in front while alignment saw it
        self._frames = int(phase * RETRY_EVERY)

    def find(self, frame: SmallFrame, prediction: Prediction) -> Sighting:
        if not self._look.usable:
            return Sighting(prediction.expected, 0.0)
        self._frames += 1
        sighting = self._by_alignment(self._aligner, frame, prediction) if self._aligner else None
        sighting = sighting or self._by_filter(frame, prediction)
        self._filter.previous = frame
        return sighting

    def _by_alignment(self, aligner: Aligner, frame: SmallFrame, prediction: Prediction) -> Sighting | None:
        trusted = self._trust >= TRUSTED
        if not (trusted or self._frames % RETRY_EVERY == 0):
            return None
        fit = aligner.align(frame, prediction.expected, prediction.seconds)
        if trusted and aligner.half_hidden(fit):
            self._occluded = fit.hidden > MUCH_HIDDEN
            return self._aligned(aligner, frame, aligner.seen_whole(frame, prediction.expected, fit))
        believable = aligner.believable(fit)
        if self._occluded and not believable and prediction.steady and prediction.unseen_s < COAST_S:
            return Sighting(prediction.expected, min(HIDDEN_QUALITY, fit.quality), partly_hidden=True)
        self._occluded = False
        if believable or prediction.unseen_s == 0.0:  # what is not to be seen says nothing of how it is followed best
            self._trust += TRUST_PACE * (float(believable) - self._trust)
        return self._aligned(aligner, frame, fit) if trusted and believable else None

    def _aligned(self, aligner: Aligner, frame: SmallFrame, fit: Fit) -> Sighting:
        part = aligner.accept(frame, fit)
        if fit.quality >= SURE_FIT and self._filter.keeps_up(frame):
            self._identity.remember(Likeness.of(self._filter.learn(frame, fit.pose), fit.likeness))
        return Sighting(fit.pose, fit.quality, fit.visible < MOSTLY_VISIBLE, True, part)

    def _by_filter(self, frame: SmallFrame, prediction: Prediction) -> Sighting:
        best = self._judged(frame, self._filter.detect(frame, prediction.carried))
        if best.probability < IN_DOUBT or best.seen.far:
            for place in self._other_places(frame, prediction):
                best = max(
                    best, self._judged(frame, self._filter.detect(frame, place)), key=lambda judged: judged.probability
                )
        pose = best.seen.pose
        if self._aligner and self._trust >= TRUSTED:  # after a sudden turn
            fit = self._aligner.align(frame, pose, prediction.seconds)
            if self._aligner.believable(fit):
                return self._aligned(self._aligner, frame, fit)
        if best.probability > LEARN_ABOVE:
            if self._filter.sizes(frame):
                pose = self._filter.sized(frame, pose)
            if self._filter.learns(frame):
                self._filter.learn(frame, pose, best.seen)
                self._identity.remember(best.likeness)
        aligned = self._aligner is not None and self._trust >= TRUSTED
        return Sighting(pose, best.probability, stands_out=aligned)

    def _other_places(self, frame: SmallFrame, prediction: Prediction) -> list[Similarity]:
        places, carried = list[Similarity](), prediction.carried
        if carried.angle_rad:
            places.append(Similarity(complex(carried.scale), carried.shift))
        by_flow = self._filter.by_flow(frame, carried)
        if by_flow is not None:
            places.append(by_flow)
        if prediction.unseen_s > 0 and (self._frames % SEARCH_EVERY == 0 or self._trust >= TRUSTED):
            reach = max(self._half_wh) * min(6.0, 0.6 + 1.5 * prediction.unseen_s) + 2.0
            found, score = self._look.search(frame, prediction.expected, reach)
            if score > MIN_SEARCH_SCORE:
                places.append(found)
        return places

    def _judged(self, frame: SmallFrame, seen: Detection) -> Judged:
        likeness = Likeness.of(seen.running, self._look.likeness(frame, seen.pose))
        fall = self._identity.fall(likeness)
        evidence = (min(1.0, seen.first_look), seen.colour, fall.log_response, fall.correlation, 1.0)
        logit = sum(weight * value for weight, value in zip(WEIGHTS, evidence, strict=True))
        return Judged(seen, likeness, 1 / (1 + math.exp(-logit)))
