"""A GRPO configuration in verl's keys. `docs/verl.md` says for each key what it is set to and which file of verl reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from egm_edge.errors import InputError
from training.stage_config import GrpoConfig

REWARD_FUNCTION = "compute_score"
DATASET_MODULE, DATASET_CLASS = "pkg://training.verl.dataset", "EgmDataset"


def verl_settings(config: GrpoConfig, out: Path, *, nodes: int, gpus: int, validate: bool) -> dict[str, Any]:
    """Key -> value of every setting that the run needs.

    Args:
        out: where train.parquet, val.parquet and reward.py lie.
        validate: there are validation rows.

    Raises:
        InputError: a setting that verl has no code for.
    """
    if set(config.model.train) != {"language_model", "projector", "vision"}:
        trained = ", ".join(config.model.train)
        raise InputError(
            "model.train of language_model, projector and vision", trained, "verl 0.9.1 freezes nothing: name all three"
        )
    if config.lora.rank:
        raise InputError("lora.rank 0", f"{config.lora.rank}", "verl's adapters also cover the tower: train in full")
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": config.loss.scale == "group",
        "algorithm.use_kl_in_reward": False,
        **_data(config, out, nodes * gpus, validate),
        **_actor(config, nodes * gpus),
        **_rollout(config),
        "reward.custom_reward_function.path": str(out / "reward.py"),
        "reward.custom_reward_function.name": REWARD_FUNCTION,
        **_trainer(config, nodes, gpus, validate),
    }


def prompts_per_step(config: GrpoConfig, processes: int) -> int:
    """Questions of one step over all GPUs."""
    return config.run.batch_per_device * config.run.accumulation * processes // config.sampling.generations


def _tokens_per_gpu(config: GrpoConfig) -> int:
    return config.rollouts.tokens_per_gpu or config.max_prompt_tokens + config.sampling.max_tokens


def _data(config: GrpoConfig, out: Path, processes: int, validate: bool) -> dict[str, Any]:
    return {
        "data.train_files": str(out / "train.parquet"),
        "data.val_files": str(out / ("val.parquet" if validate else "train.parquet")),
        "data.image_key": "images",
        # verl's own data set resizes pictures with qwen_vl_utils before the processor sees them; ours hands them on.
        "data.custom_cls.path": DATASET_MODULE,
        "data.custom_cls.name": DATASET_CLASS,
        "data.train_batch_size": prompts_per_step(config, processes),
        "data.max_prompt_length": config.max_prompt_tokens,
        "data.max_response_length": config.sampling.max_tokens,
        "data.filter_overlong_prompts": True,
        "data.filter_overlong_prompts_workers": 16,
        "data.truncation": "error",
        "data.seed": config.run.seed,
    }


def _actor(config: GrpoConfig, processes: int) -> dict[str, Any]:
    run, loss, optim = config.run, config.loss, config.optim
    actor, ref = "actor_rollout_ref.actor", "actor_rollout_ref.ref"
    sequence = loss.ratio == "sequence"
    return {
        "actor_rollout_ref.model.path": config.model.base,
        "actor_rollout_ref.model.enable_gradient_checkpointing": run.gradient_checkpointing,
        "actor_rollout_ref.model.use_remove_padding": True,
        f"{actor}.ppo_mini_batch_size": prompts_per_step(config, processes),
        f"{actor}.ppo_epochs": 1,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": _tokens_per_gpu(config),
        f"{actor}.policy_loss.loss_mode": "gspo" if sequence else "vanilla",
        # Upstream says token-mean, which the gspo of its verl did not look at; 0.9.1's does, and means it.
        f"{actor}.loss_agg_mode": "seq-mean-token-mean" if sequence else "token-mean",
        f"{actor}.clip_ratio_low": loss.clip,
        f"{actor}.clip_ratio_high": loss.clip,
        f"{actor}.use_kl_loss": loss.kl > 0,
        f"{actor}.kl_loss_coef": loss.kl,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.entropy_coeff": loss.entropy,
        f"{actor}.data_loader_seed": run.seed,
        f"{actor}.fsdp_config.fsdp_size": -1,  # over all GPUs, as upstream's 16 on 8 comes to
        f"{actor}.fsdp_config.param_offload": run.offload,
        f"{actor}.fsdp_config.optimizer_offload": run.offload,
        f"{actor}.optim.lr": optim.learning_rate,
        f"{actor}.optim.clip_grad": optim.max_grad_norm,  # actor.grad_clip is declared and never read
        f"{actor}.optim.betas": f"[0.9,{optim.adam_beta2}]",
        f"{actor}.optim.lr_scheduler_type": _schedule(optim.schedule),
        f"{actor}.optim.lr_warmup_steps": optim.warmup_steps or -1,  # -1 leaves it to the ratio
        f"{actor}.optim.lr_warmup_steps_ratio": optim.warmup_ratio,
        f"{actor}.optim.weight_decay": optim.weight_decay,
        f"{ref}.log_prob_use_dynamic_bsz": True,
        f"{ref}.log_prob_max_token_len_per_gpu": _tokens_per_gpu(config),
        f"{ref}.fsdp_config.param_offload": run.offload,
    }


def _schedule(name: str) -> str:
    """verl knows two: "constant", which warms up too, and "cosine"."""
    known = {"cosine": "cosine", "constant_with_warmup": "constant"}
    if name not in known:
        raise InputError(f"optim.schedule of {', '.join(known)} for verl", name, "choose one of them")
    return known[name]


def _rollout(config: GrpoConfig) -> dict[str, Any]:
    sampling, rollout = config.sampling, "actor_rollout_ref.rollout"
    return {
        f"{rollout}.name": "vllm",
        f"{rollout}.n": sampling.generations,
        f"{rollout}.temperature": sampling.temperature,
        f"{rollout}.top_p": sampling.top_p,
        f"{rollout}.top_k": sampling.top_k or -1,
        f"{rollout}.dtype": config.rollouts.dtype,
        f"{rollout}.tensor_model_parallel_size": config.rollouts.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": config.rollouts.gpu_memory,
        f"{rollout}.max_model_len": config.max_prompt_tokens + sampling.max_tokens,
        # a prompt must fit one prefill, since chunked prefill is off, as upstream
        f"{rollout}.max_num_batched_tokens": config.max_prompt_tokens + sampling.max_tokens,
        f"{rollout}.enable_chunked_prefill": False,
        f"{rollout}.enforce_eager": False,
        f"{rollout}.free_cache_engine": True,
        f"{rollout}.log_prob_use_dynamic_bsz": True,
        f"{rollout}.log_prob_max_token_len_per_gpu": _tokens_per_gpu(config),
        f"{rollout}.val_kwargs.n": 1,
        f"{rollout}.val_kwargs.do_sample": False,
        f"{rollout}.val_kwargs.temperature": 0,
    }


def _trainer(config: GrpoConfig, nodes: int, gpus: int, validate: bool) -> dict[str, Any]:
    run = config.run
    output = f"{run.output}-verl"
    return {
        "trainer.nnodes": nodes,
        "trainer.n_gpus_per_node": gpus,
        "trainer.total_epochs": max(1, round(run.epochs)),
        **({"trainer.total_training_steps": run.max_steps} if run.max_steps else {}),
        "trainer.save_freq": run.save_steps,
        "trainer.max_actor_ckpt_to_keep": run.keep,
        "trainer.test_freq": (run.eval_steps or -1) if validate else -1,
        "trainer.val_before_train": validate and run.eval_steps > 0,
        "trainer.log_val_generations": 8,
        "trainer.rollout_data_dir": f"{output}/rollouts",
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": output,
        "trainer.logger": json.dumps(["console", *run.reports]),
        "trainer.project_name": "egm",
        "trainer.experiment_name": Path(run.output).name,
    }
