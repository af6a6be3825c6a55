"""GRPO: advantages, rewards and the direction of the gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from egm_edge.grounding import Task
from egm_edge.synthetic import Query
from training.nano import grpo
from training.nano.config import Grpo, TrainingPlan, TrainingStage, load_plan
from training.nano.data import make_questions
from training.nano.evaluate import wrap
from training.nano.fastpath import FastNano
from training.nano.generate import Sampled
from training.nano.grpo import advantages, grpo_loss, reward_of
from training.nano.prompts import completion_text, tokenizer

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"
FOUND = Query("mug", Task.MODAL, "attribute", 0, (100.0, 100.0, 300.0, 300.0), "mug", "mug: 1 small red mug")
ABSENT = Query("mug", Task.MODAL, "negative", None, None, "mug", "mug: none")
REWARDS = Grpo(rewards={"grounding": 1.0, "not_there": 1.0, "format": 0.1})


def sampled(query: Query, reasoning: bool, finished: bool = True) -> Sampled:
    """The right answer to `query`, as the model would write it."""
    text = completion_text(query, reasoning)
    if not reasoning:
        text = text.split("</think>\n\n")[1]
    return Sampled(tokenizer().encode(text.removesuffix("<|im_end|>")).ids, -0.1, finished)


@pytest.mark.parametrize(
    ("query", "answer_to", "reasoning", "expected"),
    [
        pytest.param(FOUND, FOUND, True, 1.1, id="right, with a thought"),
        pytest.param(FOUND, FOUND, False, 1.1, id="right, at once"),
        pytest.param(FOUND, ABSENT, True, -0.25 + 0.1, id="wrongly not there"),
        pytest.param(ABSENT, ABSENT, True, 1.1, id="rightly not there"),
        pytest.param(ABSENT, FOUND, True, 0.1, id="invented"),
    ],
)
def test_rewards(query: Query, answer_to: Query, reasoning: bool, expected: float) -> None:
    assert reward_of(REWARDS, query, reasoning, sampled(answer_to, reasoning)) == pytest.approx(expected)


def test_a_cut_answer_earns_no_format_reward() -> None:
    whole, cut = (reward_of(REWARDS, FOUND, True, sampled(FOUND, True, finished)) for finished in (True, False))
    assert whole - cut == pytest.approx(0.1)


def test_advantages_compare_within_a_group_and_scale_over_the_batch() -> None:
    rewards = torch.tensor([[0.0, 1.0], [1.0, 0.6], [0.9, 0.92], [0.5, 0.5]])
    advantage, used = advantages(rewards, informative=0.1)
    assert used.tolist() == [True, True, False, False]
    assert torch.allclose(advantage.sum(1), torch.zeros(4), atol=1e-5)
    assert advantage[0, 1] > advantage[1, 0] > 0
    assert advantage[used].square().mean().sqrt() == pytest.approx(1.0, abs=1e-3)


def test_nothing_to_learn_is_no_step() -> None:
    _, used = advantages(torch.full((3, 4), 0.7), informative=0.0)
    assert not used.any()


@pytest.fixture(scope="module")
def plan() -> TrainingPlan:
    return load_plan(CONFIG)


@pytest.fixture
def fast(nano_folder: Path) -> FastNano:
    from transformers import Qwen3VLForConditionalGeneration

    return wrap(Qwen3VLForConditionalGeneration.from_pretrained(nano_folder, dtype=torch.float32))


def small(plan: TrainingPlan) -> TrainingStage:
    stage = plan.run("grpo").stages[0]
    settings = replace(stage.grpo or Grpo(), group=8, temperature=1.0, max_new_tokens=16)
    return replace(stage, images=2, queries=2, grpo=settings)


def test_rewarded_tokens_become_likelier(plan: TrainingPlan, fast: FastNano, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model, rewarded for even token ids, writes more of them after a few steps; nothing else drives it there."""

    def even(_settings: Grpo, _query: Query, _reasoning: bool, answer: Sampled) -> float:
        return sum(token % 2 == 0 for token in answer.ids) / max(1, len(answer.ids))

    monkeypatch.setattr(grpo, "reward_of", even)
    stage = small(plan)
    weights = list(fast.model.model.language_model.parameters())
    for weight in fast.model.model.visual.parameters():
        weight.requires_grad_(False)
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    rewards = []
    for step in range(14):
        questions = make_questions(plan, stage, 6, step)
        loss = grpo_loss(fast, stage, questions, torch.Generator().manual_seed(step))
        if loss.total is None:  # every answer of every group earns the same: nothing is left to learn
            rewards.append(loss.measures["reward"])
            continue
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        rewards.append(loss.measures["reward"])
        assert loss.measures["ratio error"] < 0.2
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15, rewards


def test_a_step_draws_what_its_seed_says(plan: TrainingPlan, fast: FastNano) -> None:
    stage = small(plan)
    first, second = (
        grpo_loss(fast, stage, make_questions(plan, stage, 6, 3), torch.Generator().manual_seed(3)).measures
        for _ in range(2)
    )
    assert first == second
