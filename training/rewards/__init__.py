"""Rewards of the GRPO stage: one file each, pure functions of an answer and a target; `trl.py` is their thin adapter."""

from training.rewards.registry import REWARDS, Answer, Reward, Target

__all__ = ["REWARDS", "Answer", "Reward", "Target"]
