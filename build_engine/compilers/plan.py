"""CheckpointPlan: what is known of a checkpoint before the first byte of its ONNX bundle is written, for every compiler
that exports graphs itself: both specs, dimensions, tables, manifest fields."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from build_engine.checkpoint import Checkpoint
from build_engine.checkpoint_contents import require_contents
from build_engine.checkpoint_facts import require_plain_greedy, stop_ids, weight_licence
from build_engine.exporters import internvl3_vision, qwen3_vl_vision, text_decoder
from build_engine.exporters.text_decoder import decoder_shape
from build_engine.manifest import BundleWriter
from build_engine.parity import build_gate
from egm_edge import __version__
from egm_edge._processor_config import reading_checkpoint
from egm_edge.backends.onnx_runtime.config import EngineConfig, VisionConfig
from egm_edge.backends.prefix_backend import EMBEDDING, POSITION_GRID
from egm_edge.bundle import SHA256_HEX, Bundle, FileRecord, Manifest
from egm_edge.bundle_from_checkpoint import shipped_confidence_map
from egm_edge.errors import CheckpointError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.families.prompts import check_prompt_split, image_token_id
from egm_edge.pixels import PixelSpec

EMBEDDING_WEIGHT = "text.embed_tokens.weight"
_TOWERS = {"qwen3_vl": qwen3_vl_vision, "internvl3": internvl3_vision}


class CheckpointPlan:
    """A checkpoint, checked.

    Args:
        checkpoint: opened; stays open as long as the plan is used.
        max_pixels: area of the resized image at most; None for the checkpoint's own budget.
        max_new_tokens: generation limit of the bundle.

    Raises:
        CheckpointError: its parts do not belong together, or ask for what the engines do not do.
    """

    def __init__(self, checkpoint: Checkpoint, max_pixels: int | None, max_new_tokens: int) -> None:
        self.checkpoint = checkpoint
        self.max_pixels, self.max_new_tokens = max_pixels, max_new_tokens
        require_contents(checkpoint)
        require_plain_greedy(checkpoint)
        self.shape = decoder_shape(checkpoint)
        self.tower = _TOWERS[checkpoint.family]
        pixel_spec = PixelSpec.from_checkpoint(checkpoint.directory)
        self.pixel_spec = pixel_spec if max_pixels is None else pixel_spec.with_max_pixels(max_pixels)
        self.prompt_spec = read_prompt_spec(checkpoint.directory)
        self.context_tokens = self.shape.max_positions
        self._check_tokenizer()

    @property
    def embedding_dtype(self) -> str:
        """How embedding.npy stores the table: as the checkpoint does, float32 as float16."""
        return "bfloat16" if self.checkpoint.dtype(EMBEDDING_WEIGHT) == "BF16" else "float16"

    @property
    def rescored_logits(self) -> int:
        return 0

    def engine(self) -> EngineConfig:
        """The manifest's model section."""
        return EngineConfig(
            **text_decoder.engine_section(self.shape),
            image_token_id=int(self.checkpoint.config["image_token_id"]),
            stop_token_ids=stop_ids(self.checkpoint),
            embedding_dtype=self.embedding_dtype,
            rescored_logits=self.rescored_logits,
            vision=VisionConfig(**self.tower.engine_section(self.checkpoint)),
        )

    def manifest(self, target: str, precision: str, versions: dict[str, str]) -> dict[str, Any]:
        """Every manifest field but the parity report."""
        limits = {"max_new_tokens": self.max_new_tokens, "context_tokens": self.context_tokens}
        return {
            "target": target,
            "precision": precision,
            "family": self.checkpoint.family,
            "model": self.engine().to_dict(),
            "limits": limits | ({} if self.max_pixels is None else {"max_pixels": self.max_pixels}),
            "pixel_spec": self.pixel_spec.to_dict(),
            "pixel_spec_hash": self.pixel_spec.hash,
            "prompt_spec": self.prompt_spec.to_dict(),
            "prompt_spec_hash": self.prompt_spec.hash,
            "calibration": shipped_confidence_map(self.checkpoint.directory),
            "versions": {name: version(name) for name in ("onnx", "numpy")} | versions,
            "licences": {"code": "Apache-2.0", "weights": weight_licence(self.checkpoint)},
        }

    def write_tables(self, writer: BundleWriter) -> None:
        """Embedding table, position grid, tokenizer and licences."""
        checkpoint, dtype = self.checkpoint, self.embedding_dtype
        if dtype == "bfloat16":
            table: np.ndarray[Any, Any] = checkpoint.bfloat16_bits(EMBEDDING_WEIGHT)
        else:
            table = checkpoint.float32(EMBEDDING_WEIGHT).astype(dtype)
        _save_array(writer.path(EMBEDDING), table)
        if checkpoint.family == "qwen3_vl":
            _save_array(writer.path(POSITION_GRID), checkpoint.float32("vision.pos_embed.weight"))
        shutil.copyfile(checkpoint.directory / "tokenizer.json", writer.path("tokenizer.json"))
        for licence in sorted((*checkpoint.directory.glob("LICENSE*"), *checkpoint.directory.glob("ATTRIBUTION*"))):
            shutil.copyfile(licence, writer.path(f"LICENSES/{licence.name}"))

    def count(self, name: str) -> int:
        """Values of a tensor."""
        return int(np.prod(self.checkpoint.shape(name), dtype=np.int64))

    def _check_tokenizer(self) -> None:
        """The tokenizer must be readable, know the image token by the config's id, and cut the prompt where it is cut."""
        path = self.checkpoint.directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"tokenizer.json in {self.checkpoint.directory}", "none", "save it with tokenizer.save_pretrained(DIR)"
            )
        with reading_checkpoint(f"a tokenizer in {path}"):
            tokenizer = Tokenizer.from_file(str(path))
        stated, known = self.checkpoint.config["image_token_id"], image_token_id(tokenizer, self.prompt_spec)
        if stated != known:
            raise CheckpointError(
                f"image_token_id {known} in config.json, as in tokenizer.json",
                f"{stated}",
                "copy both from one checkpoint",
            )
        check_prompt_split(tokenizer, self.prompt_spec)


def preview(writer: BundleWriter, manifest: dict[str, Any]) -> Bundle:
    """The bundle as written so far, not yet hashed: good for running it before it is committed."""
    names = (path.relative_to(writer.root).as_posix() for path in writer.root.rglob("*") if path.is_file())
    files = {name: FileRecord("0" * SHA256_HEX, (writer.root / name).stat().st_size) for name in names}
    parity = build_gate.unverified("being compared")
    values = {"calibration": None} | manifest
    return Bundle(writer.root, Manifest(egm_edge_version=__version__, **values, parity=parity, files=files))


def _save_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
