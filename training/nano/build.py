"""Build a fresh EGM-Nano and write it as a plain Hugging Face directory. Knows nothing of training."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from egm_edge.assets import SHIPPED_NAME, shipped_checkpoint
from egm_edge.errors import CheckpointError
from egm_edge.files import take_place, write_json
from egm_edge.synthetic.vocabulary import NOUNS
from training.nano.prompts import number_ids, token_id, tokenizer
from training.nano.tokenizer import save_tokenizer

PIXELS = 49_152  # 256 x 192; a 640x480 frame shrinks to exactly that
PATCH, MERGE, TEMPORAL = 16, 2, 2


@dataclass(frozen=True, slots=True)
class NanoShape:
    """Dimensions of EGM-Nano.

    Attributes:
        vision_width, vision_layers, vision_heads, vision_mlp: the vision tower.
        deepstack: vision layers whose features are added to the first decoder layers.
        width, layers, heads, kv_heads, mlp: the decoder; head_dim is 32.
        grid_side: side of the square learned position grid.
    """

    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    vision_mlp: int = 384
    deepstack: tuple[int, ...] = (1,)
    width: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    mlp: int = 384
    grid_side: int = 16


def nano_config(shape: NanoShape) -> Qwen3VLConfig:
    """The transformers configuration, special-token ids taken from the tokenizer."""
    end, pad = token_id("<|im_end|>"), token_id("<|endoftext|>")
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        dtype="bfloat16",
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
        vision_config={
            "depth": shape.vision_layers, "hidden_size": shape.vision_width, "intermediate_size": shape.vision_mlp,
            "num_heads": shape.vision_heads, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TEMPORAL,
            "out_hidden_size": shape.width, "num_position_embeddings": shape.grid_side**2,
            "deepstack_visual_indexes": list(shape.deepstack), "hidden_act": "gelu_pytorch_tanh",
        },
        text_config={
            "vocab_size": tokenizer().get_vocab_size(), "hidden_size": shape.width, "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
            "head_dim": 32, "max_position_embeddings": 4096, "tie_word_embeddings": True, "bos_token_id": None,
            "eos_token_id": end, "pad_token_id": pad,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True,
            },
        },
    )  # fmt: skip


def fresh_model(shape: NanoShape, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """A randomly initialised model, fp32. Numbers get Fourier embeddings, positions sine-cosine ones."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(nano_config(shape)).float()
    with torch.no_grad():
        table = model.model.language_model.embed_tokens.weight
        table.normal_(0, 0.04)
        table[list(number_ids())] = 0.04 * _fourier(torch.linspace(0, 1, len(number_ids())), table.shape[1])
        grid = model.model.visual.pos_embed.weight
        axis = _fourier(torch.linspace(0, 1, shape.grid_side), grid.shape[1] // 2, longest=2.0, shortest=0.15)
        rows = axis[:, None, :].expand(-1, shape.grid_side, -1)
        cols = axis[None, :, :].expand(shape.grid_side, -1, -1)
        grid.copy_(0.25 * torch.cat([rows, cols], -1).reshape(shape.grid_side**2, -1))
        for name, weight in model.model.visual.named_parameters():
            if name.endswith("weight") and weight.ndim == 2 and "pos_embed" not in name:
                weight.normal_(0, 1 / math.sqrt(weight.shape[1]))
                if name.endswith(("attn.proj.weight", "mlp.linear_fc2.weight")):
                    weight.mul_(0.5)
        model.model.visual.patch_embed.proj.weight.normal_(0, 0.02)
    return model


def adopt_weights(model: Qwen3VLForConditionalGeneration, source: str) -> None:
    """Begin with the weights of an earlier Nano, a directory or a shipped name, of the same widths whose vocabulary may be smaller.

    Embedding rows are matched by token. A new word starts as its noun or its small spelling does, where one is known.

    Raises:
        CheckpointError: a checkpoint of other widths.
    """
    folder = shipped_checkpoint() if source == SHIPPED_NAME else Path(source)
    old_ids = json.loads((folder / "tokenizer.json").read_text())
    ids = old_ids["model"]["vocab"] | {token["content"]: token["id"] for token in old_ids["added_tokens"]}
    twins = {"Ġ" + other: "Ġ" + noun for noun, others in NOUNS.items() for other in others if " " not in other}
    twins |= {other.removeprefix("Ġ"): noun.removeprefix("Ġ") for other, noun in twins.items()}
    new = model.state_dict()
    for name, value in load_file(folder / "model.safetensors").items():
        if name.endswith("embed_tokens.weight") and value.shape[1:] == new[name].shape[1:]:
            for token, row in tokenizer().get_vocab().items():
                small = "Ġ" + token[1:].lower() if token.startswith("Ġ") else token
                known = next((t for t in (token, small, twins.get(small)) if t in ids), None)
                if known is not None:
                    new[name][row] = value[ids[known]].float()
        elif name in new and value.shape == new[name].shape:
            new[name].copy_(value)
        else:
            found = f"{name} of {tuple(value.shape)} in {folder}"
            raise CheckpointError("a Nano of the plan's own widths to begin with", found, "mend adopt or shape")


def _fourier(values: torch.Tensor, width: int, longest: float = 4.0, shortest: float = 0.02) -> torch.Tensor:
    """Unit-variance sines and cosines of `values` (0-1) with geometric wavelengths: near numbers get near vectors."""
    waves = longest * (shortest / longest) ** torch.linspace(0, 1, width // 2)
    phase = 2 * math.pi * values[:, None] / waves[None, :]
    return math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], 1)


def save_checkpoint(model: Qwen3VLForConditionalGeneration, folder: Path, readme: str | None = None) -> None:
    """Write the Hugging Face directory (bf16 weights) beside its final place, then swap it in by rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    staging.chmod(0o755)
    try:
        copy = Qwen3VLForConditionalGeneration(model.config)
        copy.load_state_dict(model.state_dict())
        copy.to(torch.bfloat16).save_pretrained(staging)
        save_tokenizer(staging)
        write_json(
            staging / "generation_config.json",
            {
                "do_sample": False, "eos_token_id": [token_id("<|im_end|>"), token_id("<|endoftext|>")],
                "pad_token_id": token_id("<|endoftext|>"), "max_new_tokens": 256,
            },
        )  # fmt: skip
        write_json(
            staging / "preprocessor_config.json",
            {
                "image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor",
                "size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}, "patch_size": PATCH, "merge_size": MERGE,
                "temporal_patch_size": TEMPORAL, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
                "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
                "do_convert_rgb": True, "resample": 3,
            },
        )  # fmt: skip
        if readme is not None:
            (staging / "README.md").write_text(readme)
        for path in staging.iterdir():
            path.chmod(0o644)
        take_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
