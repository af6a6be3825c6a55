"""The follower protocol: what finds one object from frame to frame under the ring. Knows nothing of how.

Frame of all coordinates: small pixels (see `frames`). A pose maps object coordinates, origin at the centre of the grounded
box, to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from egm_edge.tracking.alignment.extent import Extent, Outline
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.similarity import Similarity


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is known of a frame before its pixels are looked at.

    Attributes:
        carried: the last pose, moved as the background moved.
        expected: the same with the object's own velocity and turning.
        seconds: since the last frame.
        unseen_s: up to the last frame, since the object was last believed to be seen; 0 when it was seen in that frame.
        lost: whether the track is LOST.
        steady: whether its own velocity has foretold where it went.
    """

    carried: Similarity
    expected: Similarity
    seconds: float
    unseen_s: float
    lost: bool
    steady: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """Where a follower sees its object.

    Attributes:
        pose: there.
        probability: 0-1, that the box there has IoU >= 0.5 with the true one.
        partly_hidden: something is in front of it; its motion is measured badly.
        stands_out: it was recognised so surely until now that what does not look like it is not it.
        visible_part: outline of what can be seen of it, where that is less than all and is known.
    """

    pose: Similarity
    probability: float
    partly_hidden: bool = False
    stands_out: bool = False
    visible_part: Outline | None = None


class Follower(Protocol):
    """Follows one object; made from the frame it was grounded on, its pose there, its half width and height,
    its phase: when, 0-1 of a period, it does what need not be done in every frame; those of several are spread; and what
    followed it from an earlier answer, if anything did."""

    @property
    def extent(self) -> Extent:
        """How far the object reaches at any pose."""

    def find(self, frame: SmallFrame, prediction: Prediction) -> Sighting:
        """Look at the next frame, once, and learn from it what is sure."""
