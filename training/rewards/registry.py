"""Which rewards there are, by the name that configurations use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from training.errors import SettingError
from training.rewards.answer import ReadAnswer, RewardTarget
from training.rewards.format import FormatReward
from training.rewards.grounding import GroundingReward
from training.rewards.latency import LatencyReward
from training.rewards.not_there import NotThereReward

Reward = Callable[[ReadAnswer, RewardTarget], float]
REWARDS: dict[str, type[Any]] = {
    "grounding": GroundingReward,
    "format": FormatReward,
    "latency": LatencyReward,
    "not_there": NotThereReward,
}


def make_reward(name: str, settings: Mapping[str, float] | None = None) -> Reward:
    """A reward by name, with its settings.

    Raises:
        SettingError: unknown name or setting; the message lists the known ones.
    """
    kind = REWARDS.get(name)
    if kind is None:
        raise SettingError(f"a reward ({', '.join(REWARDS)})", repr(name), "correct the rewards of the configuration")
    known = [f.name for f in fields(kind)]
    unknown = [key for key in settings or {} if key not in known]
    if unknown:
        raise SettingError(f"settings of {name} ({', '.join(known) or 'none'})", ", ".join(unknown), "correct them")
    reward: Reward = kind(**(settings or {}))
    return reward


def weighted_reward(weights: Mapping[str, float], settings: Mapping[str, Mapping[str, float]] | None = None) -> Reward:
    """The sum of several rewards by their weights, as both trainers add them up."""
    each = {name: make_reward(name, (settings or {}).get(name)) for name in weights}
    return lambda answer, target: sum(weights[name] * reward(answer, target) for name, reward in each.items())


__all__ = ["REWARDS", "ReadAnswer", "Reward", "RewardTarget", "make_reward", "weighted_reward"]
