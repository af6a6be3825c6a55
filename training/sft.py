"""`egm train sft CONFIG`: reasoning SFT with TRL's SFTTrainer, resumable, on one process or many (torchrun, deepspeed)."""

from __future__ import annotations

import logging
from pathlib import Path

from training.stage_config import SftConfig, load_sft
from training.stages.launch import quiet_offline

log = logging.getLogger("egm.train")


def main(argv: list[str]) -> int:
    """Run the stage; returns the exit code."""
    quiet_offline()
    from training.stages.session import stage_main

    return stage_main("egm train sft", argv, lambda name, overrides: run_sft(load_sft(name, overrides)))


def run_sft(config: SftConfig) -> Path:
    """Train and return the directory of the finished checkpoint.

    Raises:
        EgmError: bad data, a missing checkpoint, a failed step-0 check, a launch that does not do what was asked.
    """
    quiet_offline()
    from training.stages.session import FINAL, open_session, train

    session = open_session("sft", config, max_tokens=config.max_tokens)
    if session is None:
        log.info("already finished")
        return Path(config.run.output) / FINAL
    from trl import SFTConfig, SFTTrainer

    from training.stages.guard import Guarded

    class GuardedSft(Guarded, SFTTrainer):
        """SFTTrainer that stops at a loss that is no number."""

    from training.checks import check_step_zero
    from training.stages.model import lora_config
    from training.stages.samples import SftCollator, sft_dataset

    check_step_zero(session)
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
    trainer = GuardedSft(
        model=session.model,
        args=arguments,
        data_collator=SftCollator(session.processor, session.images),
        train_dataset=sft_dataset(session.rows),
        eval_dataset=sft_dataset(session.validation) if evaluate else None,
        processing_class=session.processor,
        callbacks=session.callbacks(),
        peft_config=lora_config(config.lora, config.model.train),
    )
    return train(session, trainer)
