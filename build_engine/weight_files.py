"""The safetensors of a checkpoint directory, opened and held against its index. Pickles are never opened."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from egm_edge._processor_config import read_json
from egm_edge.errors import CheckpointError
from egm_edge.families.weight_names import canonical_name

MAX_JSON_BYTES = 64 << 20
INDEX_NAME = "model.safetensors.index.json"
FLOAT_DTYPES = ("BF16", "F16", "F32", "F64")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def _weight_map(directory: Path) -> dict[str, str]:
    index = directory / INDEX_NAME
    found = read_json(index, MAX_JSON_BYTES).get("weight_map", {}) if index.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise CheckpointError(f"weight_map in {INDEX_NAME} as names of files", type(found).__name__, "download the file again")
    return found


def _weight_files(directory: Path) -> list[Path]:
    """The files that transformers would read: model.safetensors, else the shards of the index, else what there is."""
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    weight_map = _weight_map(directory)
    shards = set(weight_map.values())
    present = sorted(directory.glob("*.safetensors"))
    missing = sorted(shards - {p.name for p in present})
    if present and missing:
        raise CheckpointError(
            f"every shard named in {directory / INDEX_NAME}",
            f"missing {', '.join(missing)}",
            "download the missing shards",
        )
    return [p for p in present if not shards or p.name in shards]


def open_tensors(directory: Path, files: ExitStack) -> Mapping[str, tuple[Any, str]]:
    """Canonical name -> (its open file, its key there), of every tensor.

    Args:
        files: closes them.

    Raises:
        CheckpointError: no safetensors, a damaged or a missing file, a tensor twice or in another file than the index says.
    """
    paths = _weight_files(directory)
    if not paths:
        pickles = [p.name for p in directory.iterdir() if p.suffix in PICKLE_SUFFIXES]
        found = (
            f"only pickle files ({', '.join(sorted(pickles)[:3])}), which are never opened" if pickles else "none"
        )
        raise CheckpointError(
            f"*.safetensors in {directory}",
            found,
            "save the model with model.save_pretrained(DIR, safe_serialization=True)",
        )
    tensors: dict[str, tuple[Any, str]] = {}
    indexed = {} if paths[0].name == "model.safetensors" else _weight_map(directory)
    for path in paths:
        try:
            file = files.enter_context(safe_open(path, "np"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"a complete safetensors file {path}", str(error), "download the file again"
            ) from None
        for key in file.keys():
            name, stated = canonical_name(key), indexed.get(key)
            if name in tensors or (indexed and stated != path.name):
                where = f"in {stated}" if stated else "nowhere"
                found = f"{key} in {path.name}" + (" and in another file" if name in tensors else f", indexed {where}")
                raise CheckpointError(f"every tensor once, where {INDEX_NAME} says", found, "download the checkpoint again")
            tensors[name] = (file, key)
    if lost := sorted(key for key in indexed if canonical_name(key) not in tensors):
        found = f"no {lost[0]} (of {len(lost)})"
        raise CheckpointError(f"every tensor of {INDEX_NAME}", found, "download the checkpoint again")
    _require_plain_dtypes(tensors)
    return tensors


def _require_plain_dtypes(tensors: Mapping[str, tuple[Any, str]]) -> None:
    for name, (file, key) in tensors.items():
        if (dtype := str(file.get_slice(key).get_dtype())) not in FLOAT_DTYPES:
            raise CheckpointError(
                f"weights stored as {', '.join(FLOAT_DTYPES)}",
                f"{name} as {dtype}",
                "use the unquantized checkpoint; egm build quantizes it",
            )
