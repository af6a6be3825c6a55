"""Rewards of the GRPO stage: one file each, pure functions of an answer and a target; `trl.py` is their thin adapter."""

from training.rewards.registry import REWARDS, ReadAnswer, Reward, RewardTarget

__all__ = ["REWARDS", "ReadAnswer", "Reward", "RewardTarget"]
