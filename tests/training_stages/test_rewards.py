"""Rewards against their own worked examples, and their TRL adapter."""

from __future__ import annotations

import doctest
import importlib

import pytest

from egm_edge.errors import InputError
from egm_edge.grounding import Task
from training.rewards.answer import ReadAnswer, RewardTarget
from training.rewards.registry import REWARDS, make_reward
from training.rewards.trl import as_trl_reward

TARGET = RewardTarget((0.0, 0.0, 100.0, 100.0))


def _score(name: str, text: str, target: RewardTarget = TARGET, **how: object) -> float:
    settings = how.pop("settings", None)
    return make_reward(name, settings)(ReadAnswer.read(text, target, **how), target)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["grounding", "format", "latency", "not_there", "answer", "trl", "registry"])
def test_worked_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"training.rewards.{name}")).failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('[{"bbox_2d": [0, 0, 100, 100]}]', 1.0, id="exact"),
        pytest.param('[{"bbox_2d": [0, 0, 100, 50]}]', 0.75, id="just a success"),
        pytest.param('[{"bbox_2d": [0, 0, 100, 49.9]}]', 0.2495, id="just none"),
        pytest.param('[{"bbox_2d": [500, 500, 600, 600]}]', 0.0, id="elsewhere"),
        pytest.param("no idea", 0.0, id="unreadable"),
        pytest.param("<think>[0, 0, 100, 100]", 0.0, id="a box inside the thought does not count"),
        pytest.param(
            "<think>x</think><answer><ref>a [b]</ref><box>[0, 0, 100, 100]</box></answer>", 1.0, id="InternVL"
        ),
    ],
)
def test_grounding(text: str, expected: float) -> None:
    assert _score("grounding", text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "how", "expected"),
    [
        pytest.param('why</think>[{"bbox_2d": [0, 0, 9, 9]}]', {"in_thought": True}, 1.0, id="as taught, Qwen"),
        pytest.param("<think>why</think><answer><box>[0, 0, 9, 9]</box></answer>", {}, 1.0, id="as taught, InternVL"),
        pytest.param("why</think>[]", {"in_thought": True}, 1.0, id="not there"),
        pytest.param('why</think>[{"bbox_2d": [0, 0, 9, 9]}]', {"finished": False}, 0.0, id="cut off"),
        pytest.param('why</think>so</think>[{"bbox_2d": [0, 0, 9, 9]}]', {"in_thought": True}, 0.0, id="closed twice"),
        pytest.param('[{"bbox_2d": [0, 0, 9, 9]}]', {"in_thought": True}, 0.0, id="thought never closed"),
        pytest.param("why</think>[0, 0, 9, 9]", {"in_thought": True}, 0.0, id="a bare list"),
    ],
)
def test_format(text: str, how: dict, expected: float) -> None:
    assert _score("format", text, **how) == expected


def test_latency_is_priced_in_the_targets_milliseconds() -> None:
    slow = {"settings": {"ms_per_token": 50.0}}
    assert _score("latency", "", token_count=50) == 0.0
    assert _score("latency", "", token_count=50, **slow) == pytest.approx(-0.2)
    assert _score("latency", "", token_count=10_000, **slow) == pytest.approx(-0.2)


def test_not_there_makes_giving_up_cost_something() -> None:
    absent = RewardTarget(None)
    assert _score("not_there", "x</think>[]", absent) == 1.0
    assert _score("not_there", "x</think>[]") == -0.25
    assert _score("not_there", '[{"bbox_2d": [0, 0, 9, 9]}]', absent) == 0.0
    assert _score("grounding", "x</think>[]", absent) == 0.0


def test_unknown_rewards_and_settings_name_the_known_ones() -> None:
    with pytest.raises(InputError, match="grounding, format, latency, not_there"):
        make_reward("speed")
    with pytest.raises(InputError, match="alpha, threshold"):
        make_reward("grounding", {"beta": 1})
    with pytest.raises(InputError, match="at least 0"):
        make_reward("latency", {"price_per_s": -1})
    assert set(REWARDS) == {"grounding", "format", "latency", "not_there"}


def test_trl_adapter_takes_chat_messages_columns_and_token_counts() -> None:
    score = as_trl_reward("grounding", make_reward("grounding"), in_thought=True, end_token_ids=[7], max_tokens=4)
    texts = ['a</think>[{"bbox_2d": [0, 0, 100, 100]}]', "a</think>[]"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    scores = score(
        completions=completions,
        prompts=[None] * 2,
        target_norm1000=[[0, 0, 100, 100], None],
        task=["modal", "amodal"],
        completion_ids=[[1, 2, 7], [1, 7]],
        trainer_state=None,
    )
    assert scores == [1.0, 0.0] and score.__name__ == "grounding"
    form = as_trl_reward("format", make_reward("format"), in_thought=True, end_token_ids=[7], max_tokens=4)
    same = {"target_norm1000": [None, None], "task": ["modal", "modal"]}
    assert form(completions=completions, completion_ids=[[1, 2, 3, 4], [1, 2, 3, 7]], **same) == [0.0, 1.0]
    with pytest.raises(InputError, match="target_norm1000"):
        score(completions=completions)


def test_amodal_answers_are_scored_beyond_the_frame() -> None:
    target = RewardTarget((-200.0, 0.0, 200.0, 400.0), Task.AMODAL)
    assert _score("grounding", '[{"bbox_2d": [-200, 0, 200, 400]}]', target) == 1.0
