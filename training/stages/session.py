"""One training run from settings to finished checkpoint: what SFT and GRPO do alike, in the order in which it must happen."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, Trainer, TrainerCallback, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from egm_edge.data.readers import load_rows
from egm_edge.data.rows import Row
from egm_edge.errors import BackendError, InputError
from training.data.leaks import find_leaks
from training.data.splits import TRAIN, VALIDATION, require_split
from training.stage_config import GrpoConfig, SftConfig, config_hash
from training.stages.guard import memory_explained
from training.stages.launch import DeepSpeedProof, launch_arguments
from training.stages.measure import Measured, score_answers, summarise
from training.stages.model import DTYPES, checkpoint_directory, load_model
from training.stages.output import (
    TrainingRecord,
    device_name,
    finished_under,
    publish,
    verify,
    write_record,
    write_weights,
)
from training.stages.process import is_main_process
from training.stages.processor import EgmProcessor
from training.stages.resume import MarkComplete, resume_from
from training.stages.samples import require_usable
from training.stages.validation import ValidateGreedy

StageConfig = SftConfig | GrpoConfig
FINAL = "final"
log = logging.getLogger("egm.train")


@dataclass(slots=True)
class TrainingSession:
    """An opened run: everything the trainer is built from.

    Attributes:
        config, hash: the settings and their hash.
        base: directory of the checkpoint that is trained.
        rows, validation: training rows; `val` rows.
        images: root of their pictures.
        resume: complete checkpoint to go on from.
    """

    stage: str
    config: StageConfig
    hash: str
    base: Path
    processor: EgmProcessor
    model: PreTrainedModel
    rows: list[Row]
    validation: list[Row]
    images: Path
    output: Path
    resume: Path | None
    proof: DeepSpeedProof
    watchers: list[TrainerCallback] = field(default_factory=list)

    def callbacks(self) -> list[TrainerCallback]:
        """What watches the run. Call once; `train` gives the trainer to those that need it."""
        self.watchers = [MarkComplete(self.config), self.proof]
        if isinstance(self.config, GrpoConfig) and self.validation and self.config.run.eval_steps:
            self.watchers.append(ValidateGreedy(self))
        return self.watchers

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that SFTConfig and GRPOConfig share. Call after the model exists, never before."""
        run, optim, dtype = self.config.run, self.config.optim, self.config.model.dtype
        checkpointing = (
            {"gradient_checkpointing_kwargs": {"use_reentrant": False}} if run.gradient_checkpointing else {}
        )
        return {
            "output_dir": str(self.output),
            "num_train_epochs": run.epochs,
            "max_steps": run.max_steps or -1,
            "per_device_train_batch_size": run.batch_per_device,
            "gradient_accumulation_steps": run.accumulation,
            "learning_rate": optim.learning_rate,
            "lr_scheduler_type": optim.schedule,
            "warmup_steps": optim.warmup_steps or optim.warmup_ratio,  # a number below 1 is a share of all steps
            "weight_decay": optim.weight_decay,
            "adam_beta2": optim.adam_beta2,
            "max_grad_norm": optim.max_grad_norm,
            "bf16": dtype == "bfloat16",
            "fp16": dtype == "float16",
            "gradient_checkpointing": run.gradient_checkpointing,
            **checkpointing,
            "seed": run.seed,
            "data_seed": run.seed,
            "save_strategy": "steps",
            "save_steps": run.save_steps,
            # The one before must outlive the writing of the next.
            "save_total_limit": max(2, run.keep),
            "logging_steps": run.log_steps,
            "logging_nan_inf_filter": False,  # it would log a NaN loss as 0
            "report_to": list(run.reports) or "none",
            "remove_unused_columns": False,
            "dataloader_num_workers": run.workers,
            **launch_arguments(run.deepspeed, dtype, offload=run.offload),
        }


def open_session(stage: str, config: StageConfig, *, max_tokens: int) -> TrainingSession | None:
    """Check the data, open the checkpoint, find where to go on; None when this very run is finished already."""
    output, digest = Path(config.run.output), config_hash(config)
    for report in config.run.reports:
        if importlib.util.find_spec(report) is None:
            raise BackendError(f"the package {report} for run.reports", "not installed", f"pip install {report}")
    if finished_under(output / FINAL, digest):
        return None
    base = checkpoint_directory(config.model)
    processor = EgmProcessor(base)
    images = Path(config.data.images)
    rows = load_rows(Path(p) for p in config.data.train)
    require_split(rows, TRAIN, "data.train")
    require_usable(rows, processor, images, limit=max_tokens, with_answer=stage == "sft", task=config.task)
    validation = load_rows(Path(p) for p in config.data.validation)
    require_split(validation, VALIDATION, "data.validation")
    if validation:
        require_usable(validation, processor, images, limit=max_tokens, with_answer=False, task=config.task)
    leaks = find_leaks(rows, validation)
    if leaks.rows:
        raise InputError("no validation picture among the training rows", str(leaks), "run: egm data leaks")
    set_seed(config.run.seed)
    resume = resume_from(output, config)
    # DeepSpeed keeps float32 weights of its own, LoRA its adapters in float32.
    plain = config.run.deepspeed == "none" and not config.lora.rank
    model = load_model(base, config.model, full_precision=plain)
    return TrainingSession(
        stage, config, digest, base, processor, model, rows, validation, images, output, resume,
        DeepSpeedProof(config.run.deepspeed),
    )  # fmt: skip


def train(session: TrainingSession, trainer: Trainer) -> Path:
    """Train, then write the finished checkpoint; returns its directory."""
    for watcher in session.watchers:
        if hasattr(watcher, "trainer"):
            watcher.trainer = trainer
    # TRL writes a card of its own into every checkpoint; ours comes at the end, with measured numbers.
    trainer.create_model_card = lambda *_args, **_options: None
    started = time.monotonic()
    with memory_explained(_lower_memory(session.config)):
        trainer.train(resume_from_checkpoint=str(session.resume) if session.resume else None)
    seconds = time.monotonic() - started
    state = gathered(trainer) if session.proof.wrapped == "DeepSpeedEngine" else None
    # With ZeRO-3 still on, one process that builds a model would wait for the others to build it too.
    unset_hf_deepspeed_config()
    final = session.output / FINAL
    if is_main_process():
        _write(session, trainer, state, seconds, final)
    # The other processes need not wait: measuring may take longer than a collective's timeout.
    return final


def _lower_memory(config: StageConfig) -> str:
    """What to change when memory runs out, as far as it is not changed yet."""
    run, options = config.run, []
    if run.batch_per_device > 1:
        options.append(f"lower run.batch_per_device ({run.batch_per_device}) and raise run.accumulation alike")
    if not run.gradient_checkpointing:
        options.append("set run.gradient_checkpointing: true")
    if run.deepspeed != "zero3":
        options.append("set run.deepspeed: zero3")
    elif not run.offload:
        options.append("set run.offload: true")
    if isinstance(config, GrpoConfig):
        options.append(f"lower sampling.max_tokens ({config.sampling.max_tokens})")
        if config.rollouts.engine == "vllm":
            options.append(f"lower rollouts.gpu_memory ({config.rollouts.gpu_memory})")
    return ", ".join(options) + "; egm train plan shows where memory goes"


def gathered(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The whole model's weights, on the CPU; every process must call this."""
    state: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def _write(
    session: TrainingSession, trainer: Trainer, state: dict[str, torch.Tensor] | None, seconds: float, final: Path
) -> None:
    new = final.with_name(f".{FINAL}.new")
    write_checkpoint(session, trainer, state, new)
    record = TrainingRecord(
        stage=session.stage,
        task=session.config.task.value,
        base=session.config.model.base,
        config_hash=session.hash,
        pixel_spec_hash=session.processor.pixel_spec.hash,
        prompt_spec_hash=session.processor.prompt_spec.hash,
        rows=len(session.rows),
        steps=trainer.state.global_step,
        seconds=round(seconds, 1),
        wrapped=session.proof.wrapped,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
        device=device_name(),
        measured=_measured(session, new),
    )
    write_record(new, record, asdict(session.config))
    publish(new, final)


def write_checkpoint(
    session: TrainingSession, trainer: Trainer, state: dict[str, torch.Tensor] | None, new: Path
) -> None:
    """Weights, config and processor files of the model as it is now, into a new directory.

    Args:
        state: `gathered` weights. Without them the live model is converted and written: for the end of a run only.
    """
    shutil.rmtree(new, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        if state is not None:
            model, state = _merged(session, state), None
        else:
            model = model.merge_and_unload()
    write_weights(new, model, state, DTYPES[session.config.model.dtype])
    session.processor.save_pretrained(new)
    verify(new, session.processor)


def _measured(session: TrainingSession, directory: Path) -> Measured | None:
    """Numbers of the written checkpoint itself, loaded back from disk."""
    rows = session.validation[: session.config.run.card_samples]
    if not rows:
        return None
    model = AutoModelForImageTextToText.from_pretrained(directory, local_files_only=True, dtype="auto")
    model.to(session.model.device if torch.cuda.is_available() else "cpu")
    config = session.config
    limit = config.sampling.max_tokens if isinstance(config, GrpoConfig) else config.run.card_tokens
    return summarise(score_answers(model, EgmProcessor(directory), rows, session.images, max_tokens=limit))


def _merged(session: TrainingSession, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """LoRA weights that a distributed engine held, merged into a fresh copy of the base."""
    from peft import get_peft_model

    from training.stages.model import lora_config

    fresh = load_model(session.base, session.config.model)
    adapted = get_peft_model(fresh, lora_config(session.config.lora, session.config.model.train))
    adapted.load_state_dict(state, strict=False)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged
