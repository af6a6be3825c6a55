"""grpo_loss: one GRPO step on Nano's own answers. Knows nothing of budgets, files or how rewards are computed.

Every question is answered `group` times; an answer's advantage is its reward minus its group's mean, divided by the
standard deviation over the whole batch (per group, as in the original GRPO, a group of near-equal answers would weigh as
much as one with right and wrong ones). The ratio to the sampling distribution is taken per sequence, as EGM's released
scripts do (GSPO, arXiv 2507.18071):

    s = exp(mean log p_new - mean log p_old),   loss = -mean min(s A, clip(s, 1 - clip, 1 + clip) A)

There is one update per batch of answers, so s leaves 1 only by the arithmetic (answers are drawn in float32, learnt from in
bfloat16 where that is fast). The vision tower is frozen: picture and prefix run once for all answers of a question.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egm_edge.synthetic import Query
from training.nano.config import Grpo, TrainingStage
from training.nano.data import Questions, Rows, collate
from training.nano.fastpath import FastNano, Prefix, Vision, learning_arithmetic
from training.nano.generate import Sampled, generate
from training.nano.prompts import CLOSED, PromptRow, prompt_ids, token_id, tokenizer
from training.nano.supervised import StepLoss
from training.rewards.answer import ReadAnswer, RewardTarget
from training.rewards.registry import weighted_reward

_EPSILON = 1e-4


def grpo_loss(fast: FastNano, stage: TrainingStage, questions: Questions, generator: torch.Generator) -> StepLoss:
    """Draw answers, score them, and give the policy loss; `total` is None when no group has anything to teach.

    Args:
        questions: on the model's device.
        generator: source of the draws, on the model's device.
    """
    settings = stage.grpo
    assert settings is not None
    stop = token_id("<|im_end|>")
    prompts = [prompt_ids(q, r) for q, r in zip(questions.queries, questions.reasoning, strict=True)]
    seen, answers = _drawn(fast, settings, questions, prompts, stop, generator)
    rewards = torch.tensor(
        [
            reward_of(settings, query, reasoning, answers[i * settings.group + copy])
            for i, (query, reasoning) in enumerate(zip(questions.queries, questions.reasoning, strict=True))
            for copy in range(settings.group)
        ]
    ).view(-1, settings.group)
    advantage, used = advantages(rewards, settings.informative)
    measures = {
        "reward": rewards.mean().item(),
        "tokens": sum(len(a.ids) + 1 for a in answers) / len(answers),
        "unfinished": sum(not a.finished for a in answers) / len(answers),
        "informative": used.float().mean().item(),
    }
    if not used.any():
        return StepLoss(None, measures, len(prompts))
    chosen = [int(i) for i in used.repeat_interleave(settings.group).nonzero()[:, 0]]
    rows = []
    for i in chosen:
        prompt, answer = prompts[i // settings.group], answers[i]
        ids = (*prompt, *answer.ids, *([stop] if answer.finished else []))
        rows.append((questions.image[i // settings.group], PromptRow(ids, len(prompt), (False,) * len(ids))))
    weight = advantage.flatten()[chosen].to(fast.device)
    old = torch.tensor([answers[i].log_p for i in chosen], device=fast.device)
    with learning_arithmetic(fast.device):
        prefix = fast.prefix(seen, questions.grid_hw)
        total, measures["ratio error"] = _policy_loss(fast, prefix, settings, rows, weight, old)
    return StepLoss(total, measures, len(prompts))


@torch.no_grad()
def _drawn(
    fast: FastNano, settings: Grpo, questions: Questions, prompts: list[list[int]], stop: int, generator: torch.Generator
) -> tuple[Vision, list[Sampled]]:
    """What the vision tower sees of the pictures, float32, and `settings.group` answers to every prompt."""
    with learning_arithmetic(fast.device):
        seen = fast.vision(questions.patches, questions.grid_hw)
    seen = Vision(seen.patches.float(), seen.tokens.float(), tuple(layer.float() for layer in seen.deepstack))
    prefix = fast.prefix(seen, questions.grid_hw)
    return seen, generate(
        fast, prefix, questions.image, prompts, stop, settings.max_new_tokens,
        temperature=settings.temperature, copies=settings.group, generator=generator,
    )  # fmt: skip


def _policy_loss(
    fast: FastNano, prefix: Prefix, settings: Grpo, rows: list[tuple[int, PromptRow]], weight: Tensor, old: Tensor
) -> tuple[Tensor, float]:
    """The clipped loss of some answers, in two parts by their length, and how far their ratio is from 1 on average.

    Args:
        rows: image and tokens of each answer. weight: its advantage [R]. old: its mean log-probability when drawn [R].
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1].ids))
    middle = len(order) // 2
    total = torch.zeros((), device=fast.device)
    drift = 0.0
    for part in filter(None, (order[:middle], order[middle:])):
        ratio = (_mean_log_p(fast, prefix, collate([rows[i] for i in part]), settings) - old[part]).exp()
        a = weight[part]
        total = total - torch.minimum(ratio * a, ratio.clamp(1 - settings.clip, 1 + settings.clip) * a).sum()
        drift += (ratio.detach() - 1).abs().sum().item()
    return total / len(rows), drift / len(rows)


def reward_of(settings: Grpo, query: Query, reasoning: bool, answer: Sampled) -> float:
    """The weighted sum of the rewards for one answer."""
    text = ("" if reasoning else CLOSED) + tokenizer().decode(answer.ids, skip_special_tokens=True)
    target = RewardTarget(query.box_norm1000, query.task)
    read = ReadAnswer.read(text, target, token_count=len(answer.ids) + 1, finished=answer.finished, in_thought=True)
    return weighted_reward(settings.rewards)(read, target)


def advantages(rewards: Tensor, informative: float) -> tuple[Tensor, Tensor]:
    """Advantages [Q, G] of rewards [Q, G], and which groups [Q] to learn from.

    Example:
        >>> a, used = advantages(torch.tensor([[0.0, 1.0], [0.90, 0.92]]), informative=0.1)
        >>> used.tolist(), [round(v, 2) for v in a[0].tolist()]
        ([True, False], [-1.0, 1.0])
    """
    used = rewards.amax(1) - rewards.amin(1) > informative
    centred = rewards - rewards.mean(1, keepdim=True)
    spread = centred[used].square().mean().sqrt() if used.any() else torch.ones(())
    return centred / (spread + _EPSILON), used


def _mean_log_p(fast: FastNano, prefix: Prefix, rows: Rows, settings: Grpo) -> Tensor:
    """Mean log-probability [R] of every row's completion tokens at the sampling temperature."""
    rows = rows.to(fast.device)
    hidden = fast.rows(prefix, rows.image, rows.ids[:, :-1])
    at = rows.supervised[:, :-1]
    log_p = (fast.logits(hidden[at]).float() / settings.temperature).log_softmax(-1)
    taken = log_p.gather(1, rows.ids[:, 1:][at][:, None])[:, 0]
    row = at.nonzero()[:, 0]
    sums = torch.zeros(len(rows.ids), device=fast.device).index_add(0, row, taken)
    return sums / at.sum(1)
