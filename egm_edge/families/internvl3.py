"""The InternVL3 family (the `-hf` checkpoints): task texts of the EGM recipe, and plain one-dimensional positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from egm_edge.families.base import expand_image_token
from egm_edge.pixels import Pixels


class InternVL3:
    """Rules of `InternVLForConditionalGeneration` checkpoints."""

    name = "internvl3"
    model_type = "internvl"
    modal = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{expression}</ref>"
    amodal = "Please provide the amodal bounding box coordinate of the region this sentence describes: <ref>{expression}</ref>"
    answer_syntax = "ref_box"
    image_token = "<IMG_CONTEXT>"

    def image_span(self, rendered_token: str) -> str:
        """What the processor puts where the chat template wrote the image token: the token between its two marks."""
        return f"<img>{rendered_token}</img>"

    def prefix_token_ids(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> list[int]:
        return expand_image_token(prefix_ids, image_token_id, pixels.image_token_count)

    def positions(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> NDArray[np.int64]:
        """0, 1, 2 … on all three axes: this family's decoder rotates by the plain position."""
        length = len(expand_image_token(prefix_ids, image_token_id, pixels.image_token_count))
        return np.tile(np.arange(length, dtype=np.int64), (3, 1))
