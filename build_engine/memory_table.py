"""The memory plans of the published models on every target: `python -m build_engine.memory_table docs/targets.md`.

Rewrites what stands between the markers of that page. Shapes are the published config.json's; no checkpoint is needed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.edge_llm.profile import DEFAULT_IMAGE_TOKENS, fitted_spec
from build_engine.memory_plan import EngineLimits, MemoryPlan, ModelSize, plan
from build_engine.request import MAX_NEW_TOKENS
from build_engine.targets import TARGETS, Target
from egm_edge.pixels import PixelSpec

BEGIN, END = "<!-- memory plans: begin -->", "<!-- memory plans: end -->"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _qwen(hidden: int, wide: int, layers: int, heads: int, **vision: int) -> dict[str, Any]:
    tower = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16} | vision
    tower |= {"patch_size": 16, "temporal_patch_size": 2, "num_position_embeddings": 2304}
    text = {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "num_attention_heads": heads}
    text |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
    indexes = [8, 16, 24] if tower["depth"] == 27 else [5, 11, 17]
    text["tie_word_embeddings"] = hidden < 4096
    return {"model_type": "qwen3_vl", "text_config": text, "vision_config": {**tower, "deepstack_visual_indexes": indexes}}


def _internvl(hidden: int, wide: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    text = {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "num_attention_heads": heads}
    text |= {"num_key_value_heads": kv_heads, "vocab_size": 151674}
    tower = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    return {
        "model_type": "internvl",
        "text_config": text,
        "vision_config": {**tower, "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True},
    }


# Shapes of the published config.json; EGM-4B and EGM-8B are Qwen3-VL-4B and -8B in them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-VL-2B": _qwen(2048, 6144, 28, 16),
    "EGM-4B": _qwen(2560, 9728, 36, 32),
    "EGM-8B": _qwen(4096, 12288, 36, 32, depth=27, hidden_size=1152, intermediate_size=4304),
    "InternVL3-1B": _internvl(896, 4864, 24, 14, 2),
    "InternVL3-2B": _internvl(1536, 8960, 28, 12, 2),
    "InternVL3-8B": _internvl(3584, 18944, 28, 28, 4),
}


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of NVIDIA's table: Edge-LLM 0.10, JetPack 7.2, TensorRT 10.16, batch 1, about 265 image and 27 text tokens."""

    target: str
    model: str
    precision: str
    prefill_ms: float
    vision_ms: float
    decode_tokens_s: float
    memory_mb: int | None


# The Thor rows' memory column leaves the weights out, so it says nothing of size and is left out here.
NVIDIA_ROWS = (
    PublishedRow("jetson-thor", "Qwen3-VL-2B", "nvfp4", 12.7, 11.4, 151.9, None),
    PublishedRow("jetson-thor", "EGM-4B", "nvfp4", 22.3, 11.6, 79.2, None),
    PublishedRow("jetson-thor", "EGM-8B", "nvfp4", 32.1, 15.7, 47.1, None),
    PublishedRow("jetson-thor", "Qwen3-VL-2B", "int4", 29.3, 11.7, 151.1, None),
    PublishedRow("jetson-thor", "EGM-4B", "int4", 64.5, 11.8, 82.8, None),
    PublishedRow("jetson-thor", "EGM-8B", "int4", 115.1, 15.7, 48.5, None),
    PublishedRow("jetson-agx-orin", "Qwen3-VL-2B", "int4", 45.7, 36.2, 98.9, 4554),
    PublishedRow("jetson-agx-orin", "EGM-4B", "int4", 105.7, 36.5, 54.7, 6076),
    PublishedRow("jetson-agx-orin", "EGM-8B", "int4", 178.3, 53.0, 32.1, 9004),
    PublishedRow("jetson-orin-nx", "Qwen3-VL-2B", "int4", 93.5, 77.1, 58.5, 4533),
    PublishedRow("jetson-orin-nx", "EGM-4B", "int4", 217.2, 77.4, 31.7, 6023),
    PublishedRow("jetson-orin-nx", "EGM-8B", "int4", 400.5, 110.5, 18.4, 8929),
    PublishedRow("jetson-orin-nano", "Qwen3-VL-2B", "int4", 167.2, 141.3, 36.1, 4486),
)


def published_spec(model: str) -> PixelSpec:
    """The published image-processor settings."""
    if PUBLISHED[model]["model_type"] == "qwen3_vl":
        sizes = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 65536, "max_pixels": 16777216}
        return PixelSpec(rule="smart_resize", mean=(0.5,) * 3, std=(0.5,) * 3, **sizes)
    tiles = {"tile_size": 448, "min_tiles": 1, "max_tiles": 12, "tokens_per_tile": 256}
    return PixelSpec(rule="tiles", mean=IMAGENET_MEAN, std=IMAGENET_STD, **tiles)


def published_plan(model: str, target: Target, precision: str) -> MemoryPlan:
    """The plan of a published model with the defaults of `egm build`."""
    spec = fitted_spec(published_spec(model), None, target)
    limits = EngineLimits.of(spec, MAX_NEW_TOKENS, 1)
    return plan(ModelSize.of(PUBLISHED[model]), limits, precision, target.runtime)


def plan_rows() -> Iterator[str]:
    """One line a target and precision: GB on the device for each model, marked where it does not fit."""
    yield f"| target (usable GB) | precision | {' | '.join(PUBLISHED)} |"
    yield f"|---|---|{'---:|' * len(PUBLISHED)}"
    for target in TARGETS.values():
        if target.name == "cpu":  # measured in docs/cpu-engine.md, and laid out otherwise
            continue
        if target.name.startswith("tensorrt-llm-"):  # the same figures as tensorrt-llm's
            continue
        usable = "differs" if target.usable_gb is None else f"{target.usable_gb:g}"
        for precision in target.precisions:
            cells = [_cell(published_plan(model, target, precision), target) for model in PUBLISHED]
            yield f"| {target.name} ({usable}) | {precision} | {' | '.join(cells)} |"


def _cell(found: MemoryPlan, target: Target) -> str:
    if target.usable_gb is not None and found.device > target.usable_gb:
        return f"~~{found.device:.1f}~~"
    swap = found.swap(target)
    return f"{found.device:.1f}" + (f" (swap {math.ceil(swap)})" if swap else "")


def published_rows() -> Iterator[str]:
    """NVIDIA's measured rows, with our plan for the same short prompt where memory was published."""
    yield "| target | model | precision | prefill ms | vision ms | decode tokens/s | memory, published | memory, plan |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for row in NVIDIA_ROWS:
        found = short_prompt_plan(row)
        memory = f"{row.memory_mb / 1e3:.2f} GB" if row.memory_mb else "not comparable"
        measured = f"{row.prefill_ms:g} | {row.vision_ms:g} | {row.decode_tokens_s:g}"
        name = row.model.replace("EGM-", "Qwen3-VL-")
        yield f"| {row.target} | {name} | {row.precision} | {measured} | {memory} | {found.device:.2f} GB |"


def short_prompt_plan(row: PublishedRow) -> MemoryPlan:
    """Our plan for the conditions of NVIDIA's table: 300 image tokens at most, and the builder's 2,200 cache places."""
    limits = EngineLimits(image_tokens=300, patches=1200, max_new_tokens=2200 - 300 - 256, batch=1)
    return plan(ModelSize.of(PUBLISHED[row.model]), limits, row.precision, TARGETS[row.target].runtime)


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two markers of a page."""
    before, _, rest = path.read_text("utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} lacks the markers {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(path: Path) -> None:
    caption = (
        f"GB on the device while it answers, batch 1, pictures of up to {DEFAULT_IMAGE_TOKENS} image tokens, "
        f"{MAX_NEW_TOKENS} generated tokens. Struck out: does not fit. (swap N): the engine build on the device needs N GB of swap."
    )
    table = "\n".join([caption, "", *plan_rows(), "", *published_rows()])
    put_between(path, BEGIN, END, table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
