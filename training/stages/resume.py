"""Which checkpoint a killed run goes on from: the newest that was written to its end.

A mark is written into a checkpoint folder after everything else in it is on disk; a folder without it is thrown away.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from egm_edge.errors import CheckpointError
from training.stages.launch import is_main_process

MARK = "complete.json"
PREFIX = "checkpoint-"


def make_durable(directory: Path) -> None:
    """Flush every file under `directory`, and the directory itself, to the disk."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class MarkComplete(TrainerCallback):
    """Marks each saved checkpoint complete, with the hash of the configuration it belongs to."""

    def __init__(self, config_hash: str) -> None:
        self.config_hash = config_hash

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        directory = Path(args.output_dir) / f"{PREFIX}{state.global_step}"
        make_durable(directory)
        beside = directory / f".{MARK}.tmp"
        beside.write_text(json.dumps({"step": state.global_step, "config": self.config_hash}))
        make_durable(directory)
        os.replace(beside, directory / MARK)


def resume_from(output: Path, config_hash: str) -> Path | None:
    """The newest complete checkpoint of a run directory, or None; incomplete ones are deleted by the main process.

    Raises:
        CheckpointError: it was written under other settings.
    """
    steps = sorted((int(p.name.removeprefix(PREFIX)), p) for p in output.glob(f"{PREFIX}*") if _is_step(p))
    complete = [path for _, path in steps if (path / MARK).is_file()]
    if is_main_process():
        for _, path in steps:
            if path not in complete:
                shutil.rmtree(path, ignore_errors=True)
    if not complete:
        return None
    newest = complete[-1]
    written_under = json.loads((newest / MARK).read_text()).get("config")
    if written_under != config_hash:
        raise CheckpointError(
            f"{newest} written under the same settings",
            f"settings {str(written_under)[:12]} instead of {config_hash[:12]}",
            "restore them, or choose another run.output",
        )
    return newest


def _is_step(path: Path) -> bool:
    return path.is_dir() and path.name.removeprefix(PREFIX).isdigit()
