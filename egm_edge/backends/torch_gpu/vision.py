"""The vision towers of both families: uint8 patches to image embeddings and deep-stack features, on the device.

Notation: N patches in merge-block order, T tiles of side S, D vision hidden size, h heads, H decoder hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from egm_edge.backends.onnx_runtime.positions import resampled_positions, vision_table
from egm_edge.backends.torch_gpu.attention import without_cudnn
from egm_edge.backends.torch_gpu.text_decoder import rotated
from egm_edge.backends.torch_gpu.weights import Weights
from egm_edge.errors import CheckpointError
from egm_edge.families.decoder_shape import gelu_kind
from egm_edge.pixels import Pixels, PixelSpec, normalised_levels

NORM_EPSILON = 1e-6  # constant in transformers' modeling_qwen3_vl.py
PROJECTOR_EPSILON = 1e-5  # torch's LayerNorm default
IN_FLOAT32 = ("vision.patch_embed.proj.weight", "vision.pos_embed.weight")  # Qwen3-VL's, summed and resampled


class _Tower:
    """What the towers share: linear layers, norms and the table of pixel values.

    `inputs` makes a picture's tensors on the host and moves them; `forward` is a function of tensors alone, so that it can be
    captured: image embeddings [t, H], then deep-stack features of that shape.
    """

    def __init__(self, weights: Weights, spec: PixelSpec, activation: str) -> None:
        self._weights = {name: weights.take(name) for name in weights.names("vision.", "projector.") if name not in IN_FLOAT32}
        self._dtype, self._device, self._directory = weights.dtype, weights.device, weights.directory
        self.spec, self._approximate = spec, gelu_kind(activation)
        self._levels = torch.from_numpy(normalised_levels(spec)).to(weights.device)  # [3, 256]
        self._channels = torch.arange(3, device=weights.device)[:, None]

    def _weight(self, name: str) -> Tensor:
        if name not in self._weights:
            raise CheckpointError(f"the weight {name} in {self._directory}", "none", "save the model again, whole")
        return self._weights[name]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weight(f"{name}.weight"), self._weights.get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str, epsilon: float) -> Tensor:
        """LayerNorm, or RMSNorm where the checkpoint holds no bias."""
        weight, bias = self._weight(f"{name}.weight"), self._weights.get(f"{name}.bias")
        if bias is None:
            return F.rms_norm(x, weight.shape, weight, epsilon)
        return F.layer_norm(x, weight.shape, weight, bias, epsilon)

    def _mlp(self, x: Tensor, first: str, second: str, approximate: str) -> Tensor:
        return self._linear(F.gelu(self._linear(x, first), approximate=approximate), second)

    def _values(self, patches: Tensor) -> Tensor:
        """uint8 [..., 3, samples] as normalised values."""
        return self._levels[self._channels, patches.long()].to(self._dtype)

    def _moved(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


class Qwen3VlVision(_Tower):
    """Qwen3-VL's tower with its mergers. The learned grid and the rotary angles of a picture's size come from the host."""

    def __init__(self, weights: Weights, config: Mapping[str, Any], spec: PixelSpec) -> None:
        vision = config["vision_config"]
        super().__init__(weights, spec, vision.get("hidden_act", "gelu_pytorch_tanh"))
        self._depth, self._heads = int(vision["depth"]), int(vision["num_heads"])
        self._head_dim = int(vision["hidden_size"]) // self._heads
        rope = vision.get("rope_parameters") or {}
        self._theta = float(rope.get("rope_theta", vision.get("rope_theta", 10000.0)))
        self._deepstack = [int(i) for i in vision.get("deepstack_visual_indexes", [])]
        kernel = weights.take(IN_FLOAT32[0], torch.float32)  # [D, 3, time, P, P]
        self._kernel = kernel.sum(2).reshape(len(kernel), -1).to(weights.dtype)  # a still image fills every time slot alike
        self._grid = weights.take(IN_FLOAT32[1], torch.float32).cpu().numpy()

    def inputs(self, pixels: Pixels) -> list[Tensor]:
        merge = self.spec.merge_size
        cos, sin = vision_table(pixels.grid_hw, merge, self._head_dim, self._theta)
        position = resampled_positions(self._grid, pixels.grid_hw, merge)
        tables = np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)  # [N, d], as `rotated` takes them
        return [self._moved(pixels.patches), self._moved(position), *(self._moved(table) for table in tables)]

    @without_cudnn
    def forward(self, *inputs: Tensor) -> list[Tensor]:
        patches, position, cos, sin = inputs
        values = self._values(patches.view(len(patches), 3, -1)).flatten(1)  # [N, 3*P*P]
        x = F.linear(values, self._kernel, self._weight("vision.patch_embed.proj.bias")) + position.to(values.dtype)
        features: dict[int, Tensor] = {}
        for i in range(self._depth):
            base = f"vision.blocks.{i}"
            x = x + self._attention(self._norm(x, f"{base}.norm1", NORM_EPSILON), base, (cos, sin))
            normed = self._norm(x, f"{base}.norm2", NORM_EPSILON)
            x = x + self._mlp(normed, f"{base}.mlp.linear_fc1", f"{base}.mlp.linear_fc2", self._approximate)
            if i in self._deepstack:
                place = self._deepstack.index(i)
                merger = f"vision.deepstack_merger_list.{place}"
                features[place] = self._merged(self._norm(self._blocks(x), f"{merger}.norm", NORM_EPSILON), merger)
        merged = self._merged(self._blocks(self._norm(x, "vision.merger.norm", NORM_EPSILON)), "vision.merger")
        return [merged, *(features[place] for place in sorted(features))]

    def _attention(self, x: Tensor, base: str, rotary: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self._linear(x, f"{base}.attn.qkv").view(len(x), 3, self._heads, -1)
        query, key, value = qkv.unbind(1)  # [N, h, d]
        attended = _attended(rotated(query, rotary)[None], rotated(key, rotary)[None], value[None])
        return self._linear(attended[0], f"{base}.attn.proj")

    def _blocks(self, x: Tensor) -> Tensor:
        """Neighbouring patches in one row: [N, D] to [N / merge**2, D * merge**2]."""
        return x.reshape(-1, x.shape[-1] * self.spec.merge_size**2)

    def _merged(self, x: Tensor, merger: str) -> Tensor:
        return self._mlp(x, f"{merger}.linear_fc1", f"{merger}.linear_fc2", "none")


class InternVl3Vision(_Tower):
    """InternVL3's tower over tiles, pixel shuffle and projector."""

    def __init__(self, weights: Weights, config: Mapping[str, Any], spec: PixelSpec) -> None:
        vision = config["vision_config"]
        super().__init__(weights, spec, vision.get("hidden_act", "gelu"))
        self._depth, self._heads = int(vision["num_hidden_layers"]), int(vision["num_attention_heads"])
        self._epsilon = float(vision["layer_norm_eps"])
        self._last_norm = not vision.get("use_mean_pooling", True)

    def inputs(self, pixels: Pixels) -> list[Tensor]:
        return [self._moved(pixels.patches)]

    @without_cudnn
    def forward(self, *inputs: Tensor) -> list[Tensor]:
        (tiles,) = inputs
        values = self._values(tiles.flatten(2)).view(tiles.shape)  # [T, 3, S, S]
        embeddings = "vision.embeddings"
        kernel, bias = (self._weight(f"{embeddings}.patch_embeddings.projection.{part}") for part in ("weight", "bias"))
        size = kernel.shape[-1]
        cut = values.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5)  # [T, G, G, 3, P, P]
        x = F.linear(cut.flatten(3).flatten(1, 2), kernel.flatten(1), bias)  # [T, G*G, D]
        x = torch.cat([self._weight(f"{embeddings}.cls_token").expand(len(x), -1, -1), x], 1)
        x = x + self._weights.get(f"{embeddings}.position_embeddings", 0)
        for i in range(self._depth):
            base = f"vision.encoder.layer.{i}"
            attended = self._attention(self._norm(x, f"{base}.layernorm_before", self._epsilon), f"{base}.attention")
            x = x + attended * self._weight(f"{base}.lambda_1")
            normed = self._norm(x, f"{base}.layernorm_after", self._epsilon)
            x = x + self._mlp(normed, f"{base}.mlp.fc1", f"{base}.mlp.fc2", self._approximate) * self._weight(f"{base}.lambda_2")
        x = self._norm(x, "vision.layernorm", self._epsilon) if self._last_norm else x
        projected = self._norm(_pixel_shuffled(x[:, 1:]), "projector.layer_norm", PROJECTOR_EPSILON)
        return [self._mlp(projected, "projector.linear_1", "projector.linear_2", "none")]

    def _attention(self, x: Tensor, base: str) -> Tensor:
        query, key, value = (self._linear(x, f"{base}.{part}_proj") for part in "qkv")
        if f"{base}.q_norm.weight" in self._weights:
            query, key = self._norm(query, f"{base}.q_norm", 1e-6), self._norm(key, f"{base}.k_norm", 1e-6)
        attended = _attended(*(part.unflatten(-1, (self._heads, -1)) for part in (query, key, value)))
        return self._linear(attended, f"{base}.projection_layer")


def _attended(*qkv: Tensor) -> Tensor:
    """[B, N, h * d] of queries, keys and values [B, N, h, d]."""
    query, key, value = (part.transpose(1, 2) for part in qkv)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _pixel_shuffled(x: Tensor) -> Tensor:
    """[T, G*G, D] to [T * G*G/4, 4*D], each 2x2 block row by row."""
    side = int(x.shape[1] ** 0.5)
    blocks = x.view(len(x), side // 2, 2, side // 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(-1, 4 * x.shape[-1])


VisionTower = Qwen3VlVision | InternVl3Vision
