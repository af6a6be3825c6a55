"""Rewards in the shape that TRL's GRPOTrainer calls: lists in, list of floats out. Knows nothing of how they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from egm_edge.errors import InputError
from egm_edge.grounding import Outcome, Task
from training.rewards.answer import ReadAnswer, RewardTarget
from training.rewards.registry import Reward


class TrlReward(Protocol):
    """What TRL calls; it logs the reward under `__name__`."""

    __name__: str

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]: ...


class OnScored(Protocol):
    """Is told (optimiser steps done, row ids, answers, scores) of every batch."""

    def __call__(
        self, step: int, row_ids: Sequence[str], answers: Sequence[ReadAnswer], scores: Sequence[float]
    ) -> None: ...


def as_trl_reward(
    name: str,
    reward: Reward,
    *,
    in_thought: bool,
    end_token_ids: Sequence[int],
    max_tokens: int,
    on_scored: OnScored | None = None,
) -> TrlReward:
    """A function for `reward_funcs`.

    Args:
        in_thought: the prompt opens the thought (`PromptSpec.in_thought`).
        end_token_ids: tokens that end an answer.
        max_tokens: the sampling limit; an answer of that length without an end token was cut off.
        on_scored: with it, this reward also logs the share of answers that can be read, as `parse_rate`.

    The data set must have the columns `target_norm1000`, `task` and `row_id`; TRL passes them on.
    """
    ends = frozenset(end_token_ids)

    def score(
        completions: list[Any],
        target_norm1000: list[Any] | None = None,
        task: list[str] | None = None,
        completion_ids: list[list[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        if target_norm1000 is None or task is None or len(target_norm1000) != len(completions):
            found = f"{len(completions)} completions, targets {target_norm1000!r:.60}"
            raise InputError(
                "columns target_norm1000 and task, one value a completion", found, "build it with grpo_dataset"
            )
        ids = completion_ids if completion_ids is not None else [[] for _ in completions]
        answers, scores = [], []
        for completion, box, kind, tokens in zip(completions, target_norm1000, task, ids, strict=True):
            target = RewardTarget(tuple(box) if box is not None else None, Task(kind))
            finished = len(tokens) < max_tokens or (bool(tokens) and tokens[-1] in ends)
            answer = ReadAnswer.read(
                completion_text(completion), target, token_count=len(tokens), finished=finished, in_thought=in_thought
            )
            answers.append(answer)
            scores.append(reward(answer, target))
        if on_scored:
            readable = sum(answer.parsed.outcome is not Outcome.UNPARSABLE for answer in answers)
            columns["log_metric"]("parse_rate", readable / max(1, len(answers)))
            on_scored(columns["trainer_state"].global_step, columns["row_id"], answers, scores)
        return scores

    score.__name__ = name
    return score


def completion_text(completion: Any) -> str:
    """The text of a completion, plain or as a list of chat messages."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
