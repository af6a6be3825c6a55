"""`egm inspect CHECKPOINT`: what a checkpoint is, read from its headers and settings; no weight is loaded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.checkpoint_facts import stop_ids, weight_licence
from build_engine.checkpoint_settings import require_settings
from build_engine.exporters.text_decoder import decoder_shape
from build_engine.hub import resolve_checkpoint
from egm_edge.cli.parser import Parser
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.pixels import PixelSpec

CAMERAS = ((640, 480), (1280, 720))


def main(argv: list[str]) -> int:
    """Run the verb on a checkpoint."""
    parser = Parser(prog="egm inspect", description="Show what a checkpoint is.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    facts = inspect_checkpoint(resolve_checkpoint(arguments.checkpoint))
    print(json.dumps(facts, ensure_ascii=False) + "\n" if arguments.json else describe(facts), end="")
    return 0


def inspect_checkpoint(directory: Path) -> dict[str, Any]:
    """Facts of a checkpoint, JSON-ready.

    Raises:
        CheckpointError: not a checkpoint of a family that is known, or damaged.
    """
    with Checkpoint(directory) as checkpoint:
        require_settings(checkpoint)
        shape, vision = decoder_shape(checkpoint), checkpoint.vision_config
        pixels, prompts = PixelSpec.from_checkpoint(directory), read_prompt_spec(directory)
        types = Counter(checkpoint.dtype(name) for name in checkpoint.names())
        quantized = checkpoint.config.get("quantization_config") or {}
        return {
            "family": checkpoint.family,
            "parameters": checkpoint.parameter_count(),
            "tensors": dict(types.most_common()),
            "quantization": quantized.get("quant_algo") or quantized.get("quant_method"),
            "decoder": {
                "layers": shape.layers,
                "hidden": shape.hidden,
                "heads": shape.heads,
                "kv_heads": shape.kv_heads,
                "head_dim": shape.head_dim,
                "vocabulary": shape.vocab,
                "positions": shape.max_positions,
                "tied_head": shape.tied_head,
            },
            "vision": {
                "layers": int(vision.get("depth") or vision["num_hidden_layers"]),
                "hidden": int(vision["hidden_size"]),
                "deepstack": list(vision.get("deepstack_visual_indexes") or []),
            },
            "pixel_spec": pixels.to_dict(),
            "pixel_spec_hash": pixels.hash,
            "image_tokens": {f"{width}x{height}": pixels.image_token_count(width, height) for width, height in CAMERAS},
            "prompt_spec_hash": prompts.hash,
            "answer_syntax": prompts.answer_syntax,
            "template_opens_a_thought": prompts.in_thought,
            "stop_token_ids": list(stop_ids(checkpoint)),
            "licence": weight_licence(checkpoint),
        }


def describe(facts: dict[str, Any]) -> str:
    """The facts for people."""
    decoder, vision = facts["decoder"], facts["vision"]
    rows = {
        "family": facts["family"],
        "parameters": f"{facts['parameters']:,}, stored as "
        + ", ".join(f"{kind} ({count} tensors)" for kind, count in facts["tensors"].items()),
        "quantized": facts["quantization"] or "no",
        "decoder": f"{decoder['layers']} layers, {decoder['hidden']} wide, {decoder['heads']} heads and {decoder['kv_heads']} "
        f"key/value heads of {decoder['head_dim']}, vocabulary {decoder['vocabulary']:,}, {decoder['positions']:,} positions, "
        + ("head tied to the embedding" if decoder["tied_head"] else "head of its own"),
        "vision": f"{vision['layers']} layers, {vision['hidden']} wide"
        + (f", deep-stack after {', '.join(map(str, vision['deepstack']))}" if vision["deepstack"] else ""),
        "image tokens": ", ".join(f"{tokens} at {size}" for size, tokens in facts["image_tokens"].items()),
        "pixel spec": facts["pixel_spec_hash"],
        "prompt spec": facts["prompt_spec_hash"],
        "answers": facts["answer_syntax"] + (", after a thought" if facts["template_opens_a_thought"] else ""),
        "stop tokens": ", ".join(map(str, facts["stop_token_ids"])) or "none",
        "licence": facts["licence"],
    }
    return "".join(f"{name:<12} {text}\n" for name, text in rows.items())
