"""Validation of GRPO: greedy answers to `val` rows before the first step and every `run.eval_steps`, the best weights kept.

OUTPUT/validation.jsonl   one line a look: step, reward, accuracy, mean_iou, parse_rate, mean_tokens, count
OUTPUT/validation.svg     the same as curves
OUTPUT/best/              the checkpoint with the highest reward so far, as complete as `final`
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from egm_edge.data.jsonl import read_objects
from egm_edge.files import whole_file
from training.rewards.registry import weighted_reward
from training.stage_config import GrpoConfig
from training.stages.measure import Measured, score_answers, summarise
from training.stages.output import publish
from training.stages.process import is_main_process

if TYPE_CHECKING:
    from training.stages.session import TrainingSession

BEST, HISTORY, CURVE = "best", "validation.jsonl", "validation.svg"
log = logging.getLogger("egm.train")


class ValidateGreedy(TrainerCallback):
    """Looks at the validation rows; every process answers its share of them.

    Attributes:
        trainer: set before training begins.
    """

    def __init__(self, session: TrainingSession) -> None:
        assert isinstance(session.config, GrpoConfig)
        self.session, self.config = session, session.config
        self.trainer: Any = None
        self.history = session.output / HISTORY
        self.best = max((look["reward"] for look in read_history(self.history)), default=float("-inf"))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self.history.unlink(missing_ok=True)
            self.best = float("-inf")
            self._look(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.config.run.eval_steps == 0:
            self._look(state.global_step)

    def _look(self, step: int) -> None:
        measured = self._measure()
        values = {key: value for key, value in asdict(measured).items() if key != "reward"}
        self.trainer.log({f"eval/{key}": value for key, value in {"reward": measured.reward, **values}.items()})
        better = (measured.reward or 0.0) > self.best
        if is_main_process():
            log.info(
                "step %d validation: reward %.4f, Acc@0.5 %.3f, mean IoU %.3f, readable %.3f, %.1f tokens, %d rows%s",
                step, measured.reward, measured.accuracy, measured.mean_iou, measured.parse_rate, measured.mean_tokens,
                measured.count, "; the best so far" if better else "",
            )  # fmt: skip
            self.history.parent.mkdir(parents=True, exist_ok=True)
            with self.history.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, "reward": measured.reward, **values}) + "\n")
            draw_history(read_history(self.history), self.session.output / CURVE)
        if better:
            self.best = measured.reward or 0.0
            self._keep()

    def _measure(self) -> Measured:
        from trl.models import unwrap_model_for_generation

        session, accelerator = self.session, self.trainer.accelerator
        rows = session.validation[: self.config.run.card_samples]
        mine = rows[accelerator.process_index :: accelerator.num_processes]
        with unwrap_model_for_generation(self.trainer.model_wrapped, accelerator) as model:
            scores = score_answers(
                model, session.processor, mine, session.images, max_tokens=self.config.sampling.max_tokens,
                reward=weighted_reward(self.config.rewards, self.config.reward_settings),
            )  # fmt: skip
        return summarise(gather_object(scores))

    def _keep(self) -> None:
        from training.stages.session import gathered, write_checkpoint

        state = gathered(self.trainer)
        if is_main_process():
            new = self.session.output / f".{BEST}.new"
            write_checkpoint(self.session, self.trainer, state, new)
            publish(new, self.session.output / BEST)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The looks of a run in order of step; a step looked at twice counts once, as seen last."""
    looks = {look["step"]: look for _, look in read_objects(path, []) if {"step", "reward"} <= look.keys()}
    return [looks[step] for step in sorted(looks)]


def draw_history(looks: list[dict[str, Any]], path: Path) -> None:
    """Reward, accuracy, mean IoU and tokens over steps, as one SVG; nothing without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        return
    figure = matplotlib.figure.Figure(figsize=(7.0, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [look["step"] for look in looks]
    for key, label in (("reward", "reward"), ("accuracy", "Acc@0.5"), ("mean_iou", "mean IoU")):
        left.plot(steps, [look[key] for look in looks], marker="o", markersize=3, label=label)
    right.plot(steps, [look["mean_tokens"] for look in looks], marker="o", markersize=3, label="tokens an answer")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with whole_file(path) as stream:
        figure.savefig(stream, format="svg")
