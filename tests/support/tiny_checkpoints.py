"""Tiny random checkpoints of the true architectures, as transformers itself saves them.

Deterministic by seed, on disk in well under a second with the tiny vocabulary. Norms, biases and layer scales are
random too: left at one and zero they would hide every mistake about them. Needs torch and transformers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from egm_edge.files import write_json
from tests.support import chat_templates
from tests.support.qwen_tokenizer import INTERNVL3_SPECIALS, QWEN3_SPECIALS, byte_tokenizer, qwen_tokenizer
from tests.support.token_files import internvl_image_processor, qwen_image_processor, save_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def write_tiny_qwen3_vl(
    directory: Path | str,
    *,
    tied: bool = True,
    seed: int = 0,
    vocabulary: str = "tiny",
    dtype: str = "float32",
    text_layers: int = 3,
    hidden_size: int = 64,
    intermediate_size: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    mrope_stated: bool = True,
    vision_layers: int = 3,
    vision_size: int = 64,
    deepstack: tuple[int, ...] = (0, 1),
    grid_side: int = 6,
    min_pixels: int = 64 * 64,
    max_pixels: int = 256 * 256,
    chat_template: str = chat_templates.QWEN3_VL_THINKING,
) -> Path:
    """A `Qwen3VLForConditionalGeneration` checkpoint directory with tokenizer, chat template and image processor.

    Args:
        directory: created; files of the same name are overwritten.
        vocabulary: "tiny" (one token a byte) or "qwen" (the true one, 151,936 rows).
        dtype: storage of the weights, "float32" or "bfloat16".
        head_dim: 8, 16, 24, 32, 64 or 128; differs from hidden_size / heads on purpose, as in the published 4B.
        mrope_stated: write `mrope_section`; without it transformers takes that of the published models.
        grid_side: the learned position grid is grid_side x grid_side; other grids are interpolated.
        min_pixels, max_pixels: area bounds of the resized image.
    """
    directory = Path(directory)
    tokenizer = _tokenizer(vocabulary, QWEN3_SPECIALS)
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "im_end", "image_pad", "video_pad")}
    spread = {8: [2, 1, 1], 16: [4, 2, 2], 24: [4, 4, 4], 32: [6, 5, 5], 64: [12, 10, 10], 128: [24, 20, 20]}[head_dim]
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": _rows(vocabulary, tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size or hidden_size * 2 + 32,
            "num_hidden_layers": text_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                **({"mrope_section": spread} if mrope_stated else {}),
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": tied,
            "bos_token_id": ids["endoftext"],
            "eos_token_id": ids["im_end"],
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_size,
            "intermediate_size": vision_size * 2 + 32,
            "num_heads": 4,
            "out_hidden_size": hidden_size,
            "num_position_embeddings": grid_side * grid_side,
            "deepstack_visual_indexes": list(deepstack),
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    _save_model(Qwen3VLForConditionalGeneration(config), directory, dtype, seed, ids["im_end"], ids["endoftext"])
    save_tokenizer(directory, tokenizer)
    (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    write_json(directory / "preprocessor_config.json", qwen_image_processor(min_pixels, max_pixels))
    return directory


def write_tiny_internvl3(
    directory: Path | str,
    *,
    tied: bool = False,
    seed: int = 0,
    vocabulary: str = "tiny",
    dtype: str = "float32",
    text_layers: int = 3,
    hidden_size: int = 64,
    intermediate_size: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    vision_layers: int = 2,
    vision_size: int = 64,
    tile_size: int = 56,
    qk_norm: bool = False,
    norm_type: str = "layer_norm",
    max_patches: int = 12,
    chat_template: str = chat_templates.INTERNVL3,
) -> Path:
    """An `InternVLForConditionalGeneration` checkpoint directory (the `-hf` layout), otherwise as the Qwen one.

    Args:
        tile_size: pixels a side of one tile, a multiple of 28 (patch 14, pixel shuffle 2).
        qk_norm, norm_type: variants of the larger published towers ("rms_norm" with qk_norm).
    """
    directory = Path(directory)
    tokenizer = _tokenizer(vocabulary, INTERNVL3_SPECIALS)
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    image_tokens = (tile_size // 28) ** 2
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": _rows(vocabulary, tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size or hidden_size * 2 + 32,
            "num_hidden_layers": text_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": tied,
            "bos_token_id": pad,
            "eos_token_id": eos,
        },
        vision_config={
            "hidden_size": vision_size,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "intermediate_size": vision_size * 2 + 32,
            "attention_bias": True,
            "use_qk_norm": qk_norm,
            "norm_type": norm_type,
            "image_size": [tile_size, tile_size],
            "patch_size": [14, 14],
        },
        image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>"),
        image_seq_length=image_tokens,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    _save_model(InternVLForConditionalGeneration(config), directory, dtype, seed, eos, pad)
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    save_tokenizer(directory, tokenizer, extra_special_tokens=names, processor_class="InternVLProcessor", **names)
    (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    write_json(directory / "preprocessor_config.json", internvl_image_processor(tile_size, max_patches))
    write_json(
        directory / "processor_config.json",
        {"image_seq_length": image_tokens, "processor_class": "InternVLProcessor"},
    )
    return directory


def _tokenizer(vocabulary: str, specials: list[tuple[str, bool]]) -> Tokenizer:
    return {"tiny": byte_tokenizer, "qwen": qwen_tokenizer}[vocabulary](specials)


def _rows(vocabulary: str, tokenizer: Tokenizer) -> int:
    # The published tables are padded past the last token; 8 spare rows keep that true of the tiny one.
    return 151936 if vocabulary == "qwen" else tokenizer.get_vocab_size() + 8


def _save_model(model: PreTrainedModel, directory: Path, dtype: str, seed: int, eos: int, pad: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random_values(name, parameter.shape, generator))
    model.to(DTYPES[dtype])
    model.generation_config = GenerationConfig(eos_token_id=[eos, pad], pad_token_id=pad, do_sample=False)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)


def _random_values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return noise * 0.1
    if "norm" in name:
        return 1.0 + noise * 0.2
    if "lambda_" in name:
        return 0.6 + noise * 0.2
    if "embed_tokens" in name:
        # Small beside the layers' output: a tied head would otherwise only echo the last token.
        return noise * 0.1
    if len(shape) < 2 or "token" in name or "pos_embed" in name or "position" in name:
        return noise * 0.3
    # Unit gain, so that no layer's contribution fades below what a tolerance can see.
    return noise / float(shape[1:].numel()) ** 0.5
