"""Qwen3-VL's vision tower, mergers and deep-stack mergers as one ONNX graph for one image.

Shapes: N patches in merge-block order, D vision hidden size, H decoder hidden size, d vision head size.
Position grid interpolation and rotary angles depend only on the image's grid: the host computes them once per grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from build_engine.checkpoint import Checkpoint
from build_engine.exporters.graph import GraphWriter, WeightFormat
from build_engine.exporters.vision_tower import TowerWriter, folded_temporal_kernel
from egm_edge.errors import CheckpointError
from egm_edge.families.decoder_shape import gelu_kind
from egm_edge.pixels import PixelSpec

NORM_EPSILON = 1e-6  # constant in transformers' modeling_qwen3_vl.py


def write_vision(checkpoint: Checkpoint, spec: PixelSpec, writer: GraphWriter, fmt: WeightFormat) -> None:
    """Write the graph.

    Inputs: patches u8 [N, 3*P*P]; position f32 [N, D]; cos, sin f32 [N, d/2].
    Outputs: embeddings f32 [N/4, H]; deepstack_i f32 [N/4, H].
    """
    config = checkpoint.vision_config
    width, heads = int(config["hidden_size"]), int(config["num_heads"])
    approximate = gelu_kind(config.get("hidden_act", "gelu_pytorch_tanh"))
    deepstack = [int(i) for i in config.get("deepstack_visual_indexes", [])]
    _require_same_patches(config, spec)
    samples = spec.patch_size**2
    with writer as graph:
        tower = TowerWriter(checkpoint, graph, fmt)
        patches = graph.input("patches", np.uint8, ["patches", 3 * samples])
        position = graph.input("position", np.float32, ["patches", width])
        angles = [graph.input(name, np.float32, ["patches", width // heads // 2]) for name in ("cos", "sin")]
        kernel = folded_temporal_kernel(checkpoint.float32("vision.patch_embed.proj.weight"))
        pixels = tower.normalised(patches, spec.mean, spec.std, samples)
        bias = checkpoint.float32("vision.patch_embed.proj.bias")
        embedded = graph.linear(
            pixels, "vision.patch_embed", kernel.shape, lambda a, b: kernel[a:b], WeightFormat.FP32, bias
        )
        x = graph.op("Unsqueeze", graph.op("Add", embedded, position), graph.constant([0], np.int64))
        for i in range(int(config["depth"])):
            base = f"vision.blocks.{i}"
            x = graph.op("Add", x, _attention(tower, tower.norm(x, f"{base}.norm1", NORM_EPSILON), base, heads, angles))
            normed = tower.norm(x, f"{base}.norm2", NORM_EPSILON)
            x = graph.op(
                "Add", x, tower.gelu_mlp(normed, f"{base}.mlp.linear_fc1", f"{base}.mlp.linear_fc2", approximate)
            )
            if i in deepstack:
                feature = deepstack.index(i)
                merged = _merger(
                    tower, x, f"vision.deepstack_merger_list.{feature}", spec.merge_size, norm_after_merge=True
                )
                graph.output(merged, np.float32, ["tokens", "hidden"], name=f"deepstack_{feature}")
        merged = _merger(tower, x, "vision.merger", spec.merge_size, norm_after_merge=False)
        graph.output(merged, np.float32, ["tokens", "hidden"], name="embeddings")


def engine_section(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tower's part of a manifest's `model` section."""
    config = checkpoint.vision_config
    rope = config.get("rope_parameters") or {}
    return {
        "kind": "qwen3_vl",
        "head_dim": int(config["hidden_size"]) // int(config["num_heads"]),
        "rope_theta": float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        "deepstack": len(config.get("deepstack_visual_indexes", [])),
    }


def _require_same_patches(config: dict[str, Any], spec: PixelSpec) -> None:
    sizes = {
        "patch_size": "patch_size",
        "spatial_merge_size": "merge_size",
        "temporal_patch_size": "temporal_patch_size",
    }
    for theirs, ours in sizes.items():
        found = getattr(spec, ours)
        stated = config.get(theirs, found)
        if stated not in (found, [found] * 2):
            raise CheckpointError(
                f"{theirs} {stated} in the image-processor settings, as in config.json",
                f"{found}",
                "copy both from one checkpoint",
            )


def _attention(tower: TowerWriter, x: str, base: str, heads: int, angles: list[str]) -> str:
    graph = tower.graph
    query, key, value = graph.op("Split", tower.linear(x, f"{base}.attn.qkv"), outputs=3, axis=-1, num_outputs=3)
    start = graph.constant([0], np.int64)
    query, key = (graph.contrib("RotaryEmbedding", part, start, *angles, num_heads=heads) for part in (query, key))
    width = tower.checkpoint.shape(f"{base}.attn.proj.weight")[1]
    return tower.linear(tower.attend(query, key, value, heads, width), f"{base}.attn.proj")


def _merger(tower: TowerWriter, x: str, base: str, merge: int, *, norm_after_merge: bool) -> str:
    graph = tower.graph
    norm_width = tower.checkpoint.shape(f"{base}.norm.weight")[0]
    merged_width = norm_width if norm_after_merge else norm_width * merge**2
    block_shape = graph.constant([-1, merged_width], np.int64)
    if norm_after_merge:
        x = tower.norm(graph.op("Reshape", x, block_shape), f"{base}.norm", NORM_EPSILON)
    else:
        x = graph.op("Reshape", tower.norm(x, f"{base}.norm", NORM_EPSILON), block_shape)
    return tower.gelu_mlp(x, f"{base}.linear_fc1", f"{base}.linear_fc2", "none")
