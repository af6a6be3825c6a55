"""ReadAnswer and RewardTarget: what every reward looks at. Knows nothing of trainers."""

from __future__ import annotations

from dataclasses import dataclass

from egm_edge.grounding import Task
from egm_edge.parsing import BoxNorm1000, Parsed, parse_answer


@dataclass(frozen=True, slots=True)
class RewardTarget:
    """What the right answer is.

    Attributes:
        box_norm1000: xyxy, 0-1000 of width and height, unrounded; None when the thing asked for is not there.
            IoU does not change when both axes are scaled, so it equals the IoU in pixels.
        task: modal or amodal.
    """

    box_norm1000: BoxNorm1000 | None
    task: Task = Task.MODAL


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What the model wrote.

    Attributes:
        text: the completion, markers of the answer syntax kept, end tokens left out.
        parsed: what `egm_edge.parsing` reads in it.
        token_count: generated tokens, the end token included.
        finished: it ended by itself, not at the token limit.
        in_thought: the prompt had already opened the thought.
    """

    text: str
    parsed: Parsed
    token_count: int = 0
    finished: bool = True
    in_thought: bool = False

    @classmethod
    def read(
        cls, text: str, target: RewardTarget, *, token_count: int = 0, finished: bool = True, in_thought: bool = False
    ) -> ReadAnswer:
        """Parse a completion with the one parser of training, evaluation and the robot."""
        parsed = parse_answer(text, task=target.task, in_thought=in_thought)
        return cls(text, parsed, token_count, finished, in_thought)
