"""The data set that verl loads by name: pictures reach the processor as they are stored, so that training and the robot see
the same pixels. verl's own first resizes them to multiples of 28 or 32 pixels. Imports verl; nothing here imports this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from verl.utils.dataset.rl_dataset import RLHFDataset


class EgmDataset(RLHFDataset):
    """`RLHFDataset` over a parquet of `training.verl.parquet`."""

    @classmethod
    def _process_multi_modal_info(
        cls, messages: Sequence[dict[str, Any]], image_patch_size: int, config: Any
    ) -> tuple[list[Image.Image] | None, None, None]:
        """Pictures, videos, audios of chat messages; `process_multi_modal_info`, which rollouts call, comes here too."""
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        return [part["image"].convert("RGB") for part in parts if part["type"] == "image"] or None, None, None
