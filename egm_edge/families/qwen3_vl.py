"""The Qwen3-VL family: task texts of the EGM recipe, and interleaved M-RoPE positions.

Texts are the ones of EGM's RL and evaluation stages (no final period), one user turn, image first, no system message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from egm_edge.families.base import expand_image_token, locate_image_token
from egm_edge.pixels import Pixels


class Qwen3VL:
    """Rules of `Qwen3VLForConditionalGeneration` checkpoints."""

    name = "qwen3_vl"
    model_type = "qwen3_vl"
    modal = "Locate {expression}, output its bbox coordinates using JSON format"
    amodal = "Locate {expression} amodally, output its bbox coordinates using JSON format"
    answer_syntax = "bbox_2d_json"
    image_token = "<|image_pad|>"

    def image_span(self, rendered_token: str) -> str:
        """What the processor puts where the chat template wrote the image token: the token itself."""
        return rendered_token

    def prefix_token_ids(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> list[int]:
        return expand_image_token(prefix_ids, image_token_id, pixels.image_token_count)

    def positions(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> NDArray[np.int64]:
        """As transformers' `get_rope_index` for one image: the image's three axes start at the position it stands at,
        time stays there, height and width count merged patches, and the text goes on from the larger of the two.
        """
        before, after = locate_image_token(prefix_ids, image_token_id, pixels.image_token_count)
        rows, columns = _merged_grid(pixels)
        image = np.stack(
            [np.zeros(rows * columns, np.int64), np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)]
        )
        start_after = before + max(rows, columns)
        text_before = np.broadcast_to(np.arange(before), (3, before))
        text_after = np.broadcast_to(np.arange(after) + start_after, (3, after))
        return np.concatenate([text_before, image + before, text_after], axis=1).astype(np.int64)


def _merged_grid(pixels: Pixels) -> tuple[int, int]:
    """Rows and columns of image tokens: the patch grid over the merge size, which their counts determine."""
    rows, columns = pixels.grid_hw
    merge = math.isqrt(rows * columns // pixels.image_token_count)
    return rows // merge, columns // merge
