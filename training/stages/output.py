"""The finished checkpoint: a plain Hugging Face directory, put in place in one step, with its card and its hashes.

A kill at any moment leaves the directory as it was, or complete and new.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from egm_edge import __version__
from egm_edge.errors import CheckpointError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.files import make_durable, take_place, write_json
from egm_edge.pixels import PixelSpec
from training.stages.measure import Measured
from training.stages.processor import EgmProcessor
from training.typed_yaml import dotted

RECORD = "egm_training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What made a checkpoint; `egm_training.json` beside the weights.

    Attributes:
        stage: "sft" or "grpo"; task: "modal" or "amodal".
        base: the checkpoint it started from.
        config_hash: of every setting.
        pixel_spec_hash, prompt_spec_hash: what it was trained with and must be run with.
        rows, steps, seconds: amount of training.
        wrapped: class that the model was trained in ("DeepSpeedEngine", …).
        processes, device: where.
        measured: on validation rows, None when there were none.
    """

    stage: str
    task: str
    base: str
    config_hash: str
    pixel_spec_hash: str
    prompt_spec_hash: str
    rows: int
    steps: int
    seconds: float
    wrapped: str
    processes: int
    device: str
    measured: Measured | None = None


def finished_under(final: Path, config_hash: str) -> bool:
    """True when `final` is a complete result of these very settings."""
    try:
        return bool(json.loads((final / RECORD).read_text())["config_hash"] == config_hash)
    except (OSError, ValueError, KeyError):
        return False


def write_weights(
    directory: Path, model: PreTrainedModel, state: dict[str, torch.Tensor] | None, dtype: torch.dtype
) -> None:
    """Weights in `dtype` and config.json; `state` holds them when a distributed engine owns the model's parameters."""
    if state is not None:
        # A fresh model re-ties what is tied; the gathered tensors alone would not say so.
        fresh = type(model)(model.config)
        missing, unexpected = fresh.load_state_dict(state, strict=False)
        lost = [name for name in missing if "lm_head" not in name]
        if lost or unexpected:
            found = f"missing {lost[:3]}, unknown {unexpected[:3]}"
            raise CheckpointError("all weights from the training engine", found, "report this")
        fresh.tie_weights()
        model = fresh
    model.to(dtype).save_pretrained(directory)


def write_record(directory: Path, record: TrainingRecord, settings: dict[str, Any]) -> None:
    """The record and the card made from it."""
    write_json(directory / RECORD, asdict(record))
    (directory / "README.md").write_text(model_card(record, settings), encoding="utf-8")


def verify(directory: Path, processor: EgmProcessor) -> None:
    """The written directory asks for the same pixels and prompts as the one trained from.

    Raises:
        CheckpointError: it does not.
    """
    pairs = {
        "PixelSpec": (processor.pixel_spec.hash, PixelSpec.from_checkpoint(directory).hash),
        "PromptSpec": (processor.prompt_spec.hash, read_prompt_spec(directory).hash),
    }
    for name, (trained, written) in pairs.items():
        if trained != written:
            found = f"{written[:12]} in {directory}"
            raise CheckpointError(f"{name} {trained[:12]}, as trained with", found, "report this")


def publish(new: Path, final: Path) -> None:
    """Give `new` the name `final`; what was there is deleted afterwards."""
    make_durable(new)
    take_place(new, final)
    shutil.rmtree(new, ignore_errors=True)


def model_card(record: TrainingRecord, settings: dict[str, Any]) -> str:
    """README.md of a checkpoint: only numbers that were measured, or the words that none were."""
    measured = "No validation rows were given, so nothing was measured."
    if (values := record.measured) is not None:
        low, high = values.interval
        measured = (
            f"| rows | Acc@0.5 (95 % interval) | mean IoU | readable answers | tokens an answer |\n|---|---|---|---|---|\n"
            f"| {values.count} | {values.accuracy:.3f} ({low:.3f}-{high:.3f}) | {values.mean_iou:.3f} | "
            f"{values.parse_rate:.3f} | {values.mean_tokens:.1f} |\n\n"
            "Greedy decoding with transformers on `val` rows; Acc@0.5 counts IoU > 0.5."
        )
    steps = f"{record.steps} steps on {record.rows} rows, {record.seconds:.0f} s, {record.processes} processes"
    versions = f"egm-edge {__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    listed = "\n".join(f"| `{key}` | {value} |" for key, value in dotted(settings).items())
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [visual-grounding, egm]\n---\n\n"
        f"# {Path(record.base).name} after {record.stage.upper()}, {record.task} grounding\n\n"
        f"Started from `{record.base}`. {steps} on {record.device}, in a `{record.wrapped}`.\n\n"
        f"## Measured\n\n{measured}\n\n"
        f"## Contracts\n\nPixelSpec `{record.pixel_spec_hash}`\n\nPromptSpec `{record.prompt_spec_hash}`\n\n"
        f"Running it with other pixels or prompts gives other boxes; `egm build` carries both along.\n\n"
        f"## Settings\n\n| setting | value |\n|---|---|\n{listed}\n\n{versions}.\n"
    )


def device_name() -> str:
    """The accelerator, or the processor's architecture."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else f"CPU ({platform.machine()})"
