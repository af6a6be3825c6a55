"""What the Edge-LLM runtime computes outside the exported graphs, for the numeric check: rotary angles, position taps,
embedding look-up, page table. On the device this is C++; here it is NumPy by the same contract.

Notation: N patches, n tokens, t image tokens, H hidden size, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from build_engine.compilers.plan import CheckpointPlan
from build_engine.modelopt.request_tensors import PreparedRequest
from egm_edge.backends.onnx_runtime import positions
from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.pixels import TILES, PixelSpec

PAGE_TOKENS = 128
Feeds = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class HostMath:
    """The constants of one checkpoint that the inputs depend on.

    Attributes:
        engine: rotary settings and token ids.
        grid_side: side of the learned vision position grid, 0 where there is none.
        embedding: the exporter's embedding table file, float16 [V, H].
    """

    engine: EngineConfig
    spec: PixelSpec
    grid_side: int
    embedding: Path

    @classmethod
    def of(cls, plan: CheckpointPlan, embedding: Path) -> HostMath:
        """Of a checkpoint's plan."""
        grid, checkpoint = "vision.pos_embed.weight", plan.checkpoint
        side = round(checkpoint.shape(grid)[0] ** 0.5) if checkpoint.family == "qwen3_vl" else 0
        return cls(plan.engine(), plan.pixel_spec, side, embedding)

    def visual(self, request: PreparedRequest) -> Feeds:
        """Inputs of visual/model.onnx for one picture."""
        pixels = request.pixel_values.astype(np.float16)
        if self.spec.rule == TILES:
            return {"input": pixels}
        grid, merge = request.pixels.grid_hw, self.spec.merge_size
        vision = self.engine.vision
        indices, weights = self._position_taps(grid)
        return {
            "input": pixels,
            "rotary_pos_emb": positions.vision_angles(grid, merge, vision.head_dim, vision.rope_theta),
            "cu_seqlens": np.asarray([0, len(pixels)], np.int32),
            "fast_pos_embed_idx": indices,
            "fast_pos_embed_weight": weights.astype(np.float16),
            "max_seqlen_carrier": np.zeros(len(pixels), np.int32),
        }

    def llm(
        self, request: PreparedRequest, embeddings: NDArray[np.float32], deepstack: Sequence[NDArray[np.float32]]
    ) -> Feeds:
        """Inputs of llm/model.onnx for the whole request in one pass, logits asked at every position.

        Args:
            embeddings: [t, H] of the picture; deepstack: features of the same shape, one a deep-stack layer.
        """
        ids, count = request.input_ids, len(request.input_ids)
        image = ids == self.engine.image_token_id
        embeds = self._rows(ids)
        embeds[image] = embeddings
        cos, sin = positions.text_table(self.engine, request.positions)
        pages = -(-count // PAGE_TOKENS)
        pool = np.zeros((2, 2 * pages, PAGE_TOKENS, self.engine.kv_heads, self.engine.head_dim), np.float16)
        whole, none = np.asarray([count], np.int32), np.zeros(1, np.int32)
        feeds: Feeds = {
            "inputs_embeds": embeds.astype(np.float16),
            "rope_rotary_cos_sin": np.concatenate([cos, sin], axis=1),
            "positions": np.arange(count, dtype=np.int32),
            "query_start_offsets": np.asarray([0, count], np.int32),
            "query_lengths": whole,
            "past_lengths": none,
            "attention_sequence_lengths": whole,
            "state_indices": none,
            "execution_phase_marker": none,
            "context_sequence_count_carrier": none,
            "kv_page_table": np.arange(2 * pages, dtype=np.int32).reshape(1, 2, pages),
            "logits_indices": np.arange(count, dtype=np.int64),
        }
        feeds |= {f"past_key_values_{i}": pool for i in range(self.engine.layers)}
        for i, features in enumerate(deepstack):
            dense = np.zeros_like(embeds)
            dense[image] = features
            feeds[f"deepstack_embeds_{i}"] = dense.astype(np.float16)
        return feeds

    def _position_taps(self, grid_hw: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Indices and bilinear weights of the four grid points around each patch, [4, N] each, merge-block order."""
        rows, columns = positions.merge_block_order(grid_hw, self.spec.merge_size)
        top, bottom, down = (values[rows] for values in positions.grid_taps(grid_hw[0], self.grid_side))
        left, right, across = (values[columns] for values in positions.grid_taps(grid_hw[1], self.grid_side))
        side, up, back = self.grid_side, 1 - down, 1 - across
        indices = np.stack([top * side + left, top * side + right, bottom * side + left, bottom * side + right])
        return indices.astype(np.int64), np.stack([up * back, up * across, down * back, down * across])

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with safe_open(str(self.embedding), "np") as file:
            table = file.get_slice(next(iter(file.keys())))
            distinct, inverse = np.unique(ids, return_inverse=True)
            rows = np.concatenate([np.asarray(table[int(i) : int(i) + 1]) for i in distinct])
        return rows[inverse].astype(np.float32)
