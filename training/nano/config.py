"""TrainingPlan: the typed form of `training/configs/nano.yaml`. Unknown keys fail; all problems are reported together."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from egm_edge.synthetic.queries import KINDS
from training.errors import SettingError
from training.nano.build import NanoShape
from training.rewards.registry import make_reward
from training.typed_yaml import SettingsSection, Share, load_yaml

MOST_OBJECTS = 9
_HINT = "correct the keys named"


@dataclass(frozen=True, slots=True)
class Grpo(SettingsSection):
    """How a stage learns from its own answers.

    Attributes:
        rewards: weight per reward of `training.rewards`, each with its own default settings.
        group: answers sampled per question.
        temperature: of the sampling.
        informative: a group is learnt from when its best and worst reward differ by more than this; the others, mostly
            solved questions whose answers differ by a pixel, would only add noise.
        clip: how far the sequence-level probability ratio may leave 1.
        max_new_tokens: cap of an answer.
        validate_steps: steps between held-out checks; the best weights by these are the ones kept.
    """

    rewards: dict[str, float] = field(default_factory=lambda: {"grounding": 1.0})
    group: Annotated[int, Field(ge=2, le=64)] = 8
    temperature: Annotated[float, Field(ge=0.1, le=2.0)] = 0.8
    informative: Share = 0.1
    clip: Share = 0.2
    max_new_tokens: Annotated[int, Field(ge=16, le=512)] = 128
    validate_steps: PositiveInt = 25

    def __post_init__(self) -> None:
        for name in self.rewards:
            make_reward(name)


@dataclass(frozen=True, slots=True)
class TrainingStage(SettingsSection):
    """One stretch of training with its own budget.

    Attributes:
        name: for the log.
        cpu_minutes: budget, CPU time of the training process (on a GPU: wall time).
        images: pictures per step.
        queries: query rows per picture; 0 trains the vision tower alone.
        lr: AdamW learning rate of the decoder (of the vision tower when `queries` is 0).
        vision_lr: factor on `lr` for the vision tower; 0 freezes it.
        lr_end: factor on `lr` at the end of the stage; the way there is linear from `decay_from` on.
        decay_from: share of the budget after which the rate falls.
        warmup_steps: linear warm-up at the start.
        dense: weight of the tower's dense lessons beside the answers; 0 after weights were adopted, whose read-outs are not
            exported: new ones pull the tower away from what it knows.
        direct_share: share of query rows with an empty thought.
        amodal_share: share of query rows that ask for the whole object.
        list_share: probability that a picture's first row lists every object, at the stage's start and end.
        objects: fewest and most objects per scene.
        gate: the most objects start at the lower bound + 1 and grow by one when the coordinate error falls below
            `gate_error`; false trains on the whole range from the start.
        sigma: width of the soft coordinate targets, grid steps of 5/1000, at the stage's start and end.
        kinds: relative frequency of the query kinds.
        occlusion: probability that a scene has one object put in front of another.
        variety: probability that a question is worded in another than the plain way.
        augment: probability that a picture gets a camera's and a table's accidents.
        household, solid: share of household scenes, and of scenes of mostly the drawn shapes as solids; the others are drawn.
        grpo: learn from sampled answers and their rewards instead of from written ones.
    """

    name: str
    cpu_minutes: NonNegativeFloat
    images: Annotated[int, Field(ge=1, le=64)] = 16
    queries: Annotated[int, Field(ge=0, le=16)] = 0
    lr: Annotated[float, Field(ge=0.0, le=0.1)] = 1e-3
    vision_lr: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    lr_end: Share = 0.1
    decay_from: Share = 0.6
    warmup_steps: NonNegativeInt = 100
    dense: Share = 0.3
    direct_share: Share = 0.1
    amodal_share: Share = 0.25
    list_share: tuple[float, float] = (0.5, 0.25)
    objects: tuple[int, int] = (1, 6)
    gate: bool = False
    sigma: tuple[float, float] = (1.5, 1.5)
    kinds: dict[str, float] = field(default_factory=lambda: {"attribute": 1.0})
    occlusion: Share = 0.35
    variety: Share = 0.0
    augment: Share = 0.0
    household: Share = 0.0
    solid: Share = 0.0
    grpo: Grpo | None = None

    def __post_init__(self) -> None:
        low, high = self.objects
        if not 1 <= low <= high <= MOST_OBJECTS:
            raise SettingError(f"objects from 1 to {MOST_OBJECTS}", f"{self.objects}", _HINT)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or min(self.kinds.values()) < 0 or not sum(self.kinds.values()):
            raise SettingError(f"kinds with shares ({', '.join(KINDS)})", f"{self.kinds}", _HINT)
        if self.grpo and (not self.queries or self.vision_lr):
            found = f"queries {self.queries}, vision_lr {self.vision_lr}"
            raise SettingError("queries and a frozen tower (vision_lr 0) in a grpo stage", found, _HINT)


@dataclass(frozen=True, slots=True)
class RunConfig(SettingsSection):
    """One training run: a directory of its own.

    Attributes:
        name: of the run and its directory.
        stages: in order; none where weights are averaged.
        start: run whose final weights it starts from; None starts from random ones.
        how: what it is, in a few words, for the card.
        seed: of its scenes, 0-11; None for the plan's.
        average: in place of stages: runs whose final weights are averaged, `start` the last of them.
        shares: of each of `average`; () for equal ones. What they lack to one is the share of the adopted weights, below zero
            where they are more: what the runs learnt is added up.
    """

    name: str
    stages: tuple[TrainingStage, ...] = ()
    start: str | None = None
    how: str = ""
    seed: Annotated[int, Field(ge=0, le=11)] | None = None
    average: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.stages) == bool(self.average):
            found = f"{'both' if self.stages else 'neither'} in run {self.name!r}"
            raise SettingError("at least one stage, or runs to average", found, _HINT)
        if self.average and (len(self.average) < 2 or self.average[-1] != self.start):
            found = f"average {list(self.average)}, start {self.start!r} in run {self.name!r}"
            raise SettingError("two runs or more to average, the last of them as `start`", found, _HINT)
        if self.shares and len(self.shares) != len(self.average):
            found = f"{len(self.shares)} of {len(self.average)} in run {self.name!r}"
            raise SettingError("a share for each of the averaged runs", found, _HINT)
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", self.name):
            raise SettingError("a run name of small letters, digits and -", repr(self.name), _HINT)

    @property
    def cpu_minutes(self) -> float:
        return sum(stage.cpu_minutes for stage in self.stages)


@dataclass(frozen=True, slots=True)
class TrainingPlan(SettingsSection):
    """What `egm train nano` does: runs in order, then the comparison of its arms.

    Attributes:
        runs: each comes after the one it starts from.
        arms: runs whose checkpoints are compared; all have had the same budget, counted from the plan's first weights.
        count: held-out scenes per suite.
        seed: of weights and of the training scenes, 0-11 (the seeds of held-out scenes lie above).
        shape: model dimensions.
        gate_error: mean absolute coordinate error (of 1000) below which the curriculum adds an object.
        checkpoint_seconds: wall time between checkpoints.
        score_seconds: wall time between small held-out checks.
        validate_count: scenes per kind of question in such a check.
        workers: processes that draw scenes ahead of a GPU; 0 draws them in the training process.
        adopt: checkpoint whose weights the runs without a `start` begin with, "" for random ones; a shipped name will do.
            Rows of the embedding table are taken over by their token.
        frames: share of batches per frame size, "WxH" pixels -> share.
        recipe: the whole course in a few sentences, Markdown, for the card.
    """

    runs: tuple[RunConfig, ...]
    arms: tuple[str, ...]
    count: Annotated[int, Field(ge=4)] = 2000
    seed: Annotated[int, Field(ge=0, le=11)] = 1
    shape: NanoShape = field(default_factory=NanoShape)
    gate_error: NonNegativeFloat = 45.0
    checkpoint_seconds: NonNegativeFloat = 180.0
    score_seconds: NonNegativeFloat = 480.0
    validate_count: PositiveInt = 64
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    adopt: str = ""
    frames: dict[str, float] = field(default_factory=lambda: {"256x192": 0.72, "288x160": 0.15, "192x192": 0.13})
    recipe: str = ""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise SettingError("runs that build on each other and comparable arms", "; ".join(problems), _HINT)

    def run(self, name: str) -> RunConfig:
        return next(run for run in self.runs if run.name == name)

    def lineage(self, name: str) -> tuple[RunConfig, ...]:
        """The runs that lead to this one's weights, each once, after those it comes from (an average: all that it averages)."""
        run = self.run(name)
        before = run.average or ((run.start,) if run.start else ())
        found = {earlier.name: earlier for parent in before for earlier in self.lineage(parent)}
        return (*found.values(), run)


def _problems(plan: TrainingPlan) -> list[str]:
    problems: list[str] = []
    known: list[str] = []
    for run in plan.runs:
        if run.name in known:
            problems.append(f"two runs named {run.name}")
        if run.start is not None and run.start not in known:
            problems.append(f"{run.name} starts from {run.start!r}, which is no run before it")
        problems += [f"{run.name} averages {name!r}, which is no run before it" for name in run.average if name not in known]
        if run.shares and not plan.adopt:
            problems.append(f"{run.name} has shares, which count from adopted weights, and nothing is adopted")
        known.append(run.name)
    problems += [f"arm {name!r} is no run" for name in plan.arms if name not in known]
    if not plan.arms:
        problems.append("no arms")
    if not problems:
        spent = {name: round(sum(run.cpu_minutes for run in plan.lineage(name)), 3) for name in plan.arms}
        if len(set(spent.values())) > 1:
            problems.append(f"arms of unequal CPU minutes: {spent}")
    return problems


def load_plan(path: Path) -> TrainingPlan:
    """Read a YAML file.

    Raises:
        ConfigError: naming everything wrong at once, with its line.
    """
    return load_yaml(TrainingPlan, path)


def smoke(plan: TrainingPlan, cpu_minutes: float = 0.1) -> TrainingPlan:
    """The same runs on drawn scenes, every stage cut to `cpu_minutes`: proves the path, not the model."""

    def short(stage: TrainingStage) -> TrainingStage:
        grpo = replace(stage.grpo, group=4, max_new_tokens=32, validate_steps=4) if stage.grpo else None
        return replace(
            stage, cpu_minutes=cpu_minutes, images=min(stage.images, 8), warmup_steps=10, household=0.0, solid=0.0, grpo=grpo
        )

    arms = {name: len([s for run in plan.lineage(name) for s in run.stages]) for name in plan.arms}
    most = max(arms.values())
    runs = []
    for run in plan.runs:
        stages = tuple(short(stage) for stage in run.stages)
        if stages and run.name in arms:
            # The last stage makes up for what a shorter way leaves: arms stay comparable.
            stages = (*stages[:-1], replace(stages[-1], cpu_minutes=cpu_minutes * (1 + most - arms[run.name])))
        runs.append(replace(run, stages=stages))
    return replace(plan, runs=tuple(runs), count=16, validate_count=4, checkpoint_seconds=5.0)
