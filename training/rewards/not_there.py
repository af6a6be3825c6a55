"""Optional: saying that the thing asked for is not there. Needs training rows without a box.

    nothing there:  R = 1[answer is NOT_FOUND]
    it is there:    R = -false_alarm * 1[answer is NOT_FOUND],   false_alarm = 0.25

Without the second line giving up would be free wherever a box is hard. A box where nothing is, and an unreadable answer,
give 0 like any other miss.

Worked example: nothing there, answer `[]`: 1. It is there, answer `[]`: -0.25. Nothing there, answer with a box: 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from egm_edge.grounding import Outcome
from training.rewards.answer import ReadAnswer, RewardTarget


@dataclass(frozen=True, slots=True)
class NotThereReward:
    """See the module's first lines.

    Example:
        >>> from training.rewards.answer import ReadAnswer, RewardTarget
        >>> NotThereReward()(ReadAnswer.read("It is not here.</think>[]", RewardTarget(None)), RewardTarget(None))
        1.0
    """

    false_alarm: float = 0.25

    def __call__(self, answer: ReadAnswer, target: RewardTarget) -> float:
        gave_up = answer.parsed.outcome is Outcome.NOT_FOUND
        if target.box_norm1000 is None:
            return float(gave_up)
        return -self.false_alarm if gave_up else 0.0
