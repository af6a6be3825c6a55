"""PrefixFrame: a frame as a decoder with one KV cache sees it. Knows nothing of runtimes.

Tensor notation: p prefix tokens, H hidden size, t image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.backends.onnx_runtime.embedding import EmbeddingTable
from egm_edge.errors import BackendError
from egm_edge.families import Family
from egm_edge.pixels import Pixels

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(slots=True, eq=False)
class FramePrefix:
    """A frame's image features and prefix; its keys and values live in the backend's cache while it is resident.

    Attributes:
        opening_ids: the prefix before the image (the chat template's opening, a system prompt), the same for every frame.
        positions: [3, p] rotary positions.
        features: [t, H] image embeddings, then deep-stack features of that shape; arrays or tensors, as the backend keeps them.
    """

    prefix_ids: tuple[int, ...]
    opening_ids: tuple[int, ...]
    positions: NDArray[np.int64]
    features: list[Any]
    vision_ms: float
    prefill_ms: float = 0.0

    @classmethod
    def of(
        cls,
        pixels: Pixels,
        prefix_ids: Sequence[int],
        features: Sequence[Any],
        vision_ms: float,
        family: Family,
        image_token_id: int,
    ) -> Self:
        """A frame of what the vision tower gave.

        Raises:
            BackendError: pixels, prefix and vision tower do not agree on the number of image tokens.
        """
        image_tokens = sum(token == image_token_id for token in prefix_ids)
        if not image_tokens == pixels.image_token_count == len(features[0]):
            raise BackendError(
                f"{pixels.image_token_count} image tokens in the prefix",
                f"{image_tokens} pad tokens and {len(features[0])} image embeddings",
                "rebuild the bundle: its prompt and pixel specs disagree with its vision tower",
            )
        positions = family.positions(prefix_ids, image_token_id, pixels)
        opening = tuple(prefix_ids[: prefix_ids.index(image_token_id)])
        return cls(tuple(prefix_ids), opening, positions, list(features), vision_ms)

    @property
    def prefix_token_count(self) -> int:
        return len(self.prefix_ids)

    @property
    def image_token_count(self) -> int:
        return len(self.features[0])


class PrefixFrame(FramePrefix):
    """With features on the host, float32."""

    __slots__ = ()

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """[t, H]."""
        return cast(NDArray[np.float32], self.features[0])

    @property
    def deepstack(self) -> list[NDArray[np.float32]]:
        """[t, H] each; may be set."""
        return self.features[1:]

    @deepstack.setter
    def deepstack(self, features: Sequence[NDArray[np.float32]]) -> None:
        self.features[1:] = features

    def decoder_inputs(
        self, table: EmbeddingTable, config: EngineConfig
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Embeddings [p, H] with the image's at the pad tokens, and deep-stack features of that shape, zero at text."""
        ids = np.array(self.prefix_ids, np.int64)
        embeds, at_image = table.rows(ids), ids == config.image_token_id
        embeds[at_image] = self.embeddings
        extras = [np.zeros_like(embeds) for _ in self.deepstack]
        for extra, feature in zip(extras, self.deepstack, strict=True):
            extra[at_image] = feature
        return embeds, extras
