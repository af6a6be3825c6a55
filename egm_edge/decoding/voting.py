"""Votes of several answers to one request: which box stands for them, and how far they agree. Pure NumPy.

The medoid, not the mean: the mean of two boxes on two objects is a box on neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from egm_edge.boxes import iou_matrix

SAME_IOU = 0.5
CLEAR_SHARE = 0.6  # a cluster that holds more of the votes than this is the answer, whatever the rest says
RIVAL_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote.

    Attributes:
        winner: index of the answer that stands for all; None when "not there" won.
        agreement: share of the votes that agree with the winner (IoU >= 0.5, or "not there" as well), 0.0-1.0.
        ambiguous: two groups of boxes, far apart, both with a good share of the votes.
    """

    winner: int | None
    agreement: float
    ambiguous: bool


def vote(boxes: Sequence[ArrayLike | None]) -> Vote:
    """Let answers vote.

    Args:
        boxes: per answer a box, xyxy in any one frame, or None for "not there".

    Example:
        >>> vote([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
        Vote(winner=0, agreement=0.6666666666666666, ambiguous=False)
    """
    there = [i for i, box in enumerate(boxes) if box is not None]
    if 2 * len(there) < len(boxes) or not there:
        return Vote(None, (len(boxes) - len(there)) / len(boxes), False)
    kept = np.array([np.asarray(boxes[i], np.float64) for i in there])
    iou = iou_matrix(kept, kept)
    friends = iou >= SAME_IOU
    best = max(range(len(there)), key=lambda i: (int(friends[i].sum()), float((iou[i] * friends[i]).sum()), -i))
    share = float(friends[best].sum()) / len(boxes)
    others = ~friends[best]
    rival = max((int((friends[i] & others).sum()) for i in np.flatnonzero(others)), default=0) / len(boxes)
    return Vote(there[best], share, share <= CLEAR_SHARE and rival >= RIVAL_SHARE)
