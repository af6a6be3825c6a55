"""The CPU compiler: checkpoint to ONNX Runtime bundle, weights streamed, nothing of torch.

Reads top to bottom: read the specs, check the disk, write the graphs, write the tables, compare with the checkpoint, commit.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tokenizers import Tokenizer

from build_engine.checkpoint import Checkpoint
from build_engine.exporters import internvl3_vision, qwen3_vl_vision, text_decoder
from build_engine.exporters.graph import WeightFormat
from build_engine.exporters.text_decoder import DecoderShape
from build_engine.manifest import BundleWriter
from build_engine.parity import build_gate
from build_engine.progress import Progress
from build_engine.request import MAX_NEW_TOKENS, BuildRequest
from egm_edge import __version__
from egm_edge.backends.onnx_runtime.backend import EMBEDDING, POSITION_GRID
from egm_edge.backends.onnx_runtime.config import EngineConfig, VisionConfig
from egm_edge.backends.onnx_runtime.sessions import DECODER, HEAD, PREFILL, VISION
from egm_edge.bundle import SHA256_HEX, Bundle, FileRecord, Manifest
from egm_edge.errors import BuildError, CheckpointError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.families.prompts import check_prompt_split, image_token_id
from egm_edge.pixels import PixelSpec

RESCORED_LOGITS = 64
WIDE_HIDDEN = 1024  # from here on blocks of 128 are the fastest kernels; narrow models keep finer scales
_TOWERS = {"qwen3_vl": qwen3_vl_vision, "internvl3": internvl3_vision}


@dataclass(frozen=True, slots=True)
class Formats:
    """Weight formats of the four graphs; `prefill` None when the decoder graph serves both."""

    vision: WeightFormat
    decoder: WeightFormat
    prefill: WeightFormat | None
    head: WeightFormat


PRECISIONS = {
    "fp32": Formats(WeightFormat.FP32, WeightFormat.FP32, None, WeightFormat.FP32),
    "int8": Formats(WeightFormat.W8A8, WeightFormat.INT8, WeightFormat.W8A8, WeightFormat.INT8),
    "int4": Formats(WeightFormat.W8A8, WeightFormat.INT4, WeightFormat.W8A8, WeightFormat.INT4),
}


def compile_cpu(request: BuildRequest) -> Bundle:
    """`build_cpu` for the table of targets."""
    request.require_batch_of_one()
    return build_cpu(
        request.checkpoint,
        request.out_dir,
        precision=request.precision,
        force=request.force,
        gate=request.gate,
        max_pixels=request.max_pixels,
        max_new_tokens=request.max_new_tokens,
        progress_stream=request.progress_stream,
    )


def build_cpu(
    checkpoint_dir: str | Path,
    out_dir: str | Path,
    *,
    precision: str = "int8",
    force: bool = False,
    gate: bool = True,
    max_pixels: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress_stream: TextIO | None = None,
) -> Bundle:
    """Build the CPU bundle of a checkpoint.

    Args:
        checkpoint_dir: a Hugging Face directory of an EGM, Qwen3-VL or InternVL3 (-hf) model.
        out_dir: the bundle; appears complete or not at all.
        precision: "fp32", "int8" or "int4".
        force: replace a damaged bundle at `out_dir`.
        gate: compare the bundle with its checkpoint, run by transformers, on probe pictures and refuse it when they differ
            (checkpoints too large for that beside the build are recorded as unverified instead).
        max_pixels: area of the resized image at most; None for the checkpoint's own budget.
        max_new_tokens: generation limit that the bundle carries.
        progress_stream: where progress goes; None keeps silent.

    Raises:
        CheckpointError, BuildError: see their messages; nothing is left at `out_dir`.
    """
    if precision not in PRECISIONS:
        raise BuildError(
            f"precision {', '.join(PRECISIONS)} for target cpu", repr(precision), "pass one of them with --precision"
        )
    formats = PRECISIONS[precision]
    with Checkpoint(checkpoint_dir) as checkpoint, BundleWriter(out_dir, force=force) as writer:
        plan = _Plan(checkpoint, formats, max_pixels, max_new_tokens)
        writer.require_free(plan.disk_bytes())
        bar = Progress(plan.work_units(), progress_stream)
        _write_graphs(plan, writer, bar)
        _write_tables(plan, writer)
        manifest = plan.manifest(precision)
        bar.stage("parity gate")
        parity = _gate(plan, writer, manifest) if gate else build_gate.unverified("the gate was switched off")
        bar.stage("hashing")
        bundle = writer.commit(**manifest, parity=parity)
        bar.finish()
        return bundle


def _gate(plan: _Plan, writer: BundleWriter, manifest: dict[str, Any]) -> dict[str, Any]:
    """Compare what was just written with its checkpoint."""
    return build_gate.gate(_preview(writer, manifest), plan.checkpoint.directory, plan.checkpoint.parameter_count())


def _preview(writer: BundleWriter, manifest: dict[str, Any]) -> Bundle:
    """The bundle as written so far, not yet hashed: good for running it before it is committed."""
    names = (path.relative_to(writer.root).as_posix() for path in writer.root.rglob("*") if path.is_file())
    files = {name: FileRecord("0" * SHA256_HEX, (writer.root / name).stat().st_size) for name in names}
    parity = build_gate.unverified("being compared")
    return Bundle(
        writer.root, Manifest(egm_edge_version=__version__, **manifest, calibration=None, parity=parity, files=files)
    )


class _Plan:
    """What is known before the first byte is written."""

    def __init__(
        self, checkpoint: Checkpoint, formats: Formats, max_pixels: int | None, max_new_tokens: int
    ) -> None:
        self.checkpoint, self.formats = checkpoint, formats
        self.max_pixels, self.max_new_tokens = max_pixels, max_new_tokens
        checkpoint.require_complete_layers()
        _require_plain_greedy(checkpoint)
        self.shape = DecoderShape.read(checkpoint)
        self.tower = _TOWERS[checkpoint.family]
        pixel_spec = PixelSpec.from_checkpoint(checkpoint.directory)
        self.pixel_spec = pixel_spec if max_pixels is None else pixel_spec.with_max_pixels(max_pixels)
        self.prompt_spec = read_prompt_spec(checkpoint.directory)
        self.block_size = 128 if self.shape.hidden >= WIDE_HIDDEN else 32
        self._check_tokenizer()
        self.head_format = formats.head
        if self.head_format is WeightFormat.INT4 and not self.shape.tied_head:
            self.head_format = WeightFormat.INT8  # the table cannot rescore a head that is not its own

    def _check_tokenizer(self) -> None:
        """The tokenizer must be readable, know the image token by the config's id, and cut the prompt where it is cut."""
        path = self.checkpoint.directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"tokenizer.json in {self.checkpoint.directory}", "none", "save it with tokenizer.save_pretrained(DIR)"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"a tokenizer in {path}", str(error), "download the file again") from None
        stated, known = self.checkpoint.config["image_token_id"], image_token_id(tokenizer, self.prompt_spec)
        if stated != known:
            raise CheckpointError(
                f"image_token_id {known} in config.json, as in tokenizer.json",
                f"{stated}",
                "copy both from one checkpoint",
            )
        check_prompt_split(tokenizer, self.prompt_spec)

    def engine(self) -> EngineConfig:
        config = self.checkpoint.config
        vision = VisionConfig(**self.tower.engine_section(self.checkpoint))
        return EngineConfig(
            **text_decoder.engine_section(self.shape),
            image_token_id=int(config["image_token_id"]),
            stop_token_ids=_stop_ids(self.checkpoint),
            embedding_dtype=_embedding_dtype(self.checkpoint, self.formats),
            rescored_logits=RESCORED_LOGITS if self.head_format is WeightFormat.INT4 else 0,
            vision=vision,
        )

    def work_units(self) -> int:
        """Parameters to convert, the decoder's once more for a second copy."""
        text = sum(self._count(name) for name in self.checkpoint.names() if name.startswith("text.layers."))
        return self.checkpoint.parameter_count() + (text if self.formats.prefill else 0)

    def disk_bytes(self) -> int:
        """An upper bound of the bundle's size."""
        bytes_each = {WeightFormat.FP32: 4.0, WeightFormat.INT8: 1.2, WeightFormat.W8A8: 1.1, WeightFormat.INT4: 0.7}
        per_parameter = bytes_each[self.formats.decoder] + (
            bytes_each[self.formats.prefill] if self.formats.prefill else 0.0
        )
        table = self._count("text.embed_tokens.weight") * (4 if self.formats.head is WeightFormat.FP32 else 2)
        return int(self.checkpoint.parameter_count() * per_parameter) + table + (16 << 20)

    def manifest(self, precision: str) -> dict[str, Any]:
        """Every manifest field but the parity report."""
        return {
            "target": "cpu",
            "precision": precision,
            "family": self.checkpoint.family,
            "model": self.engine().to_dict(),
            "limits": {"max_new_tokens": self.max_new_tokens, "context_tokens": self.shape.max_positions}
            | ({} if self.max_pixels is None else {"max_pixels": self.max_pixels}),
            "pixel_spec": self.pixel_spec.to_dict(),
            "pixel_spec_hash": self.pixel_spec.hash,
            "prompt_spec": self.prompt_spec.to_dict(),
            "prompt_spec_hash": self.prompt_spec.hash,
            "versions": {name: version(name) for name in ("onnx", "onnxruntime", "numpy")},
            "licences": {"code": "Apache-2.0", "weights": _weight_licence(self.checkpoint)},
        }

    def _count(self, name: str) -> int:
        return int(np.prod(self.checkpoint.shape(name), dtype=np.int64))


def _write_graphs(plan: _Plan, writer: BundleWriter, bar: Progress) -> None:
    checkpoint, shape, formats, block = plan.checkpoint, plan.shape, plan.formats, plan.block_size
    checkpoint.on_read = bar.advance
    bar.stage(f"vision ({formats.vision.value})")
    plan.tower.write_vision(checkpoint, plan.pixel_spec, writer.path(VISION), formats.vision, block_size=block)
    deepstack = plan.engine().vision.deepstack
    for name, fmt in ((DECODER, formats.decoder), (PREFILL, formats.prefill)):
        if fmt is not None:
            bar.stage(f"{Path(name).stem} ({fmt.value})")
            text_decoder.write_decoder(checkpoint, shape, writer.path(name), fmt, block_size=block, deepstack=deepstack)
    bar.stage(f"head ({plan.head_format.value})")
    text_decoder.write_head(checkpoint, shape, writer.path(HEAD), plan.head_format, block_size=block)


def _write_tables(plan: _Plan, writer: BundleWriter) -> None:
    checkpoint, name = plan.checkpoint, "text.embed_tokens.weight"
    dtype = _embedding_dtype(checkpoint, plan.formats)
    table = checkpoint.bfloat16_bits(name) if dtype == "bfloat16" else checkpoint.float32(name).astype(dtype)
    _save_array(writer.path(EMBEDDING), table)
    if checkpoint.family == "qwen3_vl":
        _save_array(writer.path(POSITION_GRID), checkpoint.float32("vision.pos_embed.weight"))
    shutil.copyfile(checkpoint.directory / "tokenizer.json", writer.path("tokenizer.json"))
    for licence in sorted(checkpoint.directory.glob("LICENSE*")):
        shutil.copyfile(licence, writer.path(f"LICENSES/{licence.name}"))


def _save_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _embedding_dtype(checkpoint: Checkpoint, formats: Formats) -> str:
    stored = checkpoint.dtype("text.embed_tokens.weight")
    if stored == "BF16":
        return "bfloat16"
    return "float32" if stored == "F32" and formats.head is WeightFormat.FP32 else "float16"


def _require_plain_greedy(checkpoint: Checkpoint) -> None:
    """Penalties change transformers' greedy text too; the engine has none, so such a checkpoint would answer otherwise."""
    settings = checkpoint.read_json_or_empty("generation_config.json")
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    odd = [f"{key} {settings[key]}" for key, value in neutral.items() if settings.get(key, value) not in (value, None)]
    if odd:
        raise CheckpointError(
            "plain greedy decoding in generation_config.json, as EGM is evaluated",
            ", ".join(odd),
            "remove it from that file",
        )


def _stop_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """End tokens: generation_config first, as transformers' generate does, else the text config's.

    A checkpoint that names none (tiny random ones do) ends at the token limit, as it does in transformers.
    """
    for values in (checkpoint.read_json_or_empty("generation_config.json"), checkpoint.text_config, checkpoint.config):
        found = values.get("eos_token_id")
        if found is not None:
            return tuple(int(token) for token in (found if isinstance(found, list) else [found]))
    return ()


def _weight_licence(checkpoint: Checkpoint) -> str:
    """The licence that the checkpoint's own model card states."""
    card = checkpoint.directory / "README.md"
    if card.is_file():
        for line in card.read_text("utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.split(":", 1)[1].strip() or "not stated"
    return "not stated"
