"""TrackedBox and TrackState: what the tracker says about one object at the newest frame. Knows nothing of how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from egm_edge.boxes import Box


class TrackState(str, Enum):
    """Where a box comes from: the model (on this very frame), the tracker, or nowhere any more."""

    GROUNDED = "GROUNDED"
    PROPAGATED = "PROPAGATED"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class TrackedBox:
    """One object at one frame.

    Attributes:
        track_id: the caller's name for it.
        box: modal box, pixels of the original image, inside it. When LOST, where its last motion
            has taken it.
        amodal_box: whole extent, which may leave the image; None when the answer had none.
        state: GROUNDED on the grounded frame itself, PROPAGATED after it, LOST when it is not known where it is.
        quality: 0-1, the probability that `box` has IoU >= 0.5 with the true one; 1.0 when GROUNDED, 0.0 when LOST.
        grounded_stamp_ns: stamp of the frame the model looked at.
        stamp_ns: stamp of the frame these boxes are in.
    """

    track_id: str
    box: Box
    amodal_box: Box | None
    state: TrackState
    quality: float
    grounded_stamp_ns: int
    stamp_ns: int

    @property
    def age_ms(self) -> float:
        """From the grounded frame to this one, milliseconds."""
        return (self.stamp_ns - self.grounded_stamp_ns) / 1e6
