"""A checkpoint directory described as a bundle, so that whatever takes an opened bundle takes a checkpoint too.

Nothing is written and no weight is read but for its sha256. What runs it is transformers (`backends.transformers_backend`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from egm_edge import __version__
from egm_edge._processor_config import read_json, reading_checkpoint
from egm_edge.bundle import CONFIDENCE_MAP, HASH_THREADS, MANIFEST_NAME, Bundle, FileRecord, Manifest, Verify, sha256_of
from egm_edge.errors import CheckpointError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.pixels import PixelSpec

TARGET = "transformers"
PRECISION = "fp32"
MAX_NEW_TOKENS = 1024  # as bundles are built
CONTENT = ("*.json", "*.jinja", "*.safetensors")
MOST_HEADER_BYTES = 100_000_000  # as the safetensors library has it


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory is a Hugging Face checkpoint and no bundle."""
    root = Path(directory)
    return (root / "config.json").is_file() and not (root / MANIFEST_NAME).is_file()


def open_directory(path: str | Path, *, verify: Verify = "full") -> Bundle:
    """A bundle as `Bundle.open` opens it, or a checkpoint described as one.

    Raises:
        BundleError, CheckpointError: neither of them, or damaged.
    """
    return describe_checkpoint(path) if is_checkpoint(path) else Bundle.open(path, verify=verify)


def check_weights(root: Path) -> None:
    """Whether every shard of a checkpoint is there and as long as its header says; no weight is read.

    Raises:
        CheckpointError: a shard is missing or cut short.
    """
    index = root / "model.safetensors.index.json"
    weight_map = read_json(index).get("weight_map", {}) if index.is_file() else {}
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"weight_map in {index}", f"a {type(weight_map).__name__}", "download the file again")
    missing = sorted(name for name in set(map(str, weight_map.values())) if not os.path.isfile(root / name))
    if missing:
        raise CheckpointError(
            f"every shard named in {index}", f"missing {missing[0][:80]}", "download the missing shards"
        )
    for path in sorted(root.glob("*.safetensors")):
        try:
            size, expected = path.stat().st_size, _expected_size(path)
        except OSError as error:
            found = error.strerror or str(error)
            raise CheckpointError(f"a readable safetensors file {path}", found, "download the file again") from None
        if size != expected:
            raise CheckpointError(f"a complete safetensors file {path}", f"{size:,} bytes", "download the file again")


def _expected_size(path: Path) -> int | None:
    """Bytes of a safetensors file by its header, None where that is none."""
    with path.open("rb") as stream:  # 8 bytes of length, a JSON header of that length, the tensors
        length = int.from_bytes(stream.read(8), "little")
        if length > MOST_HEADER_BYTES:
            return None
        try:
            header = json.loads(stream.read(length))
            ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            return 8 + length + max(map(int, ends))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
            return None


def describe_checkpoint(directory: str | Path, *, max_pixels: int | None = None) -> Bundle:
    """A bundle of target "transformers" that lies where the checkpoint lies.

    Args:
        max_pixels: area of the resized image at most; None for the checkpoint's own budget.

    Raises:
        CheckpointError: no safetensors or no tokenizer.json, or settings that this project does not know.
        BackendError: jinja2, which renders the chat template, is not installed.
    """
    root = Path(directory).resolve()
    for pattern in ("*.safetensors", "tokenizer.json"):
        if not any(root.glob(pattern)):
            raise CheckpointError(f"{pattern} in {root}", "none", "download the checkpoint again, without its pickles")
    check_weights(root)
    config, pixel_spec, prompt_spec = (
        read_json(root / "config.json"),
        PixelSpec.from_checkpoint(root),
        read_prompt_spec(root),
    )
    if max_pixels is not None:
        pixel_spec = pixel_spec.with_max_pixels(max_pixels)
    generation = root / "generation_config.json"
    with reading_checkpoint(f"settings as transformers writes them in {root / 'config.json'} and {generation.name}"):
        text_config = config["text_config"]
        model = {
            "image_token_id": int(config["image_token_id"]),
            "stop_token_ids": list(
                stop_token_ids(read_json(generation) if generation.is_file() else {}, text_config, config)
            ),
        }
        limits = {"max_new_tokens": MAX_NEW_TOKENS, "context_tokens": int(text_config["max_position_embeddings"])}
    manifest = Manifest(
        egm_edge_version=__version__,
        target=TARGET,
        precision=PRECISION,
        family=prompt_spec.family,
        model=model,
        limits=limits | ({} if max_pixels is None else {"max_pixels": max_pixels}),
        pixel_spec=pixel_spec.to_dict(),
        pixel_spec_hash=pixel_spec.hash,
        prompt_spec=prompt_spec.to_dict(),
        prompt_spec_hash=prompt_spec.hash,
        calibration=shipped_confidence_map(root),
        parity={"status": "unverified", "why": "the checkpoint itself"},
        versions={},
        licences={},
        files=_records(root),
    )
    return Bundle(root, manifest)


def stop_token_ids(*settings: Mapping[str, Any]) -> tuple[int, ...]:
    """End tokens of the first settings that name any.

    Args:
        settings: generation_config.json first, as transformers' generate does, then the text config, then the whole config.

    Returns:
        () where none names any (tiny random checkpoints): answers then end at the token limit, as in transformers.
    """
    for values in settings:
        found = values.get("eos_token_id")
        if found is not None:
            return tuple(int(token) for token in (found if isinstance(found, list) else [found]))
    return ()


def _records(root: Path) -> dict[str, FileRecord]:
    paths = sorted({path for pattern in CONTENT for path in root.glob(pattern) if path.is_file()})
    with ThreadPoolExecutor(HASH_THREADS) as pool:  # hashlib releases the GIL
        digests = list(pool.map(sha256_of, paths))
    return {path.name: FileRecord(digest, path.stat().st_size) for path, digest in zip(paths, digests, strict=True)}


def shipped_confidence_map(checkpoint: Path) -> dict[str, Any] | None:
    """The confidence map beside a checkpoint's weights (`egm calibrate --keep-in`), None where there is none."""
    path = checkpoint / CONFIDENCE_MAP
    return read_json(path) if path.is_file() else None
