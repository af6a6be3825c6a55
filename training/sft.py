"""`egm train sft CONFIG`: reasoning SFT with TRL's SFTTrainer, resumable, on one process or many (torchrun, deepspeed)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.stage_config import SftConfig, load_sft
from training.stages.stage import run_stage, stage_main

if TYPE_CHECKING:
    from transformers import Trainer

    from training.stages.session import TrainingSession


def main(argv: list[str]) -> int:
    """Run the stage; returns the exit code."""
    return stage_main("egm train sft", argv, lambda name, overrides: run_sft(load_sft(name, overrides)))


def run_sft(config: SftConfig) -> Path:
    """Train and return the directory of the finished checkpoint; errors as `training.stages.stage.run_stage`."""
    return run_stage("sft", config, _trainer, max_tokens=config.max_tokens)


def _trainer(session: TrainingSession) -> Trainer:
    from trl import SFTConfig, SFTTrainer

    from training.stages.guard import Guarded
    from training.stages.model import lora_config
    from training.stages.samples import SftCollator, sft_dataset

    class GuardedSft(Guarded, SFTTrainer):
        """SFTTrainer that stops at a loss that is no number."""

    config = session.config
    evaluate = bool(session.validation) and config.run.eval_steps > 0
    arguments = SFTConfig(
        **session.arguments(),
        max_length=None,  # rows that are too long were refused; cutting one would cut image tokens
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="steps" if evaluate else "no",
        eval_steps=config.run.eval_steps or None,
        per_device_eval_batch_size=config.run.batch_per_device,
    )
    return GuardedSft(
        model=session.model,
        args=arguments,
        data_collator=SftCollator(session.processor, session.images),
        train_dataset=sft_dataset(session.rows),
        eval_dataset=sft_dataset(session.validation) if evaluate else None,
        processing_class=session.processor,
        callbacks=session.callbacks(),
        peft_config=lora_config(config.lora, config.model.train),
    )
