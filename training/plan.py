"""`egm train plan CONFIG`: memory per GPU, steps, hours and the differences to upstream's values, before a GPU is rented.

Arithmetic on published figures; nothing is loaded or measured. Sources:
    memory of weights, gradients and AdamW: 2 + 2 + 12 bytes a parameter in mixed precision, and what ZeRO shards of it
        (Rajbhandari 2020, arXiv 1910.02054, section 3); frozen weights take their 2 bytes
    activations: 2 bytes x tokens x hidden a layer with checkpointing, 34 without (Korthikanti 2022, arXiv 2205.05198), and
        the logits in float32, once for the softmax and once for its gradient
    training speed: 3,700 tokens a second on an A100-80GB for 7B parameters (PyTorch and IBM, FSDP, 2024), inversely to
        the parameters, a fifth less where parts are recomputed
    rollout speed: 64 requests at once in 286, 488 and 737 ms for EGM-2B, -4B and -8B on 8 GPUs (EGM's latency figures)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from egm_edge.cli.parser import positive_int
from egm_edge.errors import InputError
from training.stage_config import GrpoConfig, SftConfig, config_parser, load_grpo, load_sft
from training.upstream import Difference, differences, rows_upstream

GIB = 1 << 30
GPU_GIB = 80.0
TOKENS_PER_S_7B, PARAMETERS_7B = 3700.0, 6.74e9
RECOMPUTED = 0.8
CONCURRENT = 64
IMAGE_TOKENS = {"qwen3-vl": 300, "internvl3": 1792}  # 640x480; six tiles and their thumbnail
TEXT_TOKENS, ANSWER_TOKENS = 40, 101  # a prompt without its picture; EGM-8B's mean answer


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's size decides.

    Attributes:
        language, vision: parameters. hidden, layers, vocabulary: of the language model.
        rollout_ms: of one answer with 64 in flight on 8 GPUs.
    """

    language: float
    vision: float
    hidden: int
    layers: int
    vocabulary: int
    rollout_ms: float


# Published configurations (hidden, layers, vocabulary) and parameter counts; InternVL3 has no latency of its own published,
# so Qwen3-VL's of the next size up stands in.
SHAPES = {
    "qwen3-vl-2b": ModelShape(1.72e9, 0.41e9, 2048, 28, 151_936, 286),
    "qwen3-vl-4b": ModelShape(4.02e9, 0.42e9, 2560, 36, 151_936, 488),
    "qwen3-vl-8b": ModelShape(8.19e9, 0.58e9, 4096, 36, 151_936, 737),
    "internvl3-1b": ModelShape(0.63e9, 0.31e9, 896, 24, 151_674, 286),
    "internvl3-2b": ModelShape(1.78e9, 0.31e9, 1536, 28, 151_674, 286),
    "internvl3-8b": ModelShape(7.63e9, 0.31e9, 3584, 28, 151_674, 737),
}


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The plan of one run; GiB per GPU, hours of the whole run.

    Attributes:
        rows, rows_from: training rows, and where the number is from.
        steps, per_step: optimiser steps; rows (SFT) or questions (GRPO) of one.
        weights_gib: weights, gradients and optimiser state that lie on one GPU; activations_gib beside them.
        rollout_gib: what vLLM may take while it generates (the trainer's activations are gone then).
        peak_gib: the larger of training and generating.
        train_hours, rollout_hours: rollout 0 for SFT.
    """

    name: str
    gpus: int
    rows: int
    rows_from: str
    steps: int
    per_step: int
    weights_gib: float
    activations_gib: float
    rollout_gib: float
    peak_gib: float
    train_hours: float
    rollout_hours: float
    differences: tuple[Difference, ...] = ()


def plan(name: str, config: SftConfig | GrpoConfig, gpus: int) -> RunPlan:
    """Work it out.

    Args:
        name: that the configuration goes by; says which model it is.

    Raises:
        InputError: a model whose shape is not known here.
    """
    model = model_of(name, config)
    shape = SHAPES[model]
    rows, rows_from = _rows(config, model)
    grpo = isinstance(config, GrpoConfig)
    completions = config.run.batch_per_device * config.run.accumulation * gpus
    per_step = completions // config.sampling.generations if isinstance(config, GrpoConfig) else completions
    steps = config.run.max_steps or int(rows * config.run.epochs) // max(1, per_step)
    prompt = IMAGE_TOKENS[model.rsplit("-", 1)[0]] + TEXT_TOKENS
    weights = _weights_gib(config, shape, gpus)
    activations = _activations_gib(config, shape, config.run.batch_per_device * (prompt + ANSWER_TOKENS))
    rollout = config.rollouts.gpu_memory * GPU_GIB if isinstance(config, GrpoConfig) else 0.0
    speed = TOKENS_PER_S_7B * PARAMETERS_7B / (shape.language + shape.vision) * gpus
    speed *= RECOMPUTED if config.run.gradient_checkpointing else 1.0
    # A reference model and the policy's own log-probabilities are forward passes, a third of a training step each.
    passes = 1.0 + ((1 / 3 if config.loss.kl else 0.0) if isinstance(config, GrpoConfig) else 0.0)
    train_s = steps * completions * (prompt + ANSWER_TOKENS) * passes / speed
    rollout_s = steps * completions * shape.rollout_ms / 1e3 / CONCURRENT * 8 / gpus if grpo else 0.0
    resident = 0.0 if config.run.offload else weights
    return RunPlan(
        name, gpus, rows, rows_from, steps, per_step, weights, activations, rollout,
        max(weights + activations, resident + rollout), train_s / 3600, rollout_s / 3600,
        tuple(differences(model, config)),
    )  # fmt: skip


def model_of(name: str, config: SftConfig | GrpoConfig) -> str:
    """The key of SHAPES that a configuration's name, source or base tells."""
    for text in (name, config.model.source, config.model.base):
        found = [model for model in SHAPES if model in text.lower().replace("_", "-")]
        if found:
            return found[0]
    raise InputError(f"a model of {', '.join(SHAPES)}", f"{name} ({config.model.base})", "name it in model.source")


def _rows(config: SftConfig | GrpoConfig, model: str) -> tuple[int, str]:
    files = [Path(path) for path in config.data.train]
    if all(path.is_file() for path in files):
        return sum(sum(1 for line in path.open("rb") if line.strip()) for path in files), "data.train"
    return rows_upstream(model, config)


def _weights_gib(config: SftConfig | GrpoConfig, shape: ModelShape, gpus: int) -> float:
    total = shape.language + shape.vision
    learning = total if "vision" in config.model.train else shape.language
    kind = config.run.deepspeed
    shares = {"none": (1, 1), "zero2": (1, gpus), "zero3": (gpus, gpus)}[kind]
    weights = 2.0 * total / shares[0]
    learnt = 14.0 * learning / shares[1]
    if config.run.offload and kind != "none":
        learnt = 2.0 * learning / shares[1]  # gradients stay until they are reduced
    reference = 2.0 * total / shares[0] if isinstance(config, GrpoConfig) and config.loss.kl else 0.0
    return (weights + learnt + reference) / GIB


def _activations_gib(config: SftConfig | GrpoConfig, shape: ModelShape, tokens: int) -> float:
    kept = (2.0 if config.run.gradient_checkpointing else 34.0) * shape.layers + 34.0
    answers = config.run.batch_per_device * (
        config.sampling.max_tokens if isinstance(config, GrpoConfig) else ANSWER_TOKENS
    )
    logits = 8.0 * shape.vocabulary * min(tokens, answers)
    return (kept * shape.hidden * tokens + logits) / GIB


def as_text(found: RunPlan) -> str:
    """The plan for a person."""
    rollouts = f" + {found.rollout_hours:.1f} of rollouts" if found.rollout_hours else ""
    vllm = f"; vLLM may take {found.rollout_gib:.0f} while it generates" if found.rollout_gib else ""
    fits = "" if found.peak_gib <= GPU_GIB else f"; MORE THAN THE {GPU_GIB:.0f} OF ONE"
    lines = [
        f"{found.name} on {found.gpus} GPUs of {GPU_GIB:.0f} GiB",
        f"  memory a GPU  {found.weights_gib:.1f} GiB weights, gradients and optimiser, {found.activations_gib:.1f} activations"
        f"{vllm}; peak {found.peak_gib:.0f}{fits}",
        f"  steps         {found.steps:,} of {found.per_step}, over {found.rows:,} rows ({found.rows_from})",
        f"  hours         {found.train_hours:.1f} of training{rollouts}; an estimate from published speeds, not measured",
        "  not upstream's:" if found.differences else "  every value is upstream's",
    ]
    lines += [f"    {d.key}: {d.ours} (upstream {d.upstream})" for d in found.differences]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Print the plan; returns the exit code."""
    description = "Memory, steps, hours and deviations of a run, before it starts."
    parser = config_parser("egm train plan", description, several=True)
    parser.add_argument("--gpus", type=positive_int, default=8, help="in all (default: 8)")
    arguments = parser.parse_args(list(argv))
    overrides = dict(arguments.overrides)
    plans = [plan(Path(name).stem, _load(name, overrides), arguments.gpus) for name in arguments.config]
    print(json.dumps([asdict(p) for p in plans]) if arguments.json else "\n\n".join(map(as_text, plans)))
    return 0


def _load(name: str, overrides: dict[str, str]) -> SftConfig | GrpoConfig:
    try:
        return load_grpo(name, overrides)
    except InputError as as_grpo:
        try:
            return load_sft(name, overrides)
        except InputError as as_sft:
            raise (as_grpo if "sampling" in Path(name).name or "grpo" in Path(name).name else as_sft) from None
