"""Grounder: the public way in. A bundle, a frame and an expression give a Grounding.

    grounder = Grounder.from_bundle("out/egm-nano-cpu")
    grounding = grounder.ground("frame.png", "the red mug left of the kettle")
    if grounding.box:
        print(grounding.box.xyxy)          # pixels of frame.png

Knows the order of the stages and measures them; each stage belongs to another module.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge.backends import Backend, open_backend
from egm_edge.backends.base import EngineFrame, RuntimeFacts
from egm_edge.bundle import Bundle, Verify
from egm_edge.bundle_from_checkpoint import describe_checkpoint
from egm_edge.confidence.logistic_calibration import LogisticCalibration
from egm_edge.decoding import DecodingKeywords, DecodingOptions, TokenEvent
from egm_edge.decoding.constrained.grammar import AnswerSyntax
from egm_edge.decoding.deadline.latency_model import LatencyModel
from egm_edge.decoding.speculative.reply_cache import ReplyCache
from egm_edge.errors import BundleError, InputError
from egm_edge.expression import check_expression
from egm_edge.families import PromptSpec, encode_prompt, encode_user_text, family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.golden.attestation import check_at_first_open
from egm_edge.grounding import Grounding, Task
from egm_edge.images import load_image
from egm_edge.pipeline import GroundingRequest, answer
from egm_edge.pixels import TILES, Pixels, PixelSpec, preprocess
from egm_edge.streaming import GroundingStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

ImageSource = str | Path | bytes | NDArray[np.uint8]
TOKENIZER = "tokenizer.json"
WARM_UP_WH = ((64, 64), (640, 480))
WARM_UP_TOKENS = 4


@dataclass(slots=True)
class Frame:
    """One camera frame, ready to be asked about; made by `Grounder.frame`.

    Vision and the image's part of the prompt are computed by the first request and kept, so that a second expression on
    the same frame pays only for its own words.

    Attributes:
        image_wh: width and height of the original image, pixels.
        stamp_ns: the caller's stamp, carried to every Grounding of this frame.
        decode_image_ms, preprocess_ms: what making the frame cost.
    """

    image_wh: tuple[int, int]
    stamp_ns: int | None
    decode_image_ms: float
    preprocess_ms: float
    pixels: Pixels = field(repr=False)
    image_rgb: NDArray[np.uint8] = field(repr=False)
    engine_frame: EngineFrame | None = field(default=None, repr=False)
    smaller: dict[int, EngineFrame] = field(default_factory=dict, repr=False)
    earlier: ReplyCache = field(default_factory=ReplyCache, repr=False)
    owner: object = field(default=None, repr=False)

    @property
    def opened(self) -> int:
        """How often the engine has seen it: once at its own size, and once at each smaller one."""
        return len(self.smaller) + (self.engine_frame is not None)

    def charged_to(self, grounding: Grounding) -> Grounding:
        """A Grounding whose request also waited for this frame to be decoded and preprocessed."""
        return grounding.with_frame_cost(self.decode_image_ms, self.preprocess_ms)


class Grounder:
    """Answers expressions on frames with one bundle. Requests from several threads are answered one after another.

    Attributes:
        cost: what requests cost on this machine, learned from every one.
        stop_ids: end tokens; without any, answers go on to the token limit and are held to no syntax.
        speculate: check several drafted tokens in one step; same tokens, fewer steps.
        lookup: draft what repeats earlier text too, not only the answer's known frame.

    Use `Grounder.from_bundle`; the constructor takes parts already opened, for tests and other runtimes.
    """

    def __init__(self, backend: Backend, bundle: Bundle, tokenizer: Tokenizer) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.backend = backend
        self.pixel_spec = PixelSpec.from_dict(manifest.pixel_spec)
        self.prompt_spec = PromptSpec.from_dict(manifest.prompt_spec)
        self.bundle_hash = bundle.hash
        self.pixel_spec_hash = manifest.pixel_spec_hash
        self.prompt_spec_hash = manifest.prompt_spec_hash
        self._check_specs()
        calibration = manifest.calibration
        self.confidence_map = None if calibration is None else LogisticCalibration.from_dict(calibration)
        self.tokenizer = tokenizer
        self.speculate = True
        self.lookup = True
        self._lock = threading.Lock()
        self._family = family_for(manifest.family)
        self._image_token_id = int(manifest.model["image_token_id"])
        self.stop_ids = frozenset(manifest.model["stop_token_ids"])
        self.cost = LatencyModel()
        self.max_new_tokens = int(manifest.limits["max_new_tokens"])
        self.context_tokens = int(manifest.limits["context_tokens"])
        self.thinking = self.prompt_spec.suffix.rstrip().endswith("<think>")

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
        try:
            tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"a tokenizer in {bundle.path(TOKENIZER)}", str(error), "rebuild the bundle") from None
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
            BackendError: torch or transformers is missing (`pip install 'egm-edge[train]'`).
        """
        return cls.from_opened(describe_checkpoint(path, max_pixels=max_pixels), threads=threads)

    def __enter__(self) -> Grounder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def facts(self) -> RuntimeFacts:
        """The engine and how it runs, for reports."""
        return self.backend.facts

    def close(self) -> None:
        """Free the engine; the Grounder is of no use afterwards. Waits for a request that is running."""
        with self._lock:
            self.backend.close()

    def frame(self, image: ImageSource, *, color: str | None = None, stamp_ns: int | None = None) -> Frame:
        """Make a frame.

        Args:
            image: path, encoded bytes, or HWC uint8 array.
            color: "rgb" or "bgr"; required for arrays of three channels, never guessed.
            stamp_ns: any stamp of yours, nanoseconds.

        Raises:
            InputError: the image cannot be used; the message says why.
        """
        started = time.perf_counter()
        array = load_image(image, color=color)
        decoded = time.perf_counter()
        pixels = preprocess(array, self.pixel_spec)
        finished = time.perf_counter()
        from_array = isinstance(image, np.ndarray)
        return Frame(
            image_wh=pixels.image_wh,
            stamp_ns=stamp_ns,
            decode_image_ms=0.0 if from_array else (decoded - started) * 1e3,
            preprocess_ms=(finished - (started if from_array else decoded)) * 1e3,
            pixels=pixels,
            image_rgb=array,
            owner=self,
        )

    def ground(
        self,
        image: ImageSource | Frame,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
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
            color, stamp_ns: as in `frame`; only for images that are not yet a Frame.
            prompt: the whole user text instead of the task's own sentence, for clients that write their own.
            should_stop: asked before every token; True ends the request as CANCELLED.
            on_token: told about every token as it comes (of several samples, the first one's).
            decoding: max_new_tokens, deadline_ms, max_think_tokens, samples, temperature, top_p, seed and force_syntax;
                see `egm_edge.decoding.DecodingOptions`.

        Raises:
            InputError: the image, the expression or an argument cannot be used.
        """
        started = time.perf_counter()
        request = self._question(expression, task, prompt, DecodingOptions(**decoding), started)
        frame = image if isinstance(image, Frame) else self.frame(image, color=color, stamp_ns=stamp_ns)
        if frame.owner is not self:
            raise InputError(
                "a frame made by this Grounder", "a frame of another one", "make it with grounder.frame(image)"
            )
        request = replace(request, made_frame=frame is not image, should_stop=should_stop, on_token=on_token)
        return answer(self, frame, request, self._lock)

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

    def _question(
        self, expression: str, task: Task | str, prompt: str | None, options: DecodingOptions, started: float
    ) -> GroundingRequest:
        task = Task.parse(task)
        self._check_text(expression, prompt)
        ids = self.token_ids(expression, task)
        if prompt is not None:
            ids = encode_user_text(self.tokenizer, self.prompt_spec, prompt)
        return GroundingRequest(expression, task, ids, options, started, made_frame=False)

    def _check_text(self, expression: str, prompt: str | None) -> None:
        tags = self.prompt_spec.modal + self.prompt_spec.amodal
        check_expression(expression, tags=tags if prompt is not None else "")
        if prompt is not None:
            check_expression(prompt, tags=tags)

    def token_ids(self, expression: str, task: Task | str = Task.MODAL) -> list[int]:
        """The prompt tokens that follow a frame's prefix."""
        return list(encode_prompt(self.tokenizer, self.prompt_spec, expression, Task.parse(task))[1])

    def warm_up(self) -> None:
        """Run a small and a camera-sized request, so that the first real one meets warm caches and a known machine."""
        _ = self.syntax
        for width, height in WARM_UP_WH:
            grey = np.full((height, width, 3), 128, np.uint8)
            self.ground(grey, "warm up", color="rgb", max_new_tokens=WARM_UP_TOKENS)

    @cached_property
    def syntax(self) -> AnswerSyntax:
        """The family's answer syntax in this bundle's tokens; seconds for a large vocabulary, so `warm_up` asks for it."""
        return AnswerSyntax(self.prompt_spec.answer_syntax, self.tokenizer)

    def engine_frame(self, frame: Frame, image_share: float = 1.0) -> EngineFrame:
        """The frame inside the engine, opened by whoever asks first.

        Args:
            image_share: with about this share of its image tokens; where the image cannot be made smaller, as it is.
        """
        pixels = frame.pixels if image_share == 1.0 else self._smaller(frame, image_share)
        key = pixels.image_token_count
        if key == frame.pixels.image_token_count:
            if frame.engine_frame is None:
                frame.engine_frame = self._open_frame(frame.pixels)
            return frame.engine_frame
        if key not in frame.smaller:
            frame.smaller[key] = self._open_frame(pixels)
        return frame.smaller[key]

    def _smaller(self, frame: Frame, image_share: float) -> Pixels:
        spec = self.pixel_spec
        height, width = spec.resized_hw(*frame.image_rgb.shape[:2])
        unit = spec.tile_size if spec.rule == TILES else spec.patch_size * spec.merge_size
        budget = max(round(height * width * image_share), unit * unit)
        return preprocess(frame.image_rgb, spec.with_max_pixels(budget))

    def _open_frame(self, pixels: Pixels) -> EngineFrame:
        prefix = self._family.prefix_token_ids(
            prefix_ids(self.tokenizer, self.prompt_spec), self._image_token_id, pixels
        )
        opened = self.backend.open_frame(pixels, prefix)
        self.cost.record_frame(opened.image_token_count, opened.vision_ms + opened.prefill_ms)
        return opened

    def _check_specs(self) -> None:
        """The specs that this code derives must be the ones the bundle was built with."""
        pairs = {
            "pixel_spec": (self.pixel_spec_hash, self.pixel_spec.hash),
            "prompt_spec": (self.prompt_spec_hash, self.prompt_spec.hash),
        }
        for name, (written, derived) in pairs.items():
            if written != derived:
                raise BundleError(
                    f"{name} {written[:12]}… as recorded when the bundle was built",
                    f"{derived[:12]}… from its own values",
                    "rebuild the bundle with this egm-edge",
                )
