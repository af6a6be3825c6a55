"""Settings of a served checkpoint in the words of every release that reads them: its pixel budget, its rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egm_edge._processor_config import read_json
from egm_edge.files import write_json
from egm_edge.pixels import TILES, PixelSpec


def write_pixel_budget(directory: Path, spec: PixelSpec) -> None:
    """Write a PixelSpec's budget into a checkpoint's image-processor settings, in every name that is read.

    transformers 5 keeps them inside processor_config.json, where 4.x does not look: preprocessor_config.json is added then.
    """
    plain, wrapped = directory / "preprocessor_config.json", directory / "processor_config.json"
    settings: dict[str, Any] | None = None
    if wrapped.is_file() and isinstance((values := read_json(wrapped)).get("image_processor"), dict):
        settings = _with_budget(values["image_processor"], spec)
        write_json(wrapped, values | {"image_processor": settings})
    if plain.is_file():
        settings = _with_budget(read_json(plain), spec)
    if settings is not None:
        write_json(plain, settings)


def with_rotary_of_4(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the decoder's rotary settings also as transformers 4.x reads them: `rope_theta` and `rope_scaling`.

    4.57 knows no `rope_parameters`. Without these two it takes InternVL3's base for 10,000 and cannot open Qwen3-VL. 5.x
    prefers `rope_scaling` and takes a missing base from `rope_theta`, so that both read the same.
    """
    text = dict(config["text_config"])
    rotary = text.get("rope_parameters")
    if isinstance(rotary, dict):
        scaling = {name: value for name, value in rotary.items() if name != "rope_theta"}
        if "rope_theta" in rotary:
            text.setdefault("rope_theta", rotary["rope_theta"])
        if scaling.keys() - {"rope_type"} or scaling.get("rope_type", "default") != "default":
            text.setdefault("rope_scaling", scaling)
    return {**config, "text_config": text}


def _with_budget(settings: dict[str, Any], spec: PixelSpec) -> dict[str, Any]:
    if spec.rule == TILES:
        return settings | {"max_patches": spec.max_tiles, "min_patches": spec.min_tiles}
    # 4.57's slow processor (Qwen2VLImageProcessor) passes over `size` and reads the old names alone; elsewhere they win.
    return settings | {"size": spec.area_limits, "min_pixels": spec.min_pixels, "max_pixels": spec.max_pixels}
