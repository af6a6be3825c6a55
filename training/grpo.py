"""`egm train grpo CONFIG`: GRPO with TRL's GRPOTrainer, our rewards and a sequence-level ratio; resumable, one process or many."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egm_edge.errors import BackendError, InputError
from training.stage_config import GrpoConfig, load_grpo
from training.stages.stage import run_stage, stage_main

if TYPE_CHECKING:
    from transformers import Trainer

    from training.stages.session import TrainingSession

VLLM_VERSIONS = ("0.22.0", "0.31.0")  # that TRL 1.16 knows how to hand new weights to (trl/import_utils.py)


def main(argv: list[str]) -> int:
    """Run the stage; returns the exit code."""
    return stage_main("egm train grpo", argv, lambda name, overrides: run_grpo(load_grpo(name, overrides)))


def run_grpo(config: GrpoConfig) -> Path:
    """Train and return the directory of the finished checkpoint; errors as `training.stages.stage.run_stage`."""
    rollouts = rollout_arguments(config)
    return run_stage("grpo", config, lambda session: _trainer(session, config, rollouts), max_tokens=config.max_prompt_tokens)


def _trainer(session: TrainingSession, config: GrpoConfig, rollouts: dict[str, Any]) -> Trainer:
    from trl import GRPOConfig, GRPOTrainer

    from training.rewards.registry import make_reward
    from training.rewards.trl import as_trl_reward
    from training.stages.guard import Guarded
    from training.stages.model import lora_config
    from training.stages.rollouts import RolloutLog
    from training.stages.samples import grpo_dataset

    class GuardedGrpo(Guarded, GRPOTrainer):
        """GRPOTrainer that stops at a loss that is no number."""

    processor = session.processor
    rollout_log = RolloutLog(session.output / "rollouts", session.rows, session.images, config.run.rollout_steps)
    rewards = [
        as_trl_reward(
            name,
            make_reward(name, config.reward_settings.get(name)),
            in_thought=processor.prompt_spec.in_thought,
            end_token_ids=processor.end_token_ids,
            max_tokens=config.sampling.max_tokens,
            on_scored=rollout_log if number == 0 else None,
        )
        for number, name in enumerate(config.rewards)
    ]
    return GuardedGrpo(
        model=session.model,
        args=GRPOConfig(**session.arguments(), **policy_arguments(config), **rollouts),
        reward_funcs=rewards,
        train_dataset=grpo_dataset(session.rows, processor, session.images),
        processing_class=processor,
        callbacks=session.callbacks(),
        peft_config=lora_config(config.lora, config.model.train),
    )


def policy_arguments(config: GrpoConfig) -> dict[str, Any]:
    """Loss and sampling in TRL's words.

    One update a batch of rollouts, as upstream: the ratio is then 1 and clipping inert, and the sequence-level ratio (GSPO)
    comes down to every answer weighing the same whatever its length, which is TRL's loss_type "grpo".
    """
    sampling, loss = config.sampling, config.loss
    sequence = loss.ratio == "sequence"
    return {
        "num_generations": sampling.generations,
        "max_completion_length": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "beta": loss.kl,
        "epsilon": loss.clip,
        "entropy_coef": loss.entropy,
        "importance_sampling_level": loss.ratio,
        "loss_type": "grpo" if sequence else "dapo",
        "scale_rewards": loss.scale,
        "reward_weights": list(config.rewards.values()),
        "num_iterations": 1,
        "steps_per_generation": config.run.accumulation,
        "log_completions": False,
    }


def rollout_arguments(config: GrpoConfig) -> dict[str, Any]:
    """What generates the rollouts.

    Raises:
        BackendError: vLLM was asked for and cannot run here.
        InputError: the batch does not hold whole groups.
    """
    completions = config.run.batch_per_device * config.run.accumulation
    if completions % config.sampling.generations:
        found = f"{config.run.batch_per_device} x {config.run.accumulation} = {completions}"
        needed = f"batch_per_device x accumulation divisible by {config.sampling.generations} generations"
        raise InputError(needed, found, "change one of the three")
    if config.rollouts.engine == "transformers":
        return {}
    require_vllm()
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": config.rollouts.gpu_memory,
        "vllm_tensor_parallel_size": config.rollouts.tensor_parallel,
        "vllm_max_model_length": config.max_prompt_tokens + config.sampling.max_tokens,
        "vllm_importance_sampling_correction": corrects(config),
    }


def corrects(config: GrpoConfig) -> bool:
    """Whether a sequence is weighted by how likely the trainer finds it beside vLLM (see `RolloutSettings.correction`)."""
    filtered = config.sampling.top_p < 1.0 or config.sampling.top_k > 0
    return config.rollouts.correction == "auto" and not filtered


def require_vllm() -> None:
    """vLLM, of a version that TRL drives, and a GPU.

    Raises:
        BackendError: one of them is missing.
    """
    low, high = VLLM_VERSIONS
    needed, hint = f"vllm {low} to {high} and a GPU for rollouts.engine: vllm", "set rollouts.engine: transformers"
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise BackendError(needed, "no package vllm", f"pip install 'vllm>={low},<={high}', or {hint}") from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not tuple(map(int, low.split(".")[:2])) <= numbers <= tuple(map(int, high.split(".")[:2])):
        raise BackendError(needed, f"vllm {version}", f"pip install 'vllm>={low},<={high}', or {hint}")
    import torch

    if not torch.cuda.is_available():
        raise BackendError(needed, "no GPU", hint)
