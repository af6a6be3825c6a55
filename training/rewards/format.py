"""Optional: 1 for an answer in exactly the syntax that was taught, else 0.

    R = 1[ended by itself] * 1[thought closed exactly once] * 1[box or "not there" read by a rule of the syntax]

The rules are the parser's own: `json` (Qwen3-VL), `box_tag` (InternVL3), `empty` for "not there". Boxes that the parser
only finds by its lenient rules (`bbox_2d` in broken JSON, a bare `bracket_list`) give 0, as does a thought that is never
closed or closed twice. Upstream uses no such reward; give it a small weight (0.1).

Worked example: `It is red.</think>[{"bbox_2d": [1, 2, 30, 40]}]` gives 1; `It is red.</think>[1, 2, 30, 40]` gives 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.rewards.answer import ReadAnswer, RewardTarget

STRICT_RULES = ("json", "box_tag", "empty")


@dataclass(frozen=True, slots=True)
class FormatReward:
    """See the module's first lines.

    Example:
        >>> from training.rewards.answer import ReadAnswer, RewardTarget
        >>> target = RewardTarget((1, 2, 30, 40))
        >>> FormatReward()(ReadAnswer.read('It is red.</think>[{"bbox_2d": [1, 2, 30, 40]}]', target), target)
        1.0
    """

    def __call__(self, answer: ReadAnswer, target: RewardTarget) -> float:
        opened = answer.text.count("<think>") + int(answer.in_thought)
        closed = answer.text.count("</think>")
        # A prompt whose own opening tag is not known here leaves a lone closing tag: that is one closed thought too.
        thought_closed = closed == 1 and opened <= 1
        return float(answer.finished and thought_closed and answer.parsed.rule in STRICT_RULES)
