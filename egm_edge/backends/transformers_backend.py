"""TransformersBackend: a checkpoint directory run by transformers in float32, behind the same protocol as every engine.

The slow, plain way to an answer: no export, no quantization, no graph of ours between the checkpoint and its boxes. Pixels
and prompt tokens come from this project, as for every backend; positions and masks are the model's own code.

Tensor notation: n fed tokens, V vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import Capabilities, EngineFrame, RuntimeFacts, require_reached, require_tokens
from egm_edge.backends.transformers_reference import TransformersReference
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, message_of
from egm_edge.pixels import TILES, Pixels, PixelSpec, normalise


@dataclass(slots=True)
class ModelFrame:
    """A frame's prefix in a KV cache of its own.

    Attributes:
        next_position: rotary position of the first token behind the prefix, the same on all axes.
    """

    prefix_token_count: int
    image_token_count: int
    vision_ms: float
    prefill_ms: float
    next_position: int
    cache: Any

    def rewind(self, length: int) -> None:
        """Forget everything behind the first `length` tokens."""
        surplus = self.cache.get_seq_length() - length
        if surplus:
            self.cache.crop(-surplus)  # a negative count of tokens is what every release of transformers understands


@dataclass(slots=True)
class ModelSession:
    """One request after its frame's prefix."""

    backend: TransformersBackend
    frame: ModelFrame

    @property
    def length(self) -> int:
        return int(self.frame.cache.get_seq_length())

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        require_tokens(token_ids)
        start = self.frame.next_position + self.length - self.frame.prefix_token_count
        logits = self.backend.feed(self.frame.cache, token_ids, start, every_position=every_position)
        return logits if every_position else logits[0]

    def truncate(self, length: int) -> None:
        require_reached(length, self.length)
        self.frame.rewind(length)


class TransformersBackend:
    """The backend of checkpoint directories. One thread at a time.

    Args:
        bundle: a checkpoint, described by `checkpoint_bundle.describe_checkpoint`.
        threads: compute threads of torch; None leaves its own choice.
        device: a torch device; None for the GPU that torch sees, else the CPU.

    Raises:
        BackendError: torch or transformers is missing.
        CheckpointError: transformers cannot open the directory.
    """

    capabilities = Capabilities()

    def __init__(self, bundle: Bundle, *, threads: int | None = None, device: str | None = None) -> None:
        self.spec = PixelSpec.from_dict(bundle.manifest.pixel_spec)
        self.image_token_id = int(bundle.manifest.model["image_token_id"])
        self._reference: TransformersReference | None = TransformersReference(bundle.root, device=device or _device())
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        on_cpu = self._reference.device == "cpu"
        self.facts = RuntimeFacts(
            f"transformers {self._reference.versions['transformers']}",
            self._reference.device,
            torch.get_num_threads() if on_cpu else 0,
        )

    def open_frame(self, pixels: Pixels, prefix_ids: Sequence[int]) -> ModelFrame:
        """Run the vision tower and the prefix."""
        import torch
        from transformers import DynamicCache

        reference = self._open()
        ids = torch.tensor([list(prefix_ids)], dtype=torch.int64, device=reference.device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["pixel_values"] = torch.from_numpy(normalise(pixels, self.spec)).to(reference.device)
        if self.spec.rule != TILES:
            inputs["image_grid_thw"] = torch.tensor([[1, *pixels.grid_hw]], device=reference.device)
            inputs["mm_token_type_ids"] = (ids == self.image_token_id).int()
        cache, started = DynamicCache(), self._now()
        with _running(), self._vision_clock() as vision_ms:
            reference.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            total_ms = (self._now() - started) * 1e3
        return ModelFrame(
            prefix_token_count=len(prefix_ids),
            image_token_count=pixels.image_token_count,
            vision_ms=vision_ms(),
            prefill_ms=total_ms - vision_ms(),
            next_position=int(reference.positions(inputs).max()) + 1,
            cache=cache,
        )

    def open_session(self, frame: EngineFrame) -> ModelSession:
        """Start a request on `frame`, rewound to its prefix."""
        self._open()
        if not isinstance(frame, ModelFrame):
            raise BackendError("a frame of this backend", type(frame).__name__, "open it with open_frame")
        frame.rewind(frame.prefix_token_count)
        return ModelSession(self, frame)

    def feed(self, cache: Any, token_ids: Sequence[int], start: int, *, every_position: bool) -> NDArray[np.float32]:
        """Logits [n, V], or [1, V] of the last token, of text tokens at rotary positions from `start` on."""
        import torch

        reference = self._open()
        ids = torch.tensor([list(token_ids)], dtype=torch.int64, device=reference.device)
        positions = torch.arange(start, start + len(token_ids), device=reference.device)[None]  # [1, n]
        if self.spec.rule != TILES:
            positions = positions.expand(3, 1, -1)  # time, height, width
        with _running():
            out = reference.model(
                input_ids=ids,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if every_position else 1,  # 0 keeps all
            )
        return np.asarray(out.logits[0].float().cpu().numpy())

    def arm(self) -> None:
        """Nothing to do: a call that runs is not interrupted."""

    def interrupt(self) -> None:
        """As `arm`."""

    def disarm(self) -> None:
        """As `arm`."""

    def close(self) -> None:
        self._reference = None

    def _open(self) -> TransformersReference:
        if self._reference is None:
            raise BackendError("an open engine", "one that was closed", "open the checkpoint again")
        return self._reference

    def _now(self) -> float:
        """`time.perf_counter()` when the device has done what it was given."""
        import torch

        if self._open().device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def _vision_clock(self) -> Iterator[Callable[[], float]]:
        """Gives what the vision tower took inside the block, milliseconds."""
        model = self._open().model.model
        tower = model.visual if hasattr(model, "visual") else model.vision_tower
        moments: list[float] = []
        hooks = [
            tower.register_forward_pre_hook(lambda *_: moments.append(self._now())),
            tower.register_forward_hook(lambda *_: moments.append(self._now())),
        ]
        try:
            yield lambda: (moments[-1] - moments[0]) * 1e3
        finally:
            for hook in hooks:
                hook.remove()


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "cpu"  # what is missing is told by TransformersReference
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _running() -> Iterator[None]:
    """Without gradients; torch's errors as one line."""
    import torch

    try:
        with torch.inference_mode():
            yield
    except RuntimeError as error:  # out of memory is one of them
        hint = "use fewer pixels, or another device"
        raise BackendError("transformers to run the checkpoint", message_of(error), hint) from None
