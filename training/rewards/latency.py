"""Optional: length, priced in the milliseconds it costs on the robot. Range -limit to 0.

    R = -min(limit, price_per_s * max(0, tokens * ms_per_token - free_ms) / 1000)

A token cap says nothing about time; the same 100 tokens are 0.3 s on one board and 4 s on another. `ms_per_token` is what
`egm ground --timings` measured for the target (TPOT). A wrong but short answer must not beat a right one, so `limit`
stays well below the 0.75 that success adds.

Worked example: 150 tokens at 10 ms a token are 1,500 ms; 500 ms are free; 1.0 s at 0.1 a second costs R = -0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import SettingError
from training.rewards.answer import ReadAnswer, RewardTarget


@dataclass(frozen=True, slots=True)
class LatencyReward:
    """See the module's first lines.

    Attributes:
        ms_per_token: measured decode time of one token on the target.
        free_ms: decode time that costs nothing.
        price_per_s: reward lost for every second beyond it.
        limit: the most that is lost.

    Example:
        >>> from training.rewards.answer import ReadAnswer, RewardTarget
        >>> target = RewardTarget((1, 2, 30, 40))
        >>> LatencyReward()(ReadAnswer.read("", target, token_count=150), target)
        -0.1
    """

    ms_per_token: float = 10.0
    free_ms: float = 500.0
    price_per_s: float = 0.1
    limit: float = 0.2

    def __post_init__(self) -> None:
        if min(self.ms_per_token, self.price_per_s, self.limit) < 0 or self.free_ms < 0:
            raise SettingError("prices and times of at least 0", f"{self}", "correct the rewards of the configuration")

    def __call__(self, answer: ReadAnswer, target: RewardTarget) -> float:
        late_s = max(0.0, answer.token_count * self.ms_per_token - self.free_ms) / 1000.0
        return -min(self.limit, self.price_per_s * late_s)
