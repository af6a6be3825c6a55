"""The recipe's reward: half for success, half for how well the box fits. Range 0-1.

    R = alpha * 1[IoU >= threshold] + (1 - alpha) * IoU,   alpha = 0.5, threshold = 0.5

EGM, released reward (`mix`). An answer without a box, or a target that is not there, gives 0; IoU is taken on unrounded
boxes (upstream rounds both to whole pixels first, which adds noise for small boxes).

Worked example: target (0, 0, 100, 100), answer (0, 0, 100, 80): IoU 0.8, R = 0.5 * 1 + 0.5 * 0.8 = 0.9. Answer
(0, 0, 100, 40): IoU 0.4, R = 0.5 * 0 + 0.5 * 0.4 = 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from egm_edge.boxes import iou_xyxy
from training.rewards.answer import ReadAnswer, RewardTarget


@dataclass(frozen=True, slots=True)
class GroundingReward:
    """See the module's first lines.

    Attributes:
        alpha: weight of success, 0-1.
        threshold: IoU that counts as success, 0-1.

    Example:
        >>> from training.rewards.answer import ReadAnswer, RewardTarget
        >>> target = RewardTarget((0, 0, 100, 100))
        >>> round(GroundingReward()(ReadAnswer.read('[{"bbox_2d": [0, 0, 100, 80]}]', target), target), 3)
        0.9
    """

    alpha: float = 0.5
    threshold: float = 0.5

    def __call__(self, answer: ReadAnswer, target: RewardTarget) -> float:
        found = answer.parsed.box_norm1000
        if found is None or target.box_norm1000 is None:
            return 0.0
        iou = iou_xyxy(found, target.box_norm1000)
        return self.alpha * float(iou >= self.threshold) + (1.0 - self.alpha) * iou
