"""Which checkpoint a killed run goes on from: the newest that was written to its end.

A mark is written into a checkpoint folder after everything else in it is on disk; a folder without it is thrown away. The
mark holds the settings that change the result, so that a run under others is refused by their names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from egm_edge.errors import CheckpointError
from egm_edge.files import make_durable, whole_file
from training.stage_config import GrpoConfig, SftConfig
from training.stages.process import is_main_process
from training.typed_yaml import dotted, result_settings

MARK = "complete.json"
PREFIX = "checkpoint-"


class MarkComplete(TrainerCallback):
    """Marks each saved checkpoint complete, with the settings that it belongs to."""

    def __init__(self, config: SftConfig | GrpoConfig) -> None:
        self.values = {"settings": result_settings(config), "deepspeed": config.run.deepspeed}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        directory = Path(args.output_dir) / f"{PREFIX}{state.global_step}"
        make_durable(directory)
        with whole_file(directory / MARK) as stream:
            stream.write(json.dumps({"step": state.global_step, **self.values}))


def resume_from(output: Path, config: SftConfig | GrpoConfig) -> Path | None:
    """The newest complete checkpoint of a run directory, or None; incomplete ones are deleted by the main process.

    Raises:
        CheckpointError: it was written under settings that give another result, or by another kind of ZeRO, whose
            optimiser state only that kind can read.
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
    mark = json.loads((newest / MARK).read_text())
    before, now = dotted(mark.get("settings", {})), dotted(json.loads(json.dumps(result_settings(config))))
    both = {**now, **before}
    changed = [f"{key} {before.get(key)} -> {now.get(key)}" for key in both if before.get(key) != now.get(key)]
    if mark.get("deepspeed") != config.run.deepspeed:
        changed.append(f"run.deepspeed {mark.get('deepspeed')} -> {config.run.deepspeed}")
    if changed:
        raise CheckpointError(
            f"{newest} written under the same settings",
            ", ".join(changed[:4]),
            "restore them, or choose another run.output",
        )
    return newest


def _is_step(path: Path) -> bool:
    return path.is_dir() and path.name.removeprefix(PREFIX).isdigit()
