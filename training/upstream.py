"""What EGM's released scripts set, in this project's keys, and how far a configuration is from it.

Sources: github.com/NVlabs/EGM (zgq1879/EGM), verl/scripts/grounding_qwen.sh, verl-internvl/scripts/grounding_internvl.sh,
sft/qwen-vl-finetune/scripts/sft_qwen3_{2b,4b,8b}_grounding.sh; row counts from the paper (arXiv 2601.13633) and file names.
No SFT of InternVL3 and no amodal SFT is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.stage_config import GrpoConfig, SftConfig

SFT_ROWS = 575_208  # RefCOCO, + and g train with mirrored copies
RL_ROWS = {
    "qwen3-vl-2b": 110_000,
    "qwen3-vl-4b": 79_000,
    "qwen3-vl-8b": 83_989,
    "internvl3-1b": 60_000,
    "internvl3-8b": 37_000,
}
EVERYTHING = ("language_model", "projector", "vision")
_SFT: dict[str, Any] = {
    "model.train": ("language_model", "projector"), "model.dtype": "bfloat16", "optim.learning_rate": 1e-5,
    "optim.schedule": "cosine", "optim.warmup_ratio": 0.03, "optim.weight_decay": 0.0, "optim.max_grad_norm": 1.0,
    "optim.adam_beta2": 0.999, "max_tokens": 8192, "run.epochs": 1.0, "run.seed": 42, "run.save_steps": 50, "run.eval_steps": 0,
    "run.keep": 5, "run.log_steps": 1, "run.deepspeed": "zero3", "run.gradient_checkpointing": True, "run.workers": 4,
    "run.reports": ("wandb",),
}  # fmt: skip
_GRPO: dict[str, Any] = {
    "model.train": EVERYTHING, "model.dtype": "bfloat16", "optim.learning_rate": 3e-6, "optim.schedule": "cosine",
    "optim.warmup_steps": 30, "optim.weight_decay": 0.01, "optim.max_grad_norm": 1.0, "optim.adam_beta2": 0.999,
    "sampling.generations": 16, "sampling.top_p": 0.9, "loss.ratio": "sequence", "loss.clip": 0.2, "loss.scale": "group",
    "rewards": {"grounding": 1.0}, "rollouts.engine": "vllm", "rollouts.gpu_memory": 0.8, "rollouts.tensor_parallel": 1,
    "run.save_steps": 10, "run.eval_steps": 10, "run.reports": ("wandb",),
}  # fmt: skip
_QWEN = {
    "sampling.max_tokens": 2048, "sampling.temperature": 0.7, "sampling.top_k": 50, "loss.kl": 0.005, "loss.entropy": 0.0,
    "max_prompt_tokens": 16384, "rollouts.dtype": "float16", "rollouts.tokens_per_gpu": 25600, "run.epochs": 3.0,
    "run.offload": True, "run.gradient_checkpointing": True,
}  # fmt: skip
_INTERNVL = {
    "sampling.max_tokens": 4096, "sampling.temperature": 1.0, "sampling.top_k": 0, "loss.kl": 0.0, "loss.entropy": 0.01,
    "max_prompt_tokens": 28672, "rollouts.tokens_per_gpu": 32768, "run.epochs": 5.0, "run.offload": False,
    "run.gradient_checkpointing": False,
}  # fmt: skip
# What no key of ours can say.
_NOTES = {
    "sft": (
        ("prompt", "no period at its end, as RL, evaluation and the robot ask", "a period, in SFT alone"),
        ("pixels", "the checkpoint's own, as evaluation and the robot", "at most 50,176 (49 tokens), in SFT alone"),
    ),
    "grpo": (
        ("validation rows", "val splits only", "a tenth of each of the 8 benchmark splits, test splits included"),
        (
            "reward",
            "IoU of unrounded boxes; the box that the robot's parser reads",
            "boxes rounded to pixels; the last list",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not upstream's."""

    key: str
    ours: Any
    upstream: Any


def upstream_values(model: str, config: SftConfig | GrpoConfig) -> dict[str, Any]:
    """Dotted key -> upstream's value; empty for the SFT of InternVL3, which is not published."""
    qwen = model.startswith("qwen")
    if isinstance(config, GrpoConfig):
        return _GRPO | (_QWEN if qwen else _INTERNVL)
    batch, accumulation = (16, 1) if model.endswith("2b") else (8, 2)
    return _SFT | {"run.batch_per_device": batch, "run.accumulation": accumulation} if qwen else {}


def differences(model: str, config: SftConfig | GrpoConfig) -> Iterator[Difference]:
    """Every value that is not upstream's, then what no key can say."""
    for key, wanted in upstream_values(model, config).items():
        ours: Any = config
        for part in key.split("."):
            ours = getattr(ours, part)
        if ours != wanted:
            yield Difference(key, ours, wanted)
    for key, ours, theirs in _NOTES["grpo" if isinstance(config, GrpoConfig) else "sft"]:
        if isinstance(config, GrpoConfig) or model.startswith("qwen"):
            yield Difference(key, ours, theirs)


def rows_upstream(model: str, config: SftConfig | GrpoConfig) -> tuple[int, str]:
    """Training rows upstream, and where the number is from."""
    if isinstance(config, SftConfig):
        return SFT_ROWS, "upstream's pool; data.train is not here"
    if model in RL_ROWS:
        return RL_ROWS[model], "upstream's RL set of this size; data.train is not here"
    return RL_ROWS["qwen3-vl-4b"], "no size published: Qwen3-VL-4B's; data.train is not here"
