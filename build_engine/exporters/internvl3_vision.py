"""InternVL3's InternViT tower, pixel shuffle and projector as one ONNX graph over a batch of square tiles.

Shapes: T tiles, S tile side, G = S / P patches a side, D vision hidden size, H decoder hidden size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import Checkpoint
from build_engine.exporters.graph import GraphWriter, WeightFormat
from build_engine.exporters.vision_tower import TowerWriter
from egm_edge.errors import CheckpointError
from egm_edge.families.decoder_shape import gelu_kind
from egm_edge.pixels import PixelSpec

PROJECTOR_EPSILON = 1e-5  # torch's LayerNorm default


def write_vision(checkpoint: Checkpoint, spec: PixelSpec, writer: GraphWriter, fmt: WeightFormat) -> None:
    """Write the graph.

    Inputs: patches u8 [T, 3, S, S].
    Outputs: embeddings f32 [T * G*G/4, H].
    """
    config = checkpoint.vision_config
    heads, epsilon = int(config["num_attention_heads"]), float(config["layer_norm_eps"])
    approximate = gelu_kind(config.get("hidden_act", "gelu"))
    side = _square(config["image_size"])
    _require_supported(checkpoint, side, spec)
    with writer as graph:
        tower = TowerWriter(checkpoint, graph, fmt)
        x = _embedded(tower, graph.input("patches", np.uint8, ["tiles", 3, side, side]), spec, side)
        for i in range(int(config["num_hidden_layers"])):
            base = f"vision.encoder.layer.{i}"
            attended = _attention(tower, tower.norm(x, f"{base}.layernorm_before", epsilon), base, heads)
            x = graph.op("Add", x, _scaled(tower, attended, f"{base}.lambda_1"))
            normed = tower.norm(x, f"{base}.layernorm_after", epsilon)
            x = graph.op(
                "Add",
                x,
                _scaled(
                    tower, tower.gelu_mlp(normed, f"{base}.mlp.fc1", f"{base}.mlp.fc2", approximate), f"{base}.lambda_2"
                ),
            )
        if not config.get("use_mean_pooling", True):
            x = tower.norm(x, "vision.layernorm", epsilon)
        shuffled = _pixel_shuffle(graph, x, side // _square(config["patch_size"]), int(config["hidden_size"]))
        projected = tower.norm(shuffled, "projector.layer_norm", PROJECTOR_EPSILON)
        graph.output(
            tower.gelu_mlp(projected, "projector.linear_1", "projector.linear_2", "none"),
            np.float32,
            ["tokens", "hidden"],
            name="embeddings",
        )


def engine_section(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tower's part of a manifest's `model` section."""
    return {"kind": "internvl3", "head_dim": 0, "rope_theta": 0.0, "deepstack": 0}


def _embedded(tower: TowerWriter, pixels: str, spec: PixelSpec, side: int) -> str:
    """Tiles to [T, 1 + G*G, D]: patch kernel, class token, learned positions."""
    graph, checkpoint = tower.graph, tower.checkpoint
    kernel = checkpoint.float32("vision.embeddings.patch_embeddings.projection.weight")  # [D, 3, P, P]
    width, _, patch, _ = kernel.shape
    grid = side // patch
    blocks = graph.op("Reshape", pixels, graph.constant([-1, 3, grid, patch, grid, patch], np.int64))
    blocks = graph.op("Transpose", blocks, perm=[0, 2, 4, 1, 3, 5])
    rows = graph.op("Reshape", blocks, graph.constant([-1, grid * grid, 3 * patch * patch], np.int64))
    flat = kernel.reshape(width, -1)
    bias = checkpoint.float32("vision.embeddings.patch_embeddings.projection.bias")
    pixels_f32 = tower.normalised(rows, spec.mean, spec.std, patch * patch)
    embedded = graph.linear(
        pixels_f32, "vision.patch_embed", flat.shape, lambda a, b: flat[a:b], WeightFormat.FP32, bias
    )
    first, positions = _class_and_positions(checkpoint, grid)
    embedded = graph.op("Add", embedded, graph.weight("vision.positions", positions))
    tiles = graph.op("Gather", graph.op("Shape", embedded), graph.constant([0], np.int64), axis=0)
    class_shape = graph.op("Concat", tiles, graph.constant([1, width], np.int64), axis=0)
    return str(
        graph.op("Concat", graph.op("Expand", graph.weight("vision.class", first), class_shape), embedded, axis=1)
    )


def _class_and_positions(checkpoint: Checkpoint, grid: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    token = checkpoint.float32("vision.embeddings.cls_token")
    name = "vision.embeddings.position_embeddings"
    if name not in checkpoint:
        return token, np.zeros((1, grid * grid, token.shape[-1]), np.float32)
    positions = checkpoint.float32(name)
    return token + positions[:, :1], positions[:, 1:]


def _attention(tower: TowerWriter, x: str, base: str, heads: int) -> str:
    query, key, value = (tower.linear(x, f"{base}.attention.{part}_proj") for part in "qkv")
    if f"{base}.attention.q_norm.weight" in tower.checkpoint:
        query, key = (
            tower.norm(part, f"{base}.attention.{name}_norm", 1e-6) for part, name in ((query, "q"), (key, "k"))
        )
    width = tower.checkpoint.shape(f"{base}.attention.q_proj.weight")[0]
    return tower.linear(tower.attend(query, key, value, heads, width), f"{base}.attention.projection_layer")


def _scaled(tower: TowerWriter, x: str, name: str) -> str:
    return str(tower.graph.op("Mul", x, tower.graph.weight(name, tower.checkpoint.float32(name))))


def _pixel_shuffle(graph: GraphWriter, x: str, grid: int, width: int) -> str:
    """[T, 1 + G*G, D] without its class token to [T * G*G/4, 4*D], each 2x2 block row by row."""
    patches = graph.op(
        "Slice", x, graph.constant([1], np.int64), graph.constant([2**31 - 1], np.int64), graph.constant([1], np.int64)
    )
    half = grid // 2
    blocks = graph.op("Reshape", patches, graph.constant([-1, half, 2, half, 2, width], np.int64))
    return str(
        graph.op(
            "Reshape", graph.op("Transpose", blocks, perm=[0, 1, 3, 2, 4, 5]), graph.constant([-1, 4 * width], np.int64)
        )
    )


def _square(size: Any) -> int:
    values = size if isinstance(size, list) else [size, size]
    if len(set(values)) != 1:
        raise CheckpointError("square image_size and patch_size", repr(size), "this vision tower is not supported")
    return int(values[0])


def _require_supported(checkpoint: Checkpoint, side: int, spec: PixelSpec) -> None:
    config = checkpoint.config
    found = {
        "downsample_ratio": config.get("downsample_ratio", 0.5),
        "vision_feature_layer": config.get("vision_feature_layer", -1),
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
        "projector_hidden_act": config.get("projector_hidden_act", "gelu"),
        "tile size": spec.tile_size,
        "image_seq_length": spec.tokens_per_tile,
    }
    expected = {
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tile size": side,
        "image_seq_length": (side // _square(checkpoint.vision_config["patch_size"]) // 2) ** 2,
    }
    wrong = [key for key in expected if found[key] != expected[key]]
    if wrong:
        raise CheckpointError(
            ", ".join(f"{key} {expected[key]}" for key in wrong),
            ", ".join(f"{found[key]}" for key in wrong),
            "this InternVL variant is not supported",
        )
