"""RunState: everything a killed training run needs to go on, saved by atomic rename. Knows nothing of losses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from egm_edge.data.jsonl import read_objects
from egm_edge.errors import CheckpointError, message_of
from egm_edge.files import whole_file


@dataclass(slots=True)
class TrainingProgress:
    """How far a run is.

    Attributes:
        stage: index of the current stage.
        step: steps done in all; decides the next batch.
        stage_step: steps done in this stage.
        stage_cpu_s: CPU seconds spent in this stage (on a GPU: wall time).
        total_cpu_s: CPU seconds spent in all, runs before this one included.
        scenes, queries: seen so far.
        most_objects: the curriculum's present limit.
        error: running mean coordinate error, of 1000.
        gate_step: `stage_step` at which the limit last changed.
    """

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    stage_cpu_s: float = 0.0
    total_cpu_s: float = 0.0
    scenes: int = 0
    queries: int = 0
    most_objects: int = 0
    error: float = 400.0
    gate_step: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a training run took.

    Attributes:
        cpu_minutes: CPU time of the training process, one thread.
        scenes, queries: seen in training.
        stages: "name minutes" of every stage.
    """

    cpu_minutes: float
    scenes: int
    queries: int
    stages: str


def cost_of(*logs: Path) -> Cost | None:
    """What a run and those before it took, from their logs, first to last; None when there is none."""
    minutes: dict[tuple[Path, str], float] = {}
    last: dict[str, float] = {}
    for log in logs:
        for _, values in read_objects(log, []):  # a line that a kill cut short is passed over
            if "stage_cpu_s" in values and isinstance(values["stage"], str):
                minutes[log, values["stage"]] = values["stage_cpu_s"] / 60
                last = values
    if not last:
        return None
    stages = ", ".join(f"{name} {spent:.0f}" for (_, name), spent in minutes.items())
    return Cost(last["total_cpu_s"] / 60, int(last["scenes"]), int(last["queries"]), stages)


def save_state(path: Path, progress: TrainingProgress, tensors: dict[str, Any]) -> None:
    """Write the progress and tensors of a run."""
    save_atomically(path, {"progress": asdict(progress), **tensors})


def save_atomically(path: Path, values: dict[str, Any]) -> None:
    """Write beside, sync, rename: a kill leaves the old file or the new one."""
    with whole_file(path, "wb") as stream:
        torch.save(values, stream)


def load_state(path: Path) -> tuple[TrainingProgress, dict[str, Any]] | None:
    """The saved state, or None when there is none.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        values = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise CheckpointError(
            f"a training state in {path}", message_of(error), "delete it to start over"
        ) from error
    return TrainingProgress(**values.pop("progress")), values


def restart(path: Path) -> tuple[TrainingProgress, dict[str, Any]]:
    """The final state of the run that another one starts from: counters of its stages at zero, no optimizer.

    Raises:
        CheckpointError: there is none.
    """
    saved = load_state(path)
    if saved is None:
        raise CheckpointError(f"a finished run's state in {path}", "no such file", "train the run it belongs to first")
    progress, tensors = saved
    begun = replace(progress, stage=0, stage_step=0, stage_cpu_s=0.0, gate_step=0, most_objects=0)
    return begun, tensors | {"optimizer": None}


def carry(state: Path, path: Path) -> None:
    """Write a run's state, optimizer left out, as one safetensors file (under 15 MB) for another machine.

    Raises:
        CheckpointError: there is no state.
    """
    saved = load_state(state)
    if saved is None:
        raise CheckpointError(f"a run's state in {state}", "no such file", "name a run that has begun")
    progress, tensors = saved
    flat = {f"{part}.{name}": value for part in ("model", "heads") for name, value in tensors[part].items()}
    flat.pop("model.lm_head.weight", None)  # tied to the embedding table
    with whole_file(path, "wb") as stream:
        stream.write(save(flat, {"progress": json.dumps(asdict(progress))}))


def carried(path: Path) -> tuple[TrainingProgress, dict[str, Any]]:
    """What `carry` wrote; the optimizer starts anew.

    Raises:
        CheckpointError: the file is not such a state.
    """
    try:
        with safe_open(path, "pt") as stream:
            progress = TrainingProgress(**json.loads((stream.metadata() or {})["progress"]))
            flat = {name: stream.get_tensor(name) for name in stream.keys()}
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"a carried training state in {path}", str(error), "write it with --carry") from error
    parts: dict[str, Any] = {"model": {}, "heads": {}, "optimizer": None}
    for name, value in flat.items():
        part, _, rest = name.partition(".")
        parts.get(part, {})[rest] = value
    parts["model"]["lm_head.weight"] = parts["model"].get("model.language_model.embed_tokens.weight")
    return progress, parts


def save_best(path: Path, score: float, model: nn.Module, *, fresh: bool) -> bool:
    """Keep the weights when no better ones are there; `fresh` forgets what is there. Returns whether they were kept."""
    if not fresh and path.exists() and torch.load(path, weights_only=True)["score"] >= score:
        return False
    save_atomically(path, {"score": score, "model": model.state_dict()})
    return True


def take_best(path: Path, model: nn.Module) -> float:
    """Load the kept weights; returns their score."""
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    return float(kept["score"])
