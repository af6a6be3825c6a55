"""Weights of a checkpoint on a device, read tensor by tensor from safetensors under their canonical names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from egm_edge.errors import CheckpointError
from egm_edge.families.weight_names import canonical_name


class Weights:
    """Tensors by canonical name, on `device` in `dtype` when they are taken.

    Args:
        directory: of the checkpoint; its *.safetensors are opened, nothing else.

    Raises:
        CheckpointError: no safetensors, or damaged ones.
    """

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.directory, self.device, self.dtype = directory, device, dtype
        self._homes: dict[str, tuple[Any, str]] = {}
        for path in sorted(directory.glob("*.safetensors")):
            try:
                file = safe_open(path, framework="pt", device=str(device))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"whole safetensors in {path}", str(error)[:200], "download it again") from None
            self._homes |= {canonical_name(key): (file, key) for key in file.keys()}
        if not self._homes:
            raise CheckpointError(f"*.safetensors in {directory}", "none", "download the checkpoint without its pickles")

    def __contains__(self, name: str) -> bool:
        return name in self._homes

    def names(self, *prefixes: str) -> list[str]:
        """Those that begin so."""
        return [name for name in self._homes if name.startswith(prefixes)]

    def take(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor, in another `dtype` where it is summed in that."""
        if name not in self._homes:
            raise CheckpointError(f"the weight {name} in {self.directory}", "none", "save the model again, whole")
        file, key = self._homes[name]
        return torch.as_tensor(file.get_tensor(key), dtype=dtype or self.dtype)

    def stacked(self, *names: str) -> Tensor:
        """Tensors of several layers below each other, so that one product serves all."""
        return torch.cat([self.take(name) for name in names])
