"""A checkpoint's config.json and end tokens, value by value: what a build or a server computes with is of its kind and in range.

Every error is one line that names the key. Shapes and names of tensors are `checkpoint_contents`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from build_engine.checkpoint import Checkpoint
from egm_edge.errors import CheckpointError

MAX_COUNT = 1 << 31
_AGAIN = "copy config.json from the released checkpoint"
_TEXT_COUNTS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings",
)  # fmt: skip
_VISION_COUNTS: Mapping[str, tuple[str, ...]] = {
    "qwen3_vl": (
        "hidden_size", "intermediate_size", "depth", "num_heads", "patch_size", "temporal_patch_size", "spatial_merge_size",
        "num_position_embeddings",
    ),
    "internvl3": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
}  # fmt: skip


def require_settings(checkpoint: Checkpoint) -> None:
    """Check the values that anything is computed with.

    Raises:
        CheckpointError: one is missing, of another kind or out of range.
    """
    text, vision = checkpoint.text_config, checkpoint.vision_config
    for key in _TEXT_COUNTS:
        count(text, key)
    for key in ("num_key_value_heads", "head_dim"):
        if text.get(key) is not None:
            count(text, key)
    for key in _VISION_COUNTS[checkpoint.family]:
        count(vision, key)
    if checkpoint.family == "internvl3":
        for key in ("image_size", "patch_size"):  # a number, or height and width
            for side in vision[key] if isinstance(vision[key], list) else (vision[key],):
                count({key: side}, key)
        _number(vision, "layer_norm_eps")
    heads = vision["num_heads" if checkpoint.family == "qwen3_vl" else "num_attention_heads"]
    if (width := vision["hidden_size"]) % heads:
        raise CheckpointError("hidden_size of vision_config a multiple of its heads", f"{width} and {heads}", _AGAIN)
    _number(text, "rms_norm_eps")
    for section in (checkpoint.config, text):
        _flag(section, "tie_word_embeddings")
    _require_rotary(checkpoint, text)
    if checkpoint.family == "qwen3_vl":
        _require_deepstack(vision.get("deepstack_visual_indexes"), int(vision["depth"]))
        _rotary(vision, "rope_parameters")
    generation = checkpoint.read_json_or_empty("generation_config.json")
    for where, section in (("generation_config.json", generation), ("text_config", text), ("config.json", checkpoint.config)):
        _require_tokens(section.get("eos_token_id"), f"eos_token_id of {where}", int(text["vocab_size"]))


def require_unquantized(checkpoint: Checkpoint) -> None:
    """Refuse settings that say the weights are quantized.

    Raises:
        CheckpointError: they do.
    """
    sections = {"config.json": checkpoint.config, "text_config": checkpoint.text_config, "vision_config": checkpoint.vision_config}
    for where, section in sections.items():
        for key in ("quantization_config", "compression_config"):
            if section.get(key):
                hint = "remove it, or use the unquantized checkpoint"
                raise CheckpointError(f"no {key} beside unquantized weights", f"one in {where}", hint)


def count(section: Mapping[str, Any], key: str) -> int:
    """A whole number of at least 1.

    Raises:
        CheckpointError: it is none.
    """
    value = section[key]
    if type(value) is not int or not 1 <= value < MAX_COUNT:
        raise CheckpointError(f"{key} as a whole number from 1", repr(value)[:80], _AGAIN)
    return value


def _number(section: Mapping[str, Any], key: str) -> None:
    """A finite number above 0, where it is stated."""
    value = section.get(key, 1.0)
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise CheckpointError(f"{key} as a number above 0", repr(value)[:80], _AGAIN)


def _flag(section: Mapping[str, Any], key: str) -> None:
    value = section.get(key, False)
    if type(value) is not bool and value is not None:
        raise CheckpointError(f"{key} as true or false", repr(value)[:80], _AGAIN)


def _rotary(section: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Rotary settings with a base above 0; none where none are stated."""
    rotary = {} if section.get(name) is None else section[name]
    if not isinstance(rotary, dict):
        raise CheckpointError(f"{name} as an object", f"a {type(rotary).__name__}", _AGAIN)
    for stated in (section, rotary):
        _number(stated, "rope_theta")
    return rotary


def _require_rotary(checkpoint: Checkpoint, text: Mapping[str, Any]) -> None:
    heads = int(text["num_attention_heads"])
    half = int(text.get("head_dim") or int(text["hidden_size"]) // heads) // 2
    for name in ("rope_parameters", "rope_scaling"):
        rotary = _rotary(text, name)
        if (share := rotary.get("partial_rotary_factor")) not in (None, 1):
            raise CheckpointError("partial_rotary_factor 1: whole heads are turned", repr(share)[:80], _AGAIN)
        if checkpoint.family == "qwen3_vl" and rotary.get("mrope_interleaved") is False:
            raise CheckpointError("mrope_interleaved true, as Qwen3-VL is computed", "false", _AGAIN)
        section = rotary.get("mrope_section")
        if section is None:
            continue
        whole = isinstance(section, list) and len(section) == 3 and all(type(n) is int and n >= 0 for n in section)
        if checkpoint.family != "qwen3_vl" or not whole or sum(section) != half:
            expected = f"mrope_section as three whole numbers that add up to {half}, half a head"
            if checkpoint.family != "qwen3_vl":
                expected = f"no mrope_section in a {checkpoint.family} decoder"
            raise CheckpointError(expected, repr(section)[:80], _AGAIN)


def _require_deepstack(indexes: Any, depth: int) -> None:
    indexes = [] if indexes is None else indexes
    inside = isinstance(indexes, list) and all(type(i) is int and 0 <= i < depth for i in indexes)
    if not inside or len(set(indexes)) != len(indexes):
        expected = f"deepstack_visual_indexes as different layers from 0 to {depth - 1}"
        raise CheckpointError(expected, repr(indexes)[:80], _AGAIN)


def _require_tokens(stated: Any, what: str, vocabulary: int) -> None:
    tokens: Sequence[Any] = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
        expected = f"{what} as a token id below {vocabulary} or a list of them"
        raise CheckpointError(expected, repr(stated)[:80], "copy it from the released checkpoint")
