"""train: run the stages of a NanoConfig, checkpointing as it goes; calling it again goes on where it stopped.

Reads top to bottom: set up, step, log, save. Budgets are CPU time of this process, so a busy machine trains as long as an
idle one.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from training.nano.auxiliary import AuxiliaryHeads, AuxiliaryLoss, auxiliary_loss, soft_targets
from training.nano.build import fresh_model, save_checkpoint
from training.nano.config import NanoConfig, Stage
from training.nano.data import make_batch
from training.nano.evaluate import answers, by_kind, make_cases, wrap
from training.nano.losses import RowLoss, row_loss
from training.nano.state import Progress, load_state, save_state

log = logging.getLogger("egm.train.nano")

_SEED_STRIDE = 1_000_000
_GATE_REST_STEPS = 150
_DENSE_WEIGHT = 0.3


class Run:
    """One training run in a directory: `state.pt` to go on from, `checkpoint/` to use, `log.jsonl` to read."""

    def __init__(self, config: NanoConfig, out: Path) -> None:
        self.config, self.out = config, out
        out.mkdir(parents=True, exist_ok=True)
        self.model = fresh_model(config.shape, config.seed)
        self.heads = AuxiliaryHeads(config.shape.vision_width, config.shape.width)
        self.progress = Progress()
        saved = load_state(out / "state.pt")
        if saved:
            self.progress, tensors = saved
            self.model.load_state_dict(tensors["model"])
            self.heads.load_state_dict(tensors["heads"])
        self.fast = wrap(self.model)
        self.optimizer = self._optimizer()
        if saved and tensors["optimizer"] is not None:
            self.optimizer.load_state_dict(tensors["optimizer"])
        self.clock = time.process_time()
        self.saved_at = self.logged_at = self.scored_at = time.monotonic()
        self.recent: list[dict[str, float]] = []
        self.stopping = False

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def run(self) -> None:
        """Train until every stage's budget is spent, then write the final checkpoint. SIGTERM saves and stops."""
        signal.signal(signal.SIGTERM, self._stop)
        while not self.stopping and self.progress.stage < len(self.config.stages):
            stage = self.config.stages[self.progress.stage]
            if self.progress.stage_cpu_s >= stage.cpu_minutes * 60:
                self._next_stage()
                continue
            self._step(stage)
            now = time.monotonic()
            if now - self.logged_at > 20:
                self._log(stage)
                self.logged_at = now
            if now - self.saved_at > self.config.checkpoint_seconds:
                self.save()
                self.saved_at = now
        self.save()

    def save(self) -> None:
        """State first, then the usable checkpoint; both by rename."""
        tensors = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(self.out / "state.pt", self.progress, tensors)
        save_checkpoint(self.model, self.out / "checkpoint")
        if time.monotonic() - self.scored_at > self.config.score_seconds:
            self._quick_score()
            self.scored_at = time.monotonic()
        self._account()

    def _step(self, stage: Stage) -> None:
        progress = self.progress
        share = min(1.0, progress.stage_cpu_s / (stage.cpu_minutes * 60))
        most = self._most_objects(stage)
        seed = self.config.seed * _SEED_STRIDE + progress.step
        batch = make_batch(self.config, stage, seed, most, share)
        sigma = stage.sigma[0] + (stage.sigma[1] - stage.sigma[0]) * share
        soft = soft_targets(sigma)
        learns_vision = stage.vision_lr > 0
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(learns_vision):
                seen = self.fast.vision(batch.patches, batch.grid_hw)
            prefix = self.fast.prefix(seen, batch.grid_hw) if batch.groups else None
            rows = row_loss(self.fast, prefix, batch.groups, soft) if prefix else None
        table = self.fast.text.embed_tokens.weight
        dense = auxiliary_loss(self.heads, seen, batch.dense, batch.grid_hw, table, soft) if learns_vision else None
        total = torch.zeros(())
        if rows:
            total = total + rows.total
        if dense:
            total = total + (_DENSE_WEIGHT if rows else 1.0) * dense.total
        self._set_rates(stage, share)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        progress.step += 1
        progress.stage_step += 1
        progress.scenes += stage.images
        progress.queries += sum(len(group.ids) for group in batch.groups)
        if rows:
            progress.error += 0.03 * (rows.coordinate_error - progress.error)
        self.recent.append(_measures(rows, dense, float(norm)))
        self._account()

    def _account(self) -> None:
        now = time.process_time()
        self.progress.stage_cpu_s += now - self.clock
        self.progress.total_cpu_s += now - self.clock
        self.clock = now

    def _most_objects(self, stage: Stage) -> int:
        progress = self.progress
        if not stage.gate:
            return stage.objects[1]
        if not progress.most_objects:
            progress.most_objects = stage.objects[0] + 1
        rested = progress.stage_step - progress.gate_step > _GATE_REST_STEPS
        if rested and progress.error < self.config.gate_error and progress.most_objects < stage.objects[1]:
            progress.most_objects += 1
            progress.gate_step = progress.stage_step
            log.info("curriculum: up to %d objects (coordinate error %.0f)", progress.most_objects, progress.error)
        return progress.most_objects

    def _set_rates(self, stage: Stage, share: float) -> None:
        warm = min(1.0, (self.progress.stage_step + 1) / max(1, self.config.warmup_steps))
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

    def _next_stage(self) -> None:
        self.save()
        self.progress.stage += 1
        self.progress.stage_step = self.progress.gate_step = 0
        self.progress.stage_cpu_s = 0.0
        self.optimizer = self._optimizer()
        self.recent = []

    def _log(self, stage: Stage) -> None:
        means = {
            key: sum(r[key] for r in self.recent if key in r) / max(1, sum(key in r for r in self.recent))
            for key in set().union(*self.recent)
        }
        self.recent = []
        progress = self.progress
        line = f"{stage.name} {progress.stage_cpu_s / 60:.1f}/{stage.cpu_minutes:g} CPU-min, step {progress.step}"
        line += f", {progress.scenes} scenes, {progress.queries} queries"
        if stage.queries:
            line += f", <= {self._most_objects(stage)} objects"
        log.info("%s: %s", line, ", ".join(f"{key} {value:.3g}" for key, value in sorted(means.items())))
        self._write({**asdict(progress), **means, "stage": stage.name})

    def _quick_score(self) -> None:
        """A small held-out check on seeds that the model card never uses."""
        if not self.progress.queries:
            return
        scores: dict[str, float] = {}
        for name, objects, kinds in (
            ("1-3 attribute", (1, 3), ("attribute",)),
            ("3-6 all", (3, 6), ("attribute", "superlative", "ordinal", "relation")),
        ):
            cases = make_cases(64, objects, kinds, first_seed=800_000_000)
            result = by_kind(cases, answers(self.fast, cases))
            scores |= {f"{name}: {kind}": value.accuracy for kind, value in result.items()}
        log.info("held-out Acc@0.5: %s", ", ".join(f"{k} {v:.2f}" for k, v in scores.items()))
        self._write({"held_out": scores, **asdict(self.progress)})

    def _write(self, values: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(values) + "\n")


def _measures(rows: RowLoss | None, dense: AuxiliaryLoss | None, norm: float) -> dict[str, float]:
    values = {"gradient": norm}
    if rows:
        values |= {"loss": rows.total.item(), "coordinate error": rows.coordinate_error, "words": rows.word_accuracy}
    if dense:
        values |= {
            "dense": dense.total.item(),
            "shape": dense.shape_accuracy,
            "IoU": dense.iou,
            "align": dense.align_error,
        }
    return values


def train(config: NanoConfig, out: Path) -> Path:
    """Train (or go on training) in `out`; returns the checkpoint directory."""
    torch.set_num_threads(1)
    disable_progress_bar()
    Run(config, out).run()
    return out / "checkpoint"
