"""NanoConfig: the typed form of `training/configs/nano.yaml`. Unknown keys fail; all problems are reported together."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from egm_edge.errors import InputError
from training.nano.build import NanoShape


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training with its own budget.

    Attributes:
        name: for the log.
        cpu_minutes: budget, CPU time of the training process.
        images: pictures per step.
        queries: query rows per picture; 0 trains the vision tower alone.
        lr: AdamW learning rate of the decoder (of the vision tower when `queries` is 0).
        vision_lr: factor on `lr` for the vision tower; 0 freezes it.
        lr_end: factor on `lr` at the end of the stage; the way there is linear from `decay_from` on.
        decay_from: share of the budget after which the rate falls.
        list_share: probability that a picture's first row lists every object, at the stage's start and end.
        objects: fewest and most objects per scene.
        gate: the most objects start at the lower bound + 1 and grow by one when the coordinate error falls below
            `gate_error`; false trains on the whole range from the start.
        sigma: width of the soft coordinate targets, grid steps of 5/1000, at the stage's start and end.
        kinds: relative frequency of the query kinds.
        occlusion: probability that a scene has one object put in front of another.
    """

    name: str
    cpu_minutes: float
    images: int = 16
    queries: int = 0
    lr: float = 1e-3
    vision_lr: float = 1.0
    lr_end: float = 0.1
    decay_from: float = 0.6
    list_share: tuple[float, float] = (0.5, 0.25)
    objects: tuple[int, int] = (1, 6)
    gate: bool = False
    sigma: tuple[float, float] = (1.5, 1.5)
    kinds: dict[str, float] = field(default_factory=lambda: {"attribute": 1.0})
    occlusion: float = 0.35


@dataclass(frozen=True, slots=True)
class NanoConfig:
    """Everything that decides a training run.

    Attributes:
        seed: of weights and of the training scenes, 0-11 (the seeds of held-out scenes lie above).
        shape: model dimensions.
        stages: in order.
        gate_error: mean absolute coordinate error (of 1000) below which the curriculum adds an object.
        direct_share: share of query rows with an empty thought.
        amodal_share: share of query rows that ask for the whole object.
        checkpoint_seconds: wall time between checkpoints.
        score_seconds: wall time between small held-out checks.
        warmup_steps: linear warm-up at the start of every stage.
        frames: share of batches per frame size, "WxH" pixels -> share.
    """

    seed: int
    stages: tuple[Stage, ...]
    shape: NanoShape = field(default_factory=NanoShape)
    gate_error: float = 45.0
    direct_share: float = 0.1
    amodal_share: float = 0.25
    checkpoint_seconds: float = 180.0
    score_seconds: float = 480.0
    warmup_steps: int = 100
    frames: dict[str, float] = field(default_factory=lambda: {"256x192": 0.72, "288x160": 0.15, "192x192": 0.13})

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= 11:
            raise InputError("a seed from 0 to 11", str(self.seed), "higher ones would reach the held-out scenes")


def load_config(path: Path) -> NanoConfig:
    """Read a YAML file.

    Raises:
        InputError: naming every unknown key and every value of the wrong kind at once.
    """
    wanted = f"a Nano configuration in {path}"
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(wanted, str(error), "start from training/configs/nano.yaml") from error
    listed = values.pop("stages", []) if isinstance(values, dict) else None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise InputError(wanted, "no mapping with a list of stages", "start from training/configs/nano.yaml")
    problems: list[str] = []
    stages = tuple(_build(Stage, item, f"stages[{i}].", problems) for i, item in enumerate(listed))
    shape = _build(NanoShape, values.pop("shape", {}), "shape.", problems)
    config = _build(NanoConfig, values | {"stages": stages, "shape": shape}, "", problems)
    if not stages:
        problems.append("stages: none given")
    if problems or config is None:
        raise InputError(wanted, "; ".join(problems), "mend the keys named")
    return config


def _build(kind: type, values: dict[str, Any], where: str, problems: list[str]) -> Any:
    known = {f.name for f in fields(kind)}
    problems += [f"{where}{key}: unknown key" for key in values if key not in known]
    taken = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    try:
        return kind(**taken)
    except TypeError as error:
        problems.append(f"{where or 'top level'}: {error}")
        return None
