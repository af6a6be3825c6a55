"""Grounder: the public way in. A bundle, a frame and an expression give a Grounding.

    grounder = Grounder.from_bundle("out/egm-nano-cpu")
    grounding = grounder.ground("frame.png", "the red mug left of the kettle")
    if grounding.box:
        print(grounding.box.xyxy)          # pixels of frame.png

Checks what is asked and lets one request at a time through the pipeline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from egm_edge.backends import open_backend
from egm_edge.backends.base import Backend, EngineFrame, RuntimeFacts
from egm_edge.bundle import Bundle, Verify
from egm_edge.bundle_from_checkpoint import describe_checkpoint
from egm_edge.closing import ClosedByWith
from egm_edge.decoding import DecodingKeywords, DecodingOptions, TokenEvent
from egm_edge.decoding.constrained.grammar import AnswerSyntax
from egm_edge.decoding.deadline.latency_model import LatencyModel
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.frame import Frame, ImageSource, make_frame, open_in_engine
from egm_edge.golden.attestation import check_at_first_open
from egm_edge.grounding import Grounding, Task
from egm_edge.grounding_request import GroundingRequest
from egm_edge.loaded_model import LoadedModel, read_tokenizer
from egm_edge.pipeline import run_request
from egm_edge.streaming import GroundingStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Frame", "Grounder", "ImageSource"]

WARM_UP_WH = ((64, 64), (640, 480))
WARM_UP_TOKENS = 4


class Grounder(ClosedByWith):
    """Answers expressions on frames with one bundle. Requests from several threads are answered one after another.

    Attributes:
        model: the bundle with its engine, tokenizer and grammar. bundle, backend, tokenizer, pixel_spec, prompt_spec: its.
        latency: what requests cost on this machine, learned from every one.
        stop_ids: end tokens; without any, answers go on to the token limit and are held to no grammar.
        speculate: check several drafted tokens in one step; same tokens, fewer steps.
        lookup: draft what repeats earlier text too, not only the answer's known frame.

    Use `Grounder.from_bundle`; the constructor takes parts already opened, for tests and other runtimes.
    """

    def __init__(self, backend: Backend, bundle: Bundle, tokenizer: Tokenizer) -> None:
        model = self.model = LoadedModel(bundle, backend, tokenizer)
        self.bundle, self.backend, self.tokenizer = bundle, backend, tokenizer
        self.pixel_spec, self.prompt_spec = model.pixel_spec, model.prompt_spec
        self.bundle_hash = model.bundle_hash
        self.pixel_spec_hash, self.prompt_spec_hash = model.pixel_spec.hash, model.prompt_spec.hash
        self.latency, self.stop_ids = model.latency, model.stop_ids
        self.speculate = self.lookup = True
        self._lock = threading.Lock()

    @classmethod
    def from_bundle(
        cls, path: str | Path, *, memory: str = "auto", threads: int | None = None, verify: Verify = "full"
    ) -> Grounder:
        """Open a bundle and load its engine.

        Args:
            path: the bundle's directory.
            memory: "fast", "low", or "auto" to choose by free memory.
            threads: compute threads; None for one per physical core.
            verify: "full" checks every file's sha256, "sizes" only presence and size.

        Raises:
            BundleError: the bundle is missing, damaged or of another version.
            BackendError: its runtime is missing or cannot load it.
        """
        return cls.from_opened(Bundle.open(path, verify=verify), memory=memory, threads=threads)

    @classmethod
    def from_opened(
        cls, bundle: Bundle, *, memory: str = "auto", threads: int | None = None, check: bool = True
    ) -> Grounder:
        """As `from_bundle`, for a bundle that is already open.

        Args:
            check: ask it a golden request where it was verified on another kind of machine, once.
        """
        tokenizer = read_tokenizer(bundle)
        grounder = cls(open_backend(bundle, memory=memory, threads=threads), bundle, tokenizer)
        if check:
            check_at_first_open(grounder, bundle, grounder.facts)
        return grounder

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, max_pixels: int | None = None, threads: int | None = None) -> Grounder:
        """Run a checkpoint directory as it is, by transformers in float32: slow, and what every bundle is compared with.

        Args:
            path: a Hugging Face directory with safetensors.
            max_pixels: area of the resized image at most; None for the checkpoint's own budget.
            threads: compute threads of torch; None leaves its own choice.

        Raises:
            CheckpointError: it cannot be read.
            BackendError: torch or transformers is missing (`pip install 'egm-edge[verify]'`).
        """
        return cls.from_opened(describe_checkpoint(path, max_pixels=max_pixels), threads=threads)

    @contextmanager
    def answers_unjudged(self) -> Iterator[None]:
        """Inside the block answers are the model's own: no confidence, and no box that a low one turns into NOT_FOUND."""
        kept, self.model.confidence_map = self.model.confidence_map, None
        try:
            yield
        finally:
            self.model.confidence_map = kept

    @property
    def facts(self) -> RuntimeFacts:
        """The engine and how it runs, for reports."""
        return self.backend.facts

    def close(self) -> None:
        """Free the engine; the Grounder is of no use afterwards. Waits for a request that is running."""
        with self._lock:
            self.backend.close()

    def frame(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        stamp_ns: int | None = None,
        reduced_decoding: bool = False,
    ) -> Frame:
        """Make a frame.

        Args:
            image: path, encoded bytes, or HWC uint8 array.
            color: "rgb" or "bgr"; required for arrays of three channels, never guessed.
            stamp_ns: any stamp of yours, nanoseconds.
            reduced_decoding: decode a JPEG that is larger than the model looks at by its own 1/2, 1/4 or 1/8 scale: quicker,
                and in a fraction of the memory, but its pixels are not the reference's (`Grounding.reduced_by` says so).

        Raises:
            InputError: the image cannot be used; the message says why.
        """
        return make_frame(
            self.model, image, color=color, stamp_ns=stamp_ns, reduced_decoding=reduced_decoding, owner=self
        )

    def ground(
        self,
        image: ImageSource | Frame,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
        reduced_decoding: bool = False,
        prompt: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        **decoding: Unpack[DecodingKeywords],
    ) -> Grounding:
        """Find what an expression refers to.

        Args:
            image: a Frame of this Grounder, or what `frame` takes.
            expression: the referring text, inserted into the prompt as typed.
            task: "modal" (visible extent) or "amodal" (whole object).
            color, stamp_ns, reduced_decoding: as in `frame`; only for images that are not yet a Frame.
            prompt: the whole user text instead of the task's own sentence, for clients that write their own.
            should_stop: asked before every token; True ends the request as CANCELLED.
            on_token: told about every token as it comes (of several samples, the first one's).
            decoding: max_new_tokens, deadline_ms, max_think_tokens, samples, temperature, top_p, top_k, seed and
                force_syntax;
                see `egm_edge.decoding.DecodingOptions`.

        Raises:
            InputError: the image, the expression or an argument cannot be used.
        """
        started, called = time.perf_counter(), time.monotonic()
        options, task = DecodingOptions(**decoding), Task.parse(task)
        self._check_text(expression, prompt)
        frame = image
        if not isinstance(frame, Frame):
            frame = self.frame(frame, color=color, stamp_ns=stamp_ns, reduced_decoding=reduced_decoding)
        if frame.owner is not self:
            raise InputError(
                "a frame made by this Grounder", "a frame of another one", "make it with grounder.frame(image)"
            )
        request = GroundingRequest(
            expression=expression,
            task=task,
            request_ids=self.model.request_ids(expression, task, prompt),
            options=options,
            stop_ids=self.stop_ids,
            started=started,
            due_at=options.due_at(called),
            made_frame=frame is not image,
            should_stop=should_stop,
            on_token=on_token,
            speculate=self.speculate,
            lookup=self.lookup,
        )
        return run_request(self.model, frame, request, self._lock)

    def stream(
        self,
        image: ImageSource | Frame,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
        prompt: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        **decoding: Unpack[DecodingKeywords],
    ) -> GroundingStream:
        """As `ground`, as an iterator: every TokenEvent as it comes, the Grounding last.

        The request starts at once, in a thread of its own. `close()`, the end of a `with` block, or losing the last
        reference cancels it.
        """
        DecodingOptions(**decoding)  # an argument that cannot be used is refused here, not in the first event
        self._check_text(expression, prompt)

        def run(closed: Callable[[], bool], tell: Callable[[TokenEvent], None]) -> Grounding:
            def stop() -> bool:
                return closed() or (should_stop is not None and should_stop())

            return self.ground(
                image, expression, task=task, color=color, stamp_ns=stamp_ns, prompt=prompt, should_stop=stop,
                on_token=tell, **decoding,
            )  # fmt: skip

        return GroundingStream(run)

    def _check_text(self, expression: str, prompt: str | None) -> None:
        tags = self.prompt_spec.modal + self.prompt_spec.amodal
        check_expression(expression, tags=tags if prompt is not None else "")
        if prompt is not None:
            check_expression(prompt, tags=tags)

    def token_ids(self, expression: str, task: Task | str = Task.MODAL) -> list[int]:
        """The prompt tokens that follow a frame's prefix."""
        return self.model.request_ids(expression, Task.parse(task))

    def warm_up(self) -> None:
        """Run a small and a camera-sized request, so that the first real one meets warm caches and a known machine."""
        for width, height in WARM_UP_WH:
            grey = np.full((height, width, 3), 128, np.uint8)
            self.ground(grey, "warm up", color="rgb", max_new_tokens=WARM_UP_TOKENS)

    @property
    def cost(self) -> LatencyModel:
        """Deprecated: `latency`."""
        return self.latency

    @property
    def syntax(self) -> AnswerSyntax:
        """The family's answer grammar in this bundle's tokens; seconds for a large vocabulary, so `warm_up` asks for it."""
        return self.model.syntax

    def engine_frame(self, frame: Frame, image_share: float = 1.0) -> EngineFrame:
        """The frame inside the engine, opened by whoever asks first.

        Args:
            image_share: with about this share of its image tokens; where the image cannot be made smaller, as it is.
        """
        return open_in_engine(self.model, frame, image_share)[0]
