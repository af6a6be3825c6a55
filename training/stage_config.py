"""The settings of the two training stages, as they stand in `training/configs/*.yaml`.

The image resolution is no setting: both stages train on the pixels that the checkpoint's own PixelSpec gives, which is
what evaluation and the robot use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from egm_edge.cli.parser import Parser
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from egm_edge.hashing import canonical_hash
from training.errors import SettingError
from training.rewards.registry import make_reward
from training.typed_yaml import KeepsResult, SettingsSection, Share, load_yaml, result_settings

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(SettingsSection):
    """The checkpoint to start from.

    Attributes:
        base: a local checkpoint directory; nothing is ever downloaded.
        source: where it can be had, for the message when `base` is not there.
        attention: "auto" takes flash_attention_2 where the package and a GPU for it are really there, else sdpa.
        dtype: of the weights in training.
        train: parts that learn; the vision tower is frozen unless it is named.
    """

    base: str
    source: KeepsResult[str] = ""
    attention: KeepsResult[Literal["auto", "sdpa", "flash_attention_2", "eager"]] = "auto"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    train: Annotated[tuple[Literal["language_model", "projector", "vision"], ...], Field(min_length=1)] = (
        "language_model",
        "projector",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings(SettingsSection):
    """Low-rank adapters instead of full training; merged into the weights at the end. rank 0 turns them off."""

    rank: Annotated[int, Field(ge=0, le=1024)] = 0
    alpha: PositiveInt = 128
    dropout: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings(SettingsSection):
    """Rows (jsonl as `egm data convert` writes it) and the root of their pictures.

    `train` may only hold rows of split `train`, `validation` only of `val`; test splits are for the final evaluation alone.
    """

    train: tuple[str, ...]
    images: str
    validation: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings(SettingsSection):
    """AdamW and its schedule. `warmup_steps` wins over `warmup_ratio` when it is set."""

    learning_rate: Share
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: Share = 0.0
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    adam_beta2: Share = 0.999
    max_grad_norm: NonNegativeFloat = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings(SettingsSection):
    """How long, how wide, and what is kept.

    Attributes:
        output: run directory; the finished checkpoint is its folder `final`.
        batch_per_device, accumulation: global batch = the two multiplied by the number of processes.
        max_steps: stop earlier than `epochs`; 0 leaves it to them.
        eval_steps: validate every so many steps; 0 never. SFT: loss on all validation rows. GRPO: greedy answers to
            `card_samples` of them, before the first step too; the best checkpoint so far is kept as `best`.
        rollout_steps: GRPO: every so many steps a few rollouts are kept as text and picture under `rollouts`; 0 never.
        deepspeed: "none", "zero2" or "zero3".
        offload: weights and optimiser state wait in CPU memory between uses; needs ZeRO (or verl).
        reports: "tensorboard", "wandb".
        keep: checkpoints kept.
        step0_checks: check the set-up before the first step and stop when it is wrong; on `step0_samples` rows.
        card_samples, card_tokens: validation rows measured for the model card, and tokens an answer may have there.

    A run goes on from its checkpoints after any of these has changed that does not change its result.
    """

    output: KeepsResult[str]
    epochs: NonNegativeFloat = 1.0
    max_steps: NonNegativeInt = 0
    batch_per_device: PositiveInt = 1
    accumulation: PositiveInt = 1
    seed: int = 42
    save_steps: KeepsResult[PositiveInt] = 50
    eval_steps: KeepsResult[NonNegativeInt] = 0
    rollout_steps: KeepsResult[NonNegativeInt] = 10
    log_steps: KeepsResult[PositiveInt] = 10
    keep: KeepsResult[PositiveInt] = 3
    deepspeed: KeepsResult[Literal["none", "zero2", "zero3"]] = "none"
    offload: KeepsResult[bool] = False
    gradient_checkpointing: KeepsResult[bool] = True
    workers: KeepsResult[NonNegativeInt] = 4
    reports: KeepsResult[tuple[Literal["tensorboard", "wandb"], ...]] = ()
    step0_checks: KeepsResult[bool] = True
    step0_samples: KeepsResult[PositiveInt] = 16
    card_samples: KeepsResult[NonNegativeInt] = 500
    card_tokens: KeepsResult[PositiveInt] = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig(SettingsSection):
    """Supervised fine-tuning on reasoning and answer.

    Attributes:
        max_tokens: longest row, prompt and image tokens included; longer ones are an error, never cut.
    """

    task: Task
    model: ModelSettings
    data: DataSettings
    optim: OptimSettings
    run: RunSettings
    lora: LoraSettings = field(default_factory=LoraSettings)
    max_tokens: Annotated[int, Field(ge=16)] = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings(SettingsSection):
    """How rollouts are drawn. `top_k` 0 is off."""

    generations: Annotated[int, Field(ge=2)] = 16
    max_tokens: PositiveInt = 2048
    temperature: NonNegativeFloat = 0.7
    top_p: Share = 0.9
    top_k: NonNegativeInt = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings(SettingsSection):
    """The policy loss.

    Attributes:
        ratio: "sequence" (GSPO, what EGM's scripts use) or "token" (GRPO).
        kl: weight of the KL term to the starting checkpoint (k3 estimator); 0 needs no reference model.
        entropy: weight of the entropy bonus.
        clip: lower and upper clip range of the ratio.
        scale: "group" divides advantages by the group's standard deviation, "none" does not.
    """

    ratio: Literal["sequence", "token"] = "sequence"
    kl: NonNegativeFloat = 0.0
    entropy: NonNegativeFloat = 0.0
    clip: Share = 0.2
    scale: Literal["group", "none"] = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings(SettingsSection):
    """What generates: "transformers" anywhere, "vllm" on GPUs (its own package; must be installed).

    Attributes:
        dtype: of the generating copy on verl; TRL's vLLM takes that of the checkpoint.
        gpu_memory: share of a GPU that vLLM may take while it generates; it sleeps while the trainer works.
        correction: "auto" corrects for the difference between vLLM's and the trainer's log-probabilities wherever the two
            are of one distribution, that is without top-p and top-k; "off" never does. vLLM gives log-probabilities after
            those filters and TRL's trainer computes them before, so the weight of a sequence would shrink with every
            filtered token, long thoughts most (upstream, on verl, corrects nothing either).
        tokens_per_gpu: verl: tokens of one micro-batch; 0 is one prompt and answer of the longest kind.
    """

    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    gpu_memory: KeepsResult[Annotated[float, Field(ge=0.05, le=0.95)]] = 0.3
    tensor_parallel: KeepsResult[PositiveInt] = 1
    correction: Literal["auto", "off"] = "auto"
    tokens_per_gpu: KeepsResult[NonNegativeInt] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig(SettingsSection):
    """Group-relative policy optimisation with verifiable rewards.

    Attributes:
        rewards: name -> weight; see `training/rewards`.
        reward_settings: name -> settings of that reward.
        run.batch_per_device: counts completions, so prompts x generations.
    """

    task: Task
    model: ModelSettings
    data: DataSettings
    optim: OptimSettings
    run: RunSettings
    sampling: SamplingSettings
    loss: LossSettings
    rewards: dict[str, float]
    reward_settings: dict[str, dict[str, float]] = field(default_factory=dict)
    rollouts: RolloutSettings = field(default_factory=RolloutSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    max_prompt_tokens: Annotated[int, Field(ge=16)] = 16384

    def __post_init__(self) -> None:
        if not self.rewards:
            raise SettingError("at least one reward", "none", "add grounding: 1.0")
        for name in {**self.rewards, **self.reward_settings}:
            make_reward(name, self.reward_settings.get(name))


def config_parser(prog: str, description: str = "", *, several: bool = False) -> Parser:
    """What the verbs of a stage share: CONFIG (one or several), `--json`, and `--set KEY=VALUE`, pairs under `overrides`."""
    parser = Parser(prog=prog, description=description)
    text = "YAML file, or the name of a shipped one (qwen3-vl-2b-modal-sft)"
    parser.add_argument("config", nargs="+" if several else None, help=text)
    parser.add_argument(
        "--set", action="append", type=lambda pair: pair.partition("=")[::2], default=[], dest="overrides",
        metavar="KEY=VALUE", help="override one setting",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, or one list")
    return parser


def config_path(name: str) -> Path:
    """A file, or the name of a configuration that ships with the project ("qwen3-vl-2b-modal-sft").

    Raises:
        InputError: neither; the message lists the shipped names.
    """
    shipped = CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*-*.yaml")))
    raise InputError(f"a configuration file or one of {names}", repr(name), "pass one of them")


def load_sft(name: str, overrides: Mapping[str, str] | None = None) -> SftConfig:
    """An SFT configuration by file or shipped name."""
    return load_yaml(SftConfig, config_path(name), overrides)


def load_grpo(name: str, overrides: Mapping[str, str] | None = None) -> GrpoConfig:
    """A GRPO configuration by file or shipped name."""
    return load_yaml(GrpoConfig, config_path(name), overrides)


def config_hash(config: SftConfig | GrpoConfig) -> str:
    """Of every setting that changes the result; written into checkpoints, so that a resumed run is known to be the same."""
    return canonical_hash(result_settings(config))
