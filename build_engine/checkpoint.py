"""A Hugging Face checkpoint directory, read without torch: config, tokenizer files and memory-mapped safetensors.

Safetensors only: a directory that holds pickles alone is refused, never opened. Tensor names are canonical
(`text.layers.0...`, `vision...`, `head.weight`), whichever of the two key layouts upstream has used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from build_engine.weight_files import MAX_JSON_BYTES, open_tensors
from egm_edge._processor_config import read_json
from egm_edge.errors import CheckpointError

ROWS_AT_ONCE = 4096  # of a large table, where a copy in float32 is looked at


class CheckpointSettings(dict[str, Any]):
    """A section of config.json that names itself when a key is missing from it."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(
            f"{key} in {self.where}", "no such key", "save the model again with model.save_pretrained"
        )


class Checkpoint:
    """An opened checkpoint directory; without `weights` its settings alone.

    Attributes:
        directory: where it lies.
        config: config.json.
        family: "qwen3_vl" or "internvl3".
        on_read: told the number of values of every read; progress hangs on it.
    """

    def __init__(self, directory: str | Path, *, weights: bool = True) -> None:
        self.directory = Path(directory)
        self.on_read: Callable[[int], None] = lambda count: None
        if not self.directory.is_dir():
            raise CheckpointError("a checkpoint directory", f"nothing at {self.directory}", "check the path")
        if (self.directory / "adapter_config.json").is_file():
            found = "an adapter beside the weights" if (self.directory / "config.json").is_file() else "an adapter alone"
            merge = "PeftModel.from_pretrained(base, DIR).merge_and_unload().save_pretrained(OUT), then build OUT"
            raise CheckpointError("a whole checkpoint without adapters", f"{found} in {self.directory}", merge)
        self.config = CheckpointSettings(self.read_json("config.json"), f"{self.directory / 'config.json'}")
        self.family = self._family()
        self._files = ExitStack()
        self._tensors = open_tensors(self.directory, self._files) if weights else {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the directory; CheckpointError when it is missing, oversized or not an object."""
        return read_json(self.directory / name, MAX_JSON_BYTES)

    def read_json_or_empty(self, name: str) -> dict[str, Any]:
        return self.read_json(name) if (self.directory / name).is_file() else {}

    @property
    def text_config(self) -> dict[str, Any]:
        return self._section("text_config")

    @property
    def vision_config(self) -> dict[str, Any]:
        return self._section("vision_config")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The stored dtype in safetensors' spelling ("BF16", "F16", "F32")."""
        return str(self._slice(name).get_dtype())

    def float32(self, name: str) -> NDArray[np.float32]:
        """The whole tensor as float32 (a copy)."""
        return self.rows_float32(name, 0, None)

    def rows_float32(self, name: str, start: int, stop: int | None) -> NDArray[np.float32]:
        """Rows [start, stop) of a tensor as float32, so that large ones stream."""
        rows = np.ascontiguousarray(self._slice(name)[start:stop]).astype(np.float32)
        self._require_finite(name, rows)
        self.on_read(rows.size)
        return rows

    def joined_rows_float32(self, names: Sequence[str], start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of several tensors stacked one below the other."""
        pieces, first = [], 0
        for name in names:
            last = first + self.shape(name)[0]
            if max(start, first) < min(stop, last):
                pieces.append(self.rows_float32(name, max(start, first) - first, min(stop, last) - first))
            first = last
        return np.concatenate(pieces)

    def bfloat16_bits(self, name: str) -> NDArray[np.uint16]:
        """A BF16 tensor as its raw bits, uint16."""
        rows = np.ascontiguousarray(self._slice(name)[:]).astype(ml_dtypes.bfloat16, copy=False)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self._require_finite(name, rows[start : start + ROWS_AT_ONCE].astype(np.float32))
        return rows.view(np.uint16)

    def _require_finite(self, name: str, rows: NDArray[np.float32]) -> None:
        if not np.isfinite(rows).all():
            raise CheckpointError(f"finite weights in {name}", "a NaN or an infinity", "train or download it again")

    def parameter_count(self) -> int:
        return sum(int(np.prod(self.shape(name), dtype=np.int64)) for name in self._tensors)

    def _section(self, name: str) -> dict[str, Any]:
        section = self.config.get(name)
        if not isinstance(section, dict):
            raise CheckpointError(
                f"{name} in {self.directory / 'config.json'}", "none", "use a Qwen3-VL or InternVL3 (-hf) checkpoint"
            )
        return CheckpointSettings(section, f"{name} of {self.directory / 'config.json'}")

    def _family(self) -> str:
        known = {"qwen3_vl": "qwen3_vl", "internvl": "internvl3"}
        model_type = str(self.config.get("model_type"))
        if model_type not in known:
            raise CheckpointError(
                f"model_type {' or '.join(known)} in config.json",
                f"{model_type!r}",
                "use an EGM, Qwen3-VL or InternVL3 checkpoint in the Hugging Face (-hf) layout",
            )
        return known[model_type]

    def _slice(self, name: str) -> Any:
        try:
            file, key = self._tensors[name]
        except KeyError:
            raise CheckpointError(
                f"tensor {name} in {self.directory}", "no such tensor", "download the checkpoint again"
            ) from None
        return file.get_slice(key)
