"""TorchBackend: a checkpoint on a GPU (or, for tests, a CPU) behind the same protocol as every engine.

Steps of 1, 2, 4, 8 and 16 tokens and the vision tower of each picture size are captured once and replayed; a step between
two of these sizes is filled up with tokens whose places the next step overwrites. One KV cache; the frame's prefix stays in it.

Notation: n fed tokens, p prefix tokens, t image tokens, V vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egm_edge._processor_config import read_json
from egm_edge.backends.base import (
    Capabilities,
    EngineFrame,
    Interruptible,
    RuntimeFacts,
    require_reached,
    require_room,
    require_same_frame,
    require_tokens,
)
from egm_edge.backends.prefix_frame import FramePrefix
from egm_edge.backends.torch_gpu.attention import Attention, attention_for
from egm_edge.backends.torch_gpu.capture import Capture, CudaGraphs
from egm_edge.backends.torch_gpu.text_decoder import KvCache, TextDecoder
from egm_edge.backends.torch_gpu.vision import InternVl3Vision, Qwen3VlVision, VisionTower
from egm_edge.backends.torch_gpu.weights import Weights
from egm_edge.bundle import Bundle
from egm_edge.bundle_from_checkpoint import TARGET as CHECKPOINT_TARGET
from egm_edge.errors import BackendError
from egm_edge.families import family_for
from egm_edge.pixels import Pixels, PixelSpec

STEP_TOKENS = (1, 2, 4, 8, 16)
FIRST_CAPACITY, CAPACITY_STEP = 1024, 256
TOWERS: dict[str, type[Qwen3VlVision | InternVl3Vision]] = {"qwen3_vl": Qwen3VlVision, "internvl": InternVl3Vision}


@contextmanager
def _device_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        found = str(error).partition(". GPU")[0][:200]
        raise BackendError(
            "enough memory on the GPU", found, "take a smaller model, fewer pixels, or a free GPU"
        ) from None


class TorchFrame(FramePrefix):
    """A frame with its features on the device."""

    __slots__ = ()

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """[t, H], for comparisons."""
        return np.asarray(self.features[0].float().cpu().numpy())

    @property
    def deepstack(self) -> list[NDArray[np.float32]]:
        """[t, H] each, for comparisons; may be set."""
        return [np.asarray(feature.float().cpu().numpy()) for feature in self.features[1:]]

    @deepstack.setter
    def deepstack(self, features: Sequence[NDArray[np.float32]]) -> None:
        self.features[1:] = [torch.from_numpy(feature).to(self.features[0]) for feature in features]

    @property
    def shift(self) -> int:
        """What a token behind the prefix adds to its place for its rotary position."""
        return int(self.positions.max()) + 1 - self.prefix_token_count


@dataclass(slots=True)
class TorchRows:
    """Continuations of one frame, each a row of a cache; a request alone is a batch of one row."""

    backend: TorchBackend
    frame: TorchFrame
    cache: KvCache
    lengths: list[int]

    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        self.reserve(max(self.lengths) + 1)
        cache = self.cache.rows(0, len(token_ids))
        logits = self.backend.run(
            np.array(token_ids)[:, None], np.array(self.lengths)[:, None], self.frame.shift, cache
        )
        self.lengths = [length + 1 for length in self.lengths]
        return logits[:, 0]

    def drop(self, row: int) -> None:
        length = self.lengths.pop()
        if row != len(self.lengths):
            for part in self.cache:
                part[:, row, :length] = part[:, len(self.lengths), :length]
            self.lengths[row] = length

    def row(self, row: int) -> TorchSession:
        return TorchSession(self, row)

    def reserve(self, needed: int) -> None:
        """Make room for sequences of `needed` tokens, doubling the cache up to the checkpoint's own limit."""
        require_room(needed, self.backend.context_tokens)
        if needed > self.cache.places:
            self.cache = self.backend.grown(self.cache, max(needed, 2 * self.cache.places))


@dataclass(slots=True)
class TorchSession:
    """A sequence: one request after its frame's prefix, or one of its continuations."""

    batch: TorchRows
    place: int = 0

    @property
    def length(self) -> int:
        return self.batch.lengths[self.place]

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        batch, start, end = self.batch, self.length, self.length + len(token_ids)
        batch.backend.require_resident(batch.frame)
        require_tokens(token_ids)
        batch.reserve(end)
        ids, places, cache = (
            np.array([token_ids]),
            np.arange(start, end)[None],
            batch.cache.rows(self.place, self.place + 1),
        )
        logits = batch.backend.run(ids, places, batch.frame.shift, cache, every_position=every_position)[0]
        batch.lengths[self.place] = end
        return logits if every_position else logits[0]

    def truncate(self, length: int) -> None:
        self.batch.backend.require_resident(self.batch.frame)
        require_reached(length, self.length)
        self.batch.lengths[self.place] = length

    def fork(self, rows: int, room: int) -> TorchRows:
        own, length = self.batch, self.length
        own.backend.require_resident(own.frame)
        cache = own.backend.branch_cache(rows, length + room)
        cache.copy_from(own.cache.rows(self.place, self.place + 1), length)
        return TorchRows(own.backend, own.frame, cache, [length] * rows)


class TorchBackend(Interruptible):
    """The backend of checkpoints on a GPU. One thread at a time.

    Args:
        bundle: built for "torch", or a checkpoint described by `bundle_from_checkpoint.describe_checkpoint`.
        device: "cuda", "cuda:1", "cpu"; None for the GPU that torch sees, else the CPU.
        dtype: None for the bundle's precision, bfloat16 unless it says otherwise, float16 on GPUs before sm80, float32 on a
            CPU.
        capture: how repeated steps run; None for CUDA graphs on a GPU.
        attention: None for the fastest that runs here.

    `interrupt` ends a prefill before its next layer; a captured step goes on.

    Raises:
        CheckpointError: the directory is no whole checkpoint of a known family.
        BackendError: the GPU has too little memory.
    """

    capabilities = Capabilities(interrupt=True, branches=True)

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        capture: Capture | None = None,
        attention: Attention | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_gpu = self.device.type == "cuda"
        capability = torch.cuda.get_device_capability(self.device) if on_gpu else None
        directory, manifest = Path(bundle.root), bundle.manifest
        config = read_json(directory / "config.json")
        self.spec, self.family = PixelSpec.from_dict(manifest.pixel_spec), family_for(manifest.family)
        self.image_token_id = int(manifest.model["image_token_id"])
        self.context_tokens = int(manifest.limits["context_tokens"])
        dtype = dtype or _dtype(bundle, capability)
        self._capture: Capture = capture or (CudaGraphs(self.device) if on_gpu else Capture())
        with _device_memory():
            weights = Weights(directory, self.device, dtype)
            self.decoder = TextDecoder(weights, config, attention or attention_for(dtype, capability))
            self.vision: VisionTower = TOWERS[config["model_type"]](weights, config, self.spec)
            self.cache = self._empty(1, FIRST_CAPACITY)
        self._branches: KvCache | None = None
        self._resident: TorchRows | None = None  # the frame in the cache, and what the request behind it reached
        names = [str(dtype).removeprefix("torch."), *filter(None, [self.decoder.attention.name])]
        threads = 0 if on_gpu else torch.get_num_threads()
        self.facts = RuntimeFacts(f"torch {torch.__version__} ({', '.join(names)})", str(self.device), threads)

    @torch.inference_mode()
    @_device_memory()
    def open_frame(self, pixels: Pixels, prefix_ids: Sequence[int]) -> TorchFrame:
        """Run the vision tower and the prefix; the frame is resident afterwards."""
        self._require_running()
        started = self._now()
        captured = self._capture(
            ("vision", pixels.patches.shape, pixels.grid_hw), self.vision.forward, self.vision.inputs(pixels)
        )
        features = [feature.clone() for feature in captured]
        vision_ms = (self._now() - started) * 1e3
        frame = TorchFrame.of(pixels, prefix_ids, features, vision_ms, self.family, self.image_token_id)
        self._make_resident(frame)
        return frame

    def open_session(self, frame: EngineFrame) -> TorchSession:
        """Start a request on `frame`. A frame that another one displaced pays its prefix again, not its vision."""
        if not isinstance(frame, TorchFrame):
            raise BackendError("a frame of this backend", type(frame).__name__, "open it with open_frame")
        self._require_running()
        own = self._resident
        if own is None or own.frame is not frame:
            own = self._make_resident(frame)
        own.lengths[0] = frame.prefix_token_count
        return TorchSession(own)

    @torch.inference_mode()
    @_device_memory()
    def run(
        self,
        token_ids: NDArray[np.int64],
        places: NDArray[np.int64],
        shift: int,
        cache: KvCache,
        *,
        every_position: bool = True,
    ) -> NDArray[np.float32]:
        """Logits [B, n, V] (or [B, 1, V] of the last tokens) of text tokens [B, n] at their places.

        Up to the largest step, counts are filled up to the next captured size: the surplus writes behind the sequence, where
        nobody looks before it is written again.
        """
        self._require_running()
        self._require_known(token_ids)
        rows, count = token_ids.shape
        size = next((n for n in STEP_TOKENS if n >= count), count)
        if int(places.max()) + size - count >= cache.places:
            size = count
        token_ids = np.pad(token_ids, ((0, 0), (0, size - count)))
        places = np.concatenate([places, places[:, -1:] + np.arange(1, size - count + 1)], 1)
        seen = min(-(-(int(places.max()) + 1) // CAPACITY_STEP) * CAPACITY_STEP, cache.places)
        fed = torch.from_numpy(np.stack([token_ids, places, places + shift])).to(self.device)

        def step(fed: Tensor) -> list[Tensor]:
            ids, at, positions = fed
            rotary = self.decoder.rotary(positions[None].expand(3, -1, -1))
            return [self.decoder.logits(self.decoder.forward(self.decoder.embedding[ids], rotary, cache, at, seen))]

        if size <= STEP_TOKENS[-1]:
            # the key names the memory too: rows of a batch and the session's own cache are different graphs
            (logits,) = self._capture(("step", rows, size, seen, cache.keys.data_ptr()), step, [fed])
        else:
            (logits,) = step(fed)
        chosen = logits[:, :count] if every_position else logits[:, count - 1 : count]
        if self.device.type != "cuda":
            return np.asarray(chosen.numpy())
        host = torch.empty(chosen.shape, pin_memory=True)  # PyTorch keeps such memory for the next step
        host.copy_(chosen, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return np.asarray(host.numpy())

    def branch_cache(self, rows: int, places: int) -> KvCache:
        """Memory for `rows` sequences, kept from one vote to the next so that its graphs are too."""
        kept = self._branches
        if kept is None or kept.keys.shape[1] < rows or kept.places < places:
            kept = self._branches = self._empty(rows, places)
        return kept.rows(0, rows)

    def grown(self, cache: KvCache, places: int) -> KvCache:
        """What `cache` holds, with room for `places` tokens."""
        grown = self._empty(cache.keys.shape[1], places)
        grown.copy_from(cache, cache.places)
        if cache is self.cache:
            self.cache = grown
        else:
            self._branches = grown
        return grown

    def _empty(self, rows: int, places: int) -> KvCache:
        self._capture.forget()  # graphs hold on to the cache that this one follows
        places = min(-(-places // CAPACITY_STEP) * CAPACITY_STEP, self.context_tokens)
        return KvCache.empty(self.decoder.shape, rows, places, self.decoder.embedding)

    def close(self) -> None:
        if not self._closed:
            self._capture.forget()
            del self.decoder, self.vision, self.cache  # most of the GPU's memory
        self._closed, self._resident, self._branches = True, None, None

    def require_resident(self, frame: TorchFrame) -> None:
        """Refuse a session whose frame was displaced from the cache."""
        self._require_running()
        require_same_frame(self._resident.frame if self._resident else None, frame)

    @torch.inference_mode()
    def _make_resident(self, frame: TorchFrame) -> TorchRows:
        """Write the frame's prefix into the cache; what stands before the image is kept from the frame before.

        It is fed by itself, so that keeping it changes no bit of the rest.
        """
        started = self._now()
        last, self._resident = self._resident, None
        opening, count = len(frame.opening_ids), frame.prefix_token_count
        kept = opening if last and last.frame.opening_ids == frame.opening_ids else 0
        own = TorchRows(self, frame, self.cache, [count])
        own.reserve(count)
        ids = np.array(frame.prefix_ids)
        self._require_known(ids)
        x = self.decoder.embedding[torch.from_numpy(ids).to(self.device)][None]
        at_image = torch.from_numpy(np.flatnonzero(ids == self.image_token_id)).to(self.device)
        extras = [torch.zeros_like(x) for _ in frame.features[1:]]
        for target, feature in zip((x, *extras), frame.features, strict=True):
            target[0, at_image] = feature.to(x.dtype)
        rotary = self.decoder.rotary(torch.from_numpy(frame.positions).to(self.device))
        places = torch.arange(count, device=self.device)[None]
        for fed in (slice(kept, opening), slice(opening, count)):
            if fed.start < fed.stop:
                self.decoder.forward(
                    x[:, fed], (rotary[0][fed], rotary[1][fed]), own.cache, places[:, fed], fed.stop,
                    deepstack=[extra[:, fed] for extra in extras], check=self._require_running,
                )  # fmt: skip
        self._resident = own
        frame.prefill_ms = (self._now() - started) * 1e3
        return own

    def _require_known(self, token_ids: NDArray[np.int64]) -> None:
        """Refuse what lies outside the embedding, for which a GPU ends the whole process."""
        rows = len(self.decoder.embedding)
        if not 0 <= token_ids.min() <= token_ids.max() < rows:
            found, hint = f"{token_ids.min()} to {token_ids.max()}", "tokenizer and weights are of different models"
            raise BackendError(f"token ids of 0 to {rows - 1}", found, hint)

    def _now(self) -> float:
        """`time.perf_counter()` when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _dtype(bundle: Bundle, capability: tuple[int, int] | None) -> torch.dtype:
    wanted = "bf16" if bundle.manifest.target == CHECKPOINT_TARGET else bundle.manifest.precision
    if capability is None or wanted == "fp32":
        return torch.float32
    return torch.bfloat16 if wanted == "bf16" and capability >= (8, 0) else torch.float16
