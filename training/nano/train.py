"""Run: train one run of a TrainingPlan, checkpointing as it goes; calling it again goes on where it stopped.

Reads top to bottom: set up, step, log, save. Budgets are CPU time of this process, so a busy machine trains as long as an
idle one; on a GPU they are wall time.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from egm_edge.synthetic.household import build_sprites
from training.nano.auxiliary import AuxiliaryHeads
from training.nano.build import adopt_weights, fresh_model, save_checkpoint
from training.nano.config import RunConfig, TrainingPlan, TrainingStage
from training.nano.data import make_batch, make_questions
from training.nano.evaluate import wrap
from training.nano.feed import Feed
from training.nano.grpo import grpo_loss
from training.nano.state import TrainingProgress, carried, load_state, restart, save_best, save_state, take_best
from training.nano.supervised import StepLoss, supervised_loss
from training.nano.validate import Validation

log = logging.getLogger("egm.train.nano")

_SEED_STRIDE = 1_000_000
_GATE_REST_STEPS = 150
_LOG_SECONDS = 20


class Run:
    """One training run in a directory: `state.pt` to go on from, `checkpoint/` to use, `log.jsonl` to read.

    Args:
        plan, config: the plan and the run of it that this is.
        out: its directory.
        start: directory of the finished run it starts from.
        device: where the model lives.
        carried_from: a state of this very run from another machine, for when this one has none.
        wall_minutes: stop, with everything saved, after so long.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        config: RunConfig,
        out: Path,
        start: Path | None,
        device: torch.device,
        *,
        carried_from: Path | None = None,
        wall_minutes: float = math.inf,
    ) -> None:
        self.plan, self.config, self.out, self.device = plan, config, out, device
        out.mkdir(parents=True, exist_ok=True)
        self.model = fresh_model(plan.shape, plan.seed)
        self.heads = AuxiliaryHeads(plan.shape.vision_width, plan.shape.width)
        self.progress = TrainingProgress()
        self.wall_s = wall_minutes * 60
        saved = load_state(out / "state.pt")
        if saved is None and carried_from:
            saved = carried(carried_from)
        elif saved is None and start:
            saved = restart(start / "state.pt")
        if saved:
            self.progress, tensors = saved
            self.model.load_state_dict(tensors["model"])
            self.heads.load_state_dict(tensors["heads"])
        elif plan.adopt:
            adopt_weights(self.model, plan.adopt)
        self.model.to(device)
        self.heads.to(device)
        self.fast = wrap(self.model)
        self.optimizer = self._optimizer()
        if saved and tensors["optimizer"] is not None and not self.finished:
            self.optimizer.load_state_dict(tensors["optimizer"])
        asks_thoughts = any(stage.direct_share < 1 for stage in config.stages)
        household = any(stage.household or stage.solid for stage in config.stages)
        if household:
            build_sprites(solid=any(stage.solid for stage in config.stages))
        self.validation = Validation(plan.validate_count, reasoning=asks_thoughts, household=household)
        self.clock = self._now()
        self.began, self.began_cpu_s = time.monotonic(), self.progress.total_cpu_s
        self.saved_at = self.logged_at = self.scored_at = time.monotonic()
        self.recent: list[dict[str, float]] = []
        self.stopping = False
        self.feed: Feed[Any] = Feed(plan.workers)

    @property
    def finished(self) -> bool:
        return self.progress.stage >= len(self.config.stages)

    def run(self) -> bool:
        """Train until every stage's budget is spent; SIGTERM and SIGINT save and stop. Returns whether it is finished."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self.stopping and not self.finished:
                stage = self.config.stages[self.progress.stage]
                if self.progress.stage_cpu_s >= stage.cpu_minutes * 60:
                    self._next_stage(stage)
                    continue
                self._step(stage)
                now = time.monotonic()
                self.stopping |= now - self.began > self.wall_s
                if now - self.logged_at > _LOG_SECONDS:
                    self._log(stage)
                    self.logged_at = now
                if now - self.saved_at > self.plan.checkpoint_seconds:
                    self.save()
                    self.saved_at = now
            self.save()
        finally:
            self.feed.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.finished

    def save(self) -> None:
        """State first, then the usable checkpoint; both by rename."""
        tensors = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": None if self.finished else self.optimizer.state_dict(),
        }
        save_state(self.out / "state.pt", self.progress, tensors)
        save_checkpoint(self.model, self.out / "checkpoint")
        if self.progress.queries and time.monotonic() - self.scored_at > self.plan.score_seconds:
            self._validate(self.validation)
            self.scored_at = time.monotonic()
        self._account()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _step(self, stage: TrainingStage) -> None:
        progress = self.progress
        share = min(1.0, progress.stage_cpu_s / (stage.cpu_minutes * 60))
        if stage.grpo and progress.stage_step % stage.grpo.validate_steps == 0:
            self._keep_best()
        loss = self._loss(stage, share)
        norm = 0.0
        if loss.total is not None:
            self._set_rates(stage, share)
            self.optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
            weights = [w for group in self.optimizer.param_groups for w in group["params"]]
            norm = float(torch.nn.utils.clip_grad_norm_(weights, 1.0))
            self.optimizer.step()
        progress.step += 1
        progress.stage_step += 1
        progress.scenes += stage.images
        progress.queries += loss.queries
        if loss.coordinate_error is not None:
            progress.error += 0.03 * (loss.coordinate_error - progress.error)
        self.recent.append(loss.measures | {"gradient": norm})
        self._account()

    def _loss(self, stage: TrainingStage, share: float) -> StepLoss:
        base = self.plan.seed if self.config.seed is None else self.config.seed
        seed = base * _SEED_STRIDE + self.progress.step
        most = self._most_objects(stage)
        if stage.grpo:
            # The draws of a step hang on its number alone, so that a resumed run draws what an unbroken one would.
            generator = torch.Generator(self.device).manual_seed(seed)
            questions = self.feed.get(make_questions, (self.plan, stage, most), seed, share)
            return grpo_loss(self.fast, stage, questions.to(self.device), generator)
        batch = self.feed.get(make_batch, (self.plan, stage, most), seed, share)
        return supervised_loss(self.fast, self.heads, stage, batch.to(self.device), share)

    def _now(self) -> float:
        return time.process_time() if self.device.type == "cpu" else time.monotonic()

    def _account(self) -> None:
        now = self._now()
        self.progress.stage_cpu_s += now - self.clock
        self.progress.total_cpu_s += now - self.clock
        self.clock = now

    def _most_objects(self, stage: TrainingStage) -> int:
        progress = self.progress
        if not stage.gate:
            return stage.objects[1]
        if not progress.most_objects:
            progress.most_objects = stage.objects[0] + 1
        rested = progress.stage_step - progress.gate_step > _GATE_REST_STEPS
        if rested and progress.error < self.plan.gate_error and progress.most_objects < stage.objects[1]:
            progress.most_objects += 1
            progress.gate_step = progress.stage_step
            log.info("curriculum: up to %d objects (coordinate error %.0f)", progress.most_objects, progress.error)
        return progress.most_objects

    def _set_rates(self, stage: TrainingStage, share: float) -> None:
        warm = min(1.0, (self.progress.stage_step + 1) / max(1, stage.warmup_steps))
        fall = max(0.0, share - stage.decay_from) / max(1e-9, 1 - stage.decay_from)
        rate = stage.lr * warm * (1 - fall * (1 - stage.lr_end))
        for group, factor in zip(self.optimizer.param_groups, (stage.vision_lr, 1.0, 1.0), strict=True):
            group["lr"] = rate * factor

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW: vision tower, decoder, auxiliary heads. A frozen tower takes no gradient."""
        stage = self.config.stages[min(self.progress.stage, len(self.config.stages) - 1)]
        visual = list(self.model.model.visual.parameters())
        for weight in visual:
            weight.requires_grad_(stage.vision_lr > 0)
        groups = [
            {"params": visual},
            {"params": list(self.model.model.language_model.parameters())},
            {"params": list(self.heads.parameters())},
        ]
        return torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01)

    def _next_stage(self, stage: TrainingStage) -> None:
        if stage.grpo:
            self._keep_best()
            take_best(self.out / "best.pt", self.model)
        if self.recent:
            self._log(stage)
        self.progress.stage += 1
        self.progress.stage_step = self.progress.gate_step = 0
        self.progress.stage_cpu_s = 0.0
        self.optimizer = self._optimizer()
        self.recent = []
        self.save()

    def _keep_best(self) -> None:
        """Validate, and keep the weights when they are the best of this stage so far."""
        score = self._validate(self.validation)
        save_best(self.out / "best.pt", score, self.model, fresh=self.progress.stage_step == 0)

    def _validate(self, validation: Validation) -> float:
        self._account()
        scores = validation.scores(self.fast)
        self.clock = self._now()  # looking is no training: it is not charged to the budget
        log.info("%s: held-out Acc@0.5 %s", self.config.name, ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
        self._write({"held_out": scores, **asdict(self.progress)})
        return scores["mean"]

    def _log(self, stage: TrainingStage) -> None:
        means = {
            key: sum(r[key] for r in self.recent if key in r) / max(1, sum(key in r for r in self.recent))
            for key in set().union(*self.recent)
        }
        self.recent = []
        progress = self.progress
        line = f"{self.config.name}: {stage.name} {progress.stage_cpu_s / 60:.1f} of {stage.cpu_minutes:g} min"
        line += f", {self._left()}, step {progress.step}, {progress.queries:,} queries"
        if stage.gate:
            line += f", <= {self._most_objects(stage)} objects"
        log.info("%s: %s", line, ", ".join(f"{key} {value:.3g}" for key, value in sorted(means.items())))
        self._write({**asdict(progress), **means, "stage": stage.name})

    def _left(self) -> str:
        """When the run will be done, at the pace since this process began."""
        spent = max(1e-9, self.progress.total_cpu_s - self.began_cpu_s)
        pace = (time.monotonic() - self.began) / spent
        coming = sum(stage.cpu_minutes for stage in self.config.stages[self.progress.stage :])
        return f"about {max(0.0, coming - self.progress.stage_cpu_s / 60) * pace:.0f} min left"

    def _write(self, values: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(values) + "\n")


def prepare(device: str) -> torch.device:
    """Settle threads and device: "cpu", "cuda", or "auto" for a GPU when there is one."""
    disable_progress_bar()
    chosen = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if chosen.type == "cpu":
        # Two threads on tensors this small were 8 times slower than one on a busy machine.
        torch.set_num_threads(1)
    return chosen
