"""Reads the image-processor settings of a Hugging Face checkpoint into PixelSpec values.

Accepts the layouts that transformers writes (preprocessor_config.json, or `image_processor` in processor_config.json).
Every setting that would change the pixels is either understood or refused; none is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egm_edge.errors import CheckpointError, EgmError, message_of
from egm_edge.files import read_json_object

MAX_CONFIG_BYTES = 4 << 20
BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
INTERNVL_TOKENS_PER_TILE = 256
# What the processors fall back on when a checkpoint leaves a setting out (transformers' class attributes).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def read_pixel_settings(directory: Path) -> dict[str, Any]:
    """Keyword arguments of `PixelSpec` for the checkpoint in `directory`."""
    source, settings = _image_processor_settings(directory)
    kind = str(settings.get("image_processor_type", ""))
    for suffix in ("Fast", "Pil"):
        kind = kind.removesuffix(suffix)
    reader = {"Qwen2VLImageProcessor": _smart_resize_settings, "GotOcr2ImageProcessor": _tile_settings}.get(kind)
    if reader is None:
        raise CheckpointError(
            f"image_processor_type Qwen2VLImageProcessor or GotOcr2ImageProcessor in {source}",
            repr(settings.get("image_processor_type")),
            "use a Qwen3-VL or an InternVL3 (-hf) checkpoint",
        )
    with reading_checkpoint(f"image-processor settings as transformers writes them in {source}"):
        _require_supported(settings, source)
        return reader(settings, directory)


@contextmanager
def reading_checkpoint(expected: str) -> Iterator[None]:
    """What a checkpoint's settings raise, missing or of another kind, is a CheckpointError. Transformers raises almost anything."""
    try:
        yield
    except (EgmError, MemoryError):
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {message_of(error, 200)}"
        raise CheckpointError(expected, found, "save the checkpoint again with save_pretrained") from None


def _smart_resize_settings(settings: dict[str, Any], _directory: Path) -> dict[str, Any]:
    size = settings.get("size") or {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    smallest, largest = (settings.get(old) for old in ("min_pixels", "max_pixels"))
    return _normalisation(settings) | {
        "rule": "smart_resize",
        "patch_size": int(settings.get("patch_size", 14)),
        "merge_size": int(settings.get("merge_size", 2)),
        "temporal_patch_size": int(settings.get("temporal_patch_size", 2)),
        # Areas in pixels, whatever the keys are called.
        "min_pixels": int(size["shortest_edge"] if smallest is None else smallest),
        "max_pixels": int(size["longest_edge"] if largest is None else largest),
    }


def _tile_settings(settings: dict[str, Any], directory: Path) -> dict[str, Any]:
    size = settings.get("size") or {"height": 384, "width": 384}
    if size["height"] != size["width"]:
        raise ValueError(f"size {size}: tiles must be square")
    # transformers' InternVLProcessor turns tiling on whatever the image processor's own crop_to_patches says.
    return _normalisation(settings) | {
        "rule": "tiles",
        "tile_size": int(size["height"]),
        "min_tiles": int(settings.get("min_patches", 1)),
        "max_tiles": int(settings.get("max_patches", 12)),
        "tokens_per_tile": _tokens_per_tile(directory),
    }


def _tokens_per_tile(directory: Path) -> int:
    for name in ("processor_config.json", "config.json"):
        value = read_json(directory / name).get("image_seq_length") if (directory / name).is_file() else None
        if value is not None:
            return int(value)
    return INTERNVL_TOKENS_PER_TILE


def _normalisation(settings: dict[str, Any]) -> dict[str, Any]:
    defaults = {"mean": CLIP_MEAN, "std": CLIP_STD}
    return {k: tuple(float(v) for v in settings.get(f"image_{k}") or default) for k, default in defaults.items()}


def _require_supported(settings: dict[str, Any], source: str) -> None:
    required = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": BICUBIC,
    }
    odd = [
        f"{key}={settings[key]!r}" for key, value in required.items() if settings.get(key, value) not in (value, None)
    ]
    if not math.isclose(settings.get("rescale_factor") or 1 / 255, 1 / 255, rel_tol=1e-6):
        odd.append(f"rescale_factor={settings['rescale_factor']!r}")
    odd += [f"{key}=True" for key in ("do_center_crop", "do_pad") if settings.get(key)]
    if odd:
        raise CheckpointError(
            f"bicubic resize, 1/255 rescale and normalisation in {source}", ", ".join(odd), "use the released settings"
        )


def _image_processor_settings(directory: Path) -> tuple[str, dict[str, Any]]:
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        if (directory / name).is_file():
            values = read_json(directory / name)
            values = values.get(key, {}) if key else values
            if isinstance(values, dict) and values:
                return name, values
    raise CheckpointError(
        f"preprocessor_config.json in {directory}",
        "no image-processor settings",
        "copy it from the released checkpoint",
    )


def read_json(path: Path, most_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a checkpoint file of bounded size.

    Raises:
        CheckpointError: unreadable, too large, or not an object.
    """
    hint = "copy it from the released checkpoint"
    if path.is_fifo():  # would be waited for
        raise CheckpointError(f"a file {path}", "a pipe", hint)
    return read_json_object(path, CheckpointError, hint, most_bytes)
