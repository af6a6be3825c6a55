"""The pixel budget in a checkpoint's own processor settings: what servers and device runtimes cut their pictures by."""

from __future__ import annotations

import json
from pathlib import Path

from egm_edge.pixels import TILES, PixelSpec


def write_pixel_budget(path: Path, spec: PixelSpec) -> None:
    """Write a PixelSpec's budget into a `preprocessor_config.json`, in the names that are there.

    An old `min_pixels` or `max_pixels` beside Qwen3-VL's `size` would win.
    """
    settings = json.loads(path.read_text("utf-8"))
    if spec.rule == TILES:
        settings |= {"max_patches": spec.max_tiles, "min_patches": spec.min_tiles}
    else:
        settings["size"] = spec.area_limits
        settings |= {name: getattr(spec, name) for name in ("max_pixels", "min_pixels") if name in settings}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
