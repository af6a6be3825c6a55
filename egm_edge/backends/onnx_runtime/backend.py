"""OnnxBackend: a bundle's graphs on ONNX Runtime, one KV cache, the frame's prefix kept for the next expression.

Tensor notation: n fed tokens, H hidden size, V vocabulary size. Knows nothing of texts: token ids in, logits out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from egm_edge.backends.base import (
    Capabilities,
    EngineFrame,
    RuntimeFacts,
    require_reached,
    require_room,
    require_tokens,
)
from egm_edge.backends.onnx_runtime.int8_products import instruction_set
from egm_edge.backends.onnx_runtime.kv_batch import KvBatch
from egm_edge.backends.onnx_runtime.kv_cache import KvCache
from egm_edge.backends.onnx_runtime.sessions import MemoryMode, open_sessions, running
from egm_edge.backends.prefix_backend import Arrays, PrefixBackend
from egm_edge.backends.prefix_frame import PrefixFrame
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError

PREFILL_MIN_TOKENS = 8  # below this the decode graph's formats win
FIRST_CAPACITY_TOKENS = 1024


@dataclass(slots=True)
class OnnxSession:
    """One request after its frame's prefix; `asked` once its own prompt was fed."""

    backend: OnnxBackend
    frame: PrefixFrame
    asked: bool = False

    @property
    def length(self) -> int:
        return self.backend.cache.length

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        self.backend.require_resident(self.frame)
        require_tokens(token_ids)
        hidden = self.backend.decode(self.backend.embedding.rows(token_ids), [], prefill=not self.asked)
        self.asked = True
        logits = self.backend.logits(hidden if every_position else hidden[-1:])
        return logits if every_position else logits[0]

    def fork(self, rows: int, room: int) -> OnnxBranches:
        self.backend.require_resident(self.frame)
        return OnnxBranches(self.backend, KvBatch(self.backend.cache, rows, room))

    def truncate(self, length: int) -> None:
        self.backend.require_resident(self.frame)
        require_reached(length, self.length)
        self.backend.cache.length = length


@dataclass(slots=True)
class OnnxBranches:
    """Several continuations of one session."""

    backend: OnnxBackend
    cache: KvBatch

    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        embeds = self.backend.embedding.rows(token_ids)
        hidden = self.backend.decode_rows(embeds[:, None], self.cache, range(len(token_ids)))
        self.cache.lengths += 1
        return self.backend.logits(hidden[:, 0])

    def drop(self, row: int) -> None:
        self.cache.drop(row)

    def row(self, row: int) -> OnnxBranch:
        return OnnxBranch(self.backend, self.cache, row)


@dataclass(slots=True)
class OnnxBranch:
    """One of several continuations, by itself."""

    backend: OnnxBackend
    cache: KvBatch
    place: int

    @property
    def length(self) -> int:
        return int(self.cache.lengths[self.place])

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        embeds = self.backend.embedding.rows(token_ids)
        hidden = self.backend.decode_rows(embeds[None], self.cache, range(self.place, self.place + 1))[0]
        self.cache.lengths[self.place] += len(token_ids)
        logits = self.backend.logits(hidden if every_position else hidden[-1:])
        return logits if every_position else logits[0]

    def truncate(self, length: int) -> None:
        self.cache.lengths[self.place] = length


class OnnxBackend(PrefixBackend):
    """The backend of CPU bundles. One thread at a time.

    Args:
        bundle: opened and checked.
        memory: whether to keep the second, faster copy of the decoder for prefill.
        threads: compute threads; None for one per physical core.
    """

    def __init__(
        self, bundle: Bundle, *, memory: MemoryMode | str = MemoryMode.AUTO, threads: int | None = None
    ) -> None:
        super().__init__(bundle)
        self.sessions = open_sessions(bundle, MemoryMode.parse(memory), threads)
        self.cache = KvCache(self.config, min(FIRST_CAPACITY_TOKENS, self.config.max_positions))
        self._opening: tuple[int, ...] = ()  # what the cache begins with
        self._run_options: ort.RunOptions | None = None
        batch = self.sessions.decoder.get_inputs()[0].shape[0]
        self.capabilities = Capabilities(interrupt=True, branches=not isinstance(batch, int))
        self.facts = RuntimeFacts(
            f"onnxruntime {ort.__version__}", "cpu", self.sessions.threads, self.sessions.memory.value, instruction_set()
        )

    def open_session(self, frame: EngineFrame) -> OnnxSession:
        """Start a request on `frame`."""
        frame = self._resident_again(frame)
        self.cache.length = frame.prefix_token_count
        return OnnxSession(self, frame)

    def arm(self) -> None:
        """Make runs interruptible."""
        self._run_options = ort.RunOptions()
        # What it is anyway: ONNX Runtime's Python looks it up in every run, and finding nothing costs it 40 µs.
        self._run_options.add_run_config_entry("gpu_graph_id", "0")

    def interrupt(self) -> None:
        """End the run that is under way, and refuse others, until `disarm`; from any thread."""
        options = self._run_options
        if options is not None:
            options.terminate = True

    def disarm(self) -> None:
        self._run_options = None

    def close(self) -> None:
        self._resident = None
        del self.sessions, self.cache

    def _require_running(self) -> None:
        if not hasattr(self, "sessions"):
            raise BackendError("an open engine", "one that was closed", "open the bundle again")

    def decode(
        self, embeds: NDArray[np.float32], deepstack: Sequence[NDArray[np.float32]], *, prefill: bool
    ) -> NDArray[np.float32]:
        """Feed embeddings [n, H], extend the cache, and return hidden states [n, H].

        Args:
            deepstack: per feature [n, H] to add after the first decoder layers, or none for text.
            prefill: many tokens may go through the prefill graph. Its weights are rounded otherwise than the decode
                graph's, so generated tokens never do: how many were drafted must not change what comes of them.
        """
        count = len(embeds)
        self._reserve(count)
        session = self.sessions.prefill if prefill and count >= PREFILL_MIN_TOKENS else self.sessions.decoder
        hidden = self._run(session, self.cache.binding(session, count), embeds[None], deepstack)[0]
        self.cache.length += count
        return hidden

    def decode_rows(self, embeds: NDArray[np.float32], cache: KvBatch, rows: range) -> NDArray[np.float32]:
        """Feed embeddings [rows, n, H] to rows of a batch and return hidden states of the same shape; n or rows is 1."""
        session = self.sessions.decoder
        return self._run(session, cache.binding(session, rows, embeds.shape[1]), embeds, [])

    def _run(
        self,
        session: ort.InferenceSession,
        binding: ort.IOBinding,
        embeds: NDArray[np.float32],
        deepstack: Sequence[NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Hidden states of embeddings [rows, n, H]; the cache is bound already."""
        hidden = np.empty(embeds.shape, np.float32)
        binding.bind_cpu_input("embeds", embeds)
        nothing = None if deepstack else np.zeros_like(embeds)
        for i in range(self.config.vision.deepstack):
            binding.bind_cpu_input(f"deepstack_{i}", deepstack[i][None] if nothing is None else nothing)
        binding.bind_ortvalue_output("hidden", ort.OrtValue.ortvalue_from_numpy(hidden))
        with running("decoder", self._run_options):
            session.run_with_iobinding(binding, self._run_options)
        return hidden

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [n, V] of hidden states [n, H]."""
        with running("head", self._run_options):
            logits: NDArray[np.float32] = self.sessions.head.run(
                ["logits"], {"hidden": hidden[None]}, self._run_options
            )[0][0]
        if self.config.rescored_logits:
            for row, state in zip(logits, hidden, strict=True):
                self.embedding.rescore(row, state, self.config.rescored_logits)
        return logits

    def _make_resident(self, frame: PrefixFrame) -> None:
        """Write the frame's prefix into the cache, image embeddings at the pad tokens.

        What stands before the image is fed by itself, so that keeping it from the last frame changes no bit of the rest.
        """
        started = time.perf_counter()
        opening, kept = len(frame.opening_ids), frame.opening_ids == self._opening
        self._resident, self._opening = None, ()
        self.cache.length = opening if kept else 0
        self._reserve(frame.prefix_token_count - self.cache.length)
        self.cache.set_positions(frame.positions)
        embeds, extras = frame.decoder_inputs(self.embedding, self.config)
        if opening and not kept:
            self.decode(embeds[:opening], [], prefill=True)
        self._opening = frame.opening_ids
        self.decode(embeds[opening:], [extra[opening:] for extra in extras], prefill=True)
        self._resident = frame
        frame.prefill_ms = (time.perf_counter() - started) * 1e3

    def _run_vision(self, inputs: Arrays, names: list[str]) -> Sequence[NDArray[np.float32]]:
        with running("vision", self._run_options):
            found: list[NDArray[np.float32]] = self.sessions.vision.run(names, dict(inputs), self._run_options)
        return found

    def _reserve(self, new_tokens: int) -> None:
        """Make room in the cache, doubling it as needed up to the checkpoint's own limit."""
        needed = self.cache.length + new_tokens
        require_room(needed, self.config.max_positions)
        if needed > self.cache.capacity:
            self.cache = self.cache.grown(min(max(needed, 2 * self.cache.capacity), self.config.max_positions))
