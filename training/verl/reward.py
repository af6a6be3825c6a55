"""Rewards in the shape that verl calls: one completion, its target as JSON, a dict with `score`. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from egm_edge.boxes import iou_xyxy
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from training.rewards.answer import ReadAnswer, RewardTarget
from training.rewards.registry import make_reward


def score(
    text: str,
    ground_truth: str | Mapping[str, Any],
    rewards: Mapping[str, float],
    settings: Mapping[str, Mapping[str, float]] | None = None,
    *,
    in_thought: bool = False,
    extra_info: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """The weighted sum of the rewards as `score`, each by its name, and `acc`: IoU > 0.5, which verl logs on validation.

    Args:
        text: the completion. verl decodes it without special tokens, so InternVL3's `<box>` marks may be missing: the
            parser reads the bare list then, but the `format` reward would be 0 for every answer.
        ground_truth: JSON with `box_norm1000` (or null) and `task`, as `export_verl` writes it.
        extra_info: may hold `token_count`; without it length is estimated at four characters a token.

    Example:
        >>> truth = '{"box_norm1000": [0, 0, 100, 100], "task": "modal"}'
        >>> score('[{"bbox_2d": [0, 0, 100, 80]}]', truth, {"grounding": 1.0})
        {'score': 0.9, 'grounding': 0.9, 'acc': 1.0}
    """
    values = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    if "box_norm1000" not in values or "task" not in values:
        raise InputError("a target with box_norm1000 and task", f"keys {sorted(values)}", "export the data set again")
    box = values["box_norm1000"]
    target = RewardTarget(tuple(float(v) for v in box) if box is not None else None, Task(values["task"]))  # type: ignore[arg-type]
    tokens = (extra_info or {}).get("token_count") or len(text) // 4
    answer = ReadAnswer.read(text, target, token_count=int(tokens), in_thought=in_thought)
    each = {name: round(make_reward(name, (settings or {}).get(name))(answer, target), 6) for name in rewards}
    found = answer.parsed.box_norm1000
    right = found is not None and target.box_norm1000 is not None and iou_xyxy(found, target.box_norm1000) > 0.5
    return {"score": round(sum(rewards[n] * each[n] for n in each), 6), **each, "acc": float(right)}
