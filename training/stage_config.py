"""The settings of the two training stages, as they stand in `training/configs/*.yaml`.

The image resolution is no setting: both stages train on the pixels that the checkpoint's own PixelSpec gives, which is
what evaluation and the robot use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egm_edge.cli.parser import Parser
from egm_edge.errors import InputError
from egm_edge.grounding import Task
from egm_edge.hashing import canonical_hash
from training.rewards.registry import make_reward
from training.typed_yaml import load_yaml, result_settings, setting

CONFIGS = Path(__file__).parent / "configs"
TASKS = tuple(task.value for task in Task)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The checkpoint to start from.

    Attributes:
        base: a local checkpoint directory; nothing is ever downloaded.
        source: where it can be had, for the message when `base` is not there.
        attention: "auto" takes flash_attention_2 where the package and a GPU for it are really there, else sdpa.
        dtype: of the weights in training.
        train: parts that learn; the vision tower is frozen unless it is named.
    """

    base: str
    source: str = setting("", changes_result=False)
    attention: str = setting("auto", choices=("auto", "sdpa", "flash_attention_2", "eager"), changes_result=False)
    dtype: str = setting("bfloat16", choices=("bfloat16", "float16", "float32"))
    train: tuple[str, ...] = ("language_model", "projector")

    def __post_init__(self) -> None:
        unknown = [part for part in self.train if part not in ("language_model", "projector", "vision")]
        if unknown or not self.train:
            found = ", ".join(unknown) or "nothing"
            raise InputError("model.train of language_model, projector, vision", found, "correct it")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters instead of full training; merged into the weights at the end. rank 0 turns them off."""

    rank: int = setting(0, low=0, high=1024)
    alpha: int = setting(128, low=1)
    dropout: float = setting(0.0, low=0.0, high=0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Rows (jsonl as `egm data convert` writes it) and the root of their pictures.

    `train` may only hold rows of split `train`, `validation` only of `val`; test splits are for the final evaluation alone.
    """

    train: tuple[str, ...]
    images: str
    validation: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """AdamW and its schedule. `warmup_steps` wins over `warmup_ratio` when it is set."""

    learning_rate: float = setting(low=0.0, high=1.0)
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant_with_warmup"))
    warmup_ratio: float = setting(0.0, low=0.0, high=1.0)
    warmup_steps: int = setting(0, low=0)
    weight_decay: float = setting(0.0, low=0.0)
    adam_beta2: float = setting(0.999, low=0.0, high=1.0)
    max_grad_norm: float = setting(1.0, low=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
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

    output: str = setting(changes_result=False)
    epochs: float = setting(1.0, low=0.0)
    max_steps: int = setting(0, low=0)
    batch_per_device: int = setting(1, low=1)
    accumulation: int = setting(1, low=1)
    seed: int = 42
    save_steps: int = setting(50, low=1, changes_result=False)
    eval_steps: int = setting(0, low=0, changes_result=False)
    rollout_steps: int = setting(10, low=0, changes_result=False)
    log_steps: int = setting(10, low=1, changes_result=False)
    keep: int = setting(3, low=1, changes_result=False)
    deepspeed: str = setting("none", choices=("none", "zero2", "zero3"), changes_result=False)
    offload: bool = setting(False, changes_result=False)
    gradient_checkpointing: bool = setting(True, changes_result=False)
    workers: int = setting(4, low=0, changes_result=False)
    reports: tuple[str, ...] = setting((), changes_result=False)
    step0_checks: bool = setting(True, changes_result=False)
    step0_samples: int = setting(16, low=1, changes_result=False)
    card_samples: int = setting(500, low=0, changes_result=False)
    card_tokens: int = setting(1024, low=1, changes_result=False)

    def __post_init__(self) -> None:
        unknown = [report for report in self.reports if report not in ("tensorboard", "wandb")]
        if unknown:
            raise InputError("run.reports of tensorboard, wandb", ", ".join(unknown), "correct it")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning on reasoning and answer.

    Attributes:
        max_tokens: longest row, prompt and image tokens included; longer ones are an error, never cut.
    """

    task: str = setting(choices=TASKS)
    model: ModelSettings
    data: DataSettings
    optim: OptimSettings
    run: RunSettings
    lora: LoraSettings = field(default_factory=LoraSettings)
    max_tokens: int = setting(8192, low=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How rollouts are drawn. `top_k` 0 is off."""

    generations: int = setting(16, low=2)
    max_tokens: int = setting(2048, low=1)
    temperature: float = setting(0.7, low=0.0)
    top_p: float = setting(0.9, low=0.0, high=1.0)
    top_k: int = setting(50, low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The policy loss.

    Attributes:
        ratio: "sequence" (GSPO, what EGM's scripts use) or "token" (GRPO).
        kl: weight of the KL term to the starting checkpoint (k3 estimator); 0 needs no reference model.
        entropy: weight of the entropy bonus.
        clip: lower and upper clip range of the ratio.
        scale: "group" divides advantages by the group's standard deviation, "none" does not.
    """

    ratio: str = setting("sequence", choices=("sequence", "token"))
    kl: float = setting(0.0, low=0.0)
    entropy: float = setting(0.0, low=0.0)
    clip: float = setting(0.2, low=0.0, high=1.0)
    scale: str = setting("group", choices=("group", "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
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

    engine: str = setting("transformers", choices=("transformers", "vllm"))
    dtype: str = setting("bfloat16", choices=("bfloat16", "float16"))
    gpu_memory: float = setting(0.3, low=0.05, high=0.95, changes_result=False)
    tensor_parallel: int = setting(1, low=1, changes_result=False)
    correction: str = setting("auto", choices=("auto", "off"))
    tokens_per_gpu: int = setting(0, low=0, changes_result=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation with verifiable rewards.

    Attributes:
        rewards: name -> weight; see `training/rewards`.
        reward_settings: name -> settings of that reward.
        run.batch_per_device: counts completions, so prompts x generations.
    """

    task: str = setting(choices=TASKS)
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
    max_prompt_tokens: int = setting(16384, low=16)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise InputError("at least one reward", "none", "add grounding: 1.0")
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
