"""The small files beside the weights of a checkpoint: tokenizer and image-processor settings, in the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from egm_edge.files import write_json


def qwen_image_processor(min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """preprocessor_config.json in the published Qwen3-VL layout."""
    return {
        "size": {"longest_edge": max_pixels, "shortest_edge": min_pixels},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }


def internvl_image_processor(tile_size: int, max_patches: int = 12) -> dict[str, Any]:
    """preprocessor_config.json in the published InternVL3 `-hf` layout (ImageNet mean and std, tiling off until asked)."""
    return {
        "crop_size": None,
        "crop_to_patches": False,
        "data_format": "channels_first",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "max_patches": max_patches,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": tile_size, "width": tile_size},
    }


def save_tokenizer(directory: Path, tokenizer: Tokenizer, **extra: Any) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    limits = {"model_max_length": 4096, "clean_up_tokenization_spaces": False}
    write_json(directory / "tokenizer_config.json", values | limits | extra)
