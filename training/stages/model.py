"""The model of a stage: opened from a local directory, attention chosen, parts frozen. Never downloads anything."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from egm_edge._processor_config import reading_checkpoint
from egm_edge.errors import BackendError, CheckpointError
from training.stage_config import LoraSettings, ModelSettings

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Which parameters belong to which part, first match wins; deep-stack mergers stay with the tower, as upstream.
PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("projector", re.compile(r"(?:^|\.)(?:visual\.merger|multi_modal_projector)\.")),
    ("vision", re.compile(r"(?:^|\.)(?:visual|vision_tower)\.")),
    ("language_model", re.compile(r"(?:^|\.)(?:language_model|lm_head)\.")),
)
LORA_TARGETS = r".*language_model\..*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
LORA_PROJECTORS = ["merger", "multi_modal_projector"]


def checkpoint_directory(settings: ModelSettings) -> Path:
    """Where the model is.

    Raises:
        CheckpointError: not there; the message says where it comes from.
    """
    directory = Path(settings.base)
    if not (directory / "config.json").is_file():
        made_here = settings.source.startswith("egm ")
        fetch = settings.source if made_here else f"hf download {settings.source} --local-dir {settings.base}"
        hint = f"get it with: {fetch}" if settings.source else "check model.base"
        raise CheckpointError(f"a checkpoint in {directory}", "no config.json there", hint)
    return directory


def choose_attention(wanted: str, dtype: str) -> str:
    """The implementation to ask transformers for.

    transformers never falls back by itself, and with the package `kernels` it would download what is missing; so the
    package and a GPU that it runs on (compute capability 8.0, 16-bit weights) are looked for here.

    Raises:
        BackendError: flash_attention_2 was asked for by name and cannot run here.
    """
    possible = (
        importlib.util.find_spec("flash_attn") is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= (8, 0)
        and dtype in ("bfloat16", "float16")
    )
    if wanted == "auto":
        return "flash_attention_2" if possible else "sdpa"
    if wanted == "flash_attention_2" and not possible:
        raise BackendError(
            "flash-attn, a GPU of compute capability 8.0 or newer and 16-bit weights for flash_attention_2",
            "not all of them",
            "set model.attention: auto",
        )
    return wanted


def load_model(directory: Path, settings: ModelSettings, *, full_precision: bool = False) -> PreTrainedModel:
    """The model with only the named parts learning.

    Args:
        full_precision: keep float32 weights, for optimisers without a float32 copy of their own: a step of 1e-5 is lost in
            a bfloat16 weight. The forward pass still runs in `settings.dtype`.
    """
    with reading_checkpoint(f"a checkpoint that transformers opens in {directory}"):
        model = AutoModelForImageTextToText.from_pretrained(
            directory,
            dtype=torch.float32 if full_precision else DTYPES[settings.dtype],
            attn_implementation=choose_attention(settings.attention, settings.dtype),
            local_files_only=True,
            use_safetensors=True,
        )
    freeze(model, settings.train)
    return model


def freeze(model: nn.Module, train: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Let only the parts in `train` learn; returns part -> (learning, frozen) parameter counts.

    Raises:
        CheckpointError: a parameter that belongs to no known part.
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = next((part for part, pattern in PARTS if pattern.search(name)), None)
        if part is None:
            raise CheckpointError("parameters of a Qwen3-VL or InternVL3 model", name, "report this architecture")
        parameter.requires_grad_(part in train)
        learning, frozen = counts.get(part, (0, 0))
        size = parameter.numel()
        counts[part] = (learning + size, frozen) if part in train else (learning, frozen + size)
    return counts


def lora_config(settings: LoraSettings, train: tuple[str, ...]) -> Any:
    """PEFT's configuration, or None when LoRA is off.

    Raises:
        BackendError: PEFT is not installed.
    """
    if not settings.rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise BackendError("the package peft for LoRA", "not installed", "pip install peft") from None
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=LORA_TARGETS,
        modules_to_save=LORA_PROJECTORS if "projector" in train else None,
        task_type="CAUSAL_LM",
    )
