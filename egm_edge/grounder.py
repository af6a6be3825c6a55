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
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge.backends import Backend, open_backend
from egm_edge.backends.base import EngineFrame
from egm_edge.boxes import Box
from egm_edge.bundle import Bundle, Verify
from egm_edge.decoding import Generation, StopReason, TokenEvent, greedy
from egm_edge.errors import BundleError, InputError
from egm_edge.families import PromptSpec, encode_prompt, family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts
from egm_edge.images import load_image
from egm_edge.parsing import Parsed, parse_answer
from egm_edge.pixels import Pixels, PixelSpec, preprocess
from egm_edge.request import check_expression

ImageSource = str | Path | bytes | NDArray[np.uint8]
TOKENIZER = "tokenizer.json"


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
    engine_frame: EngineFrame | None = field(default=None, repr=False)
    owner: object = field(default=None, repr=False)


class Grounder:
    """Answers expressions on frames with one bundle. Requests from several threads are answered one after another.

    Attributes:
        speculate: check drafted tokens several at a time where the text repeats itself; same tokens, fewer steps.

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
        self.tokenizer = tokenizer
        self.speculate = True
        self._lock = threading.Lock()
        self._family = family_for(manifest.family)
        self._image_token_id = int(manifest.model["image_token_id"])
        self.stop_ids = frozenset(manifest.model["stop_token_ids"])
        self._max_new_tokens = int(manifest.limits["max_new_tokens"])
        self._context_tokens = int(manifest.limits["context_tokens"])
        self._thinking = self.prompt_spec.suffix.rstrip().endswith("<think>")

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
    def from_opened(cls, bundle: Bundle, *, memory: str = "auto", threads: int | None = None) -> Grounder:
        """As `from_bundle`, for a bundle that is already open."""
        try:
            tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"a tokenizer in {bundle.path(TOKENIZER)}", str(error), "rebuild the bundle") from None
        return cls(open_backend(bundle, memory=memory, threads=threads), bundle, tokenizer)

    def __enter__(self) -> Grounder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        max_new_tokens: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
    ) -> Grounding:
        """Find what an expression refers to.

        Args:
            image: a Frame of this Grounder, or what `frame` takes.
            expression: the referring text, inserted into the prompt as typed.
            task: "modal" (visible extent) or "amodal" (whole object).
            color, stamp_ns: as in `frame`; only for images that are not yet a Frame.
            max_new_tokens: cap on generated tokens; None for the bundle's own. The model's context caps them too.
            should_stop: asked before every token; True ends the request as CANCELLED.
            on_token: told about every token as it comes.

        Raises:
            InputError: the image, the expression or an argument cannot be used.
        """
        started = time.perf_counter()
        task = Task.parse(task)
        check_expression(expression)
        limit = self._max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError("max_new_tokens of at least 1", str(limit), "raise it")
        frame = image if isinstance(image, Frame) else self.frame(image, color=color, stamp_ns=stamp_ns)
        if frame.owner is not self:
            raise InputError(
                "a frame made by this Grounder", "a frame of another one", "make it with grounder.frame(image)"
            )
        with self._lock:
            request_ids = self.token_ids(expression, task)
            reused = frame.engine_frame is not None
            engine_frame = frame.engine_frame = frame.engine_frame or self._open_frame(frame.pixels)
            opening = time.perf_counter()
            session = self.backend.open_session(engine_frame)
            room = self._context_tokens - engine_frame.prefix_token_count - len(request_ids)
            reopened_ms = (time.perf_counter() - opening) * 1e3
            generation = greedy(
                session,
                request_ids,
                self.tokenizer,
                self.stop_ids,
                max_new_tokens=max(1, min(limit, room)),
                thinking=self._thinking,
                speculate=self.speculate and self.backend.capabilities.rewind,
                should_stop=should_stop,
                on_token=on_token,
            )
        generated = time.perf_counter()
        parsed = parse_answer(generation.marked_text, task=task, in_thought=self._thinking)
        finished = time.perf_counter()
        made_here = frame is not image
        timings = Timings(
            decode_image_ms=frame.decode_image_ms if made_here else 0.0,
            preprocess_ms=frame.preprocess_ms if made_here else 0.0,
            vision_ms=0.0 if reused else engine_frame.vision_ms,
            prefill_ms=generation.prefill_ms + (reopened_ms if reused else engine_frame.prefill_ms),
            think_ms=generation.think_ms,
            answer_ms=generation.answer_ms,
            parse_ms=(finished - generated) * 1e3,
            ttft_ms=(generated - started) * 1e3 - generation.think_ms - generation.answer_ms,
            total_ms=(finished - started) * 1e3,
            frame_reused=reused,
        )
        tokens = TokenCounts(
            prompt=engine_frame.prefix_token_count + len(request_ids),
            image=engine_frame.image_token_count,
            think=generation.think_tokens,
            completion=len(generation.token_ids),
            decode_steps=generation.steps,
        )
        cut = ""
        if generation.stop_reason is StopReason.TOKEN_LIMIT:
            cut = "max_new_tokens" if limit <= room else "context_tokens"
        return self._grounding(frame, expression, task, generation, parsed, tokens, timings, cut)

    def token_ids(self, expression: str, task: Task | str = Task.MODAL) -> list[int]:
        """The prompt tokens that follow a frame's prefix."""
        return list(encode_prompt(self.tokenizer, self.prompt_spec, expression, Task.parse(task))[1])

    def warm_up(self) -> None:
        """Run one small request, so that the first real one meets warm caches and paged-in weights."""
        grey = np.full((64, 64, 3), 128, np.uint8)
        self.ground(grey, "warm up", color="rgb", max_new_tokens=2)

    def _open_frame(self, pixels: Pixels) -> EngineFrame:
        prefix = self._family.prefix_token_ids(
            prefix_ids(self.tokenizer, self.prompt_spec), self._image_token_id, pixels
        )
        return self.backend.open_frame(pixels, prefix)

    def _grounding(
        self,
        frame: Frame,
        expression: str,
        task: Task,
        generation: Generation,
        parsed: Parsed,
        tokens: TokenCounts,
        timings: Timings,
        cut: str,
    ) -> Grounding:
        stopped = generation.stop_reason is StopReason.STOPPED
        outcome = Outcome.CANCELLED if stopped else parsed.outcome
        box = None
        if outcome is Outcome.FOUND and parsed.box_norm1000 is not None:
            box = Box.from_norm1000(parsed.box_norm1000, *frame.image_wh)
        return Grounding(
            outcome=outcome,
            expression=expression,
            task=task,
            image_wh=frame.image_wh,
            box=box,
            label=parsed.label,
            reasoning=parsed.reasoning,
            text=generation.text,
            parse_rule=parsed.rule,
            tokens=tokens,
            timings=timings,
            stamp_ns=frame.stamp_ns,
            cut=cut,
            bundle_hash=self.bundle_hash,
            pixel_spec_hash=self.pixel_spec_hash,
            prompt_spec_hash=self.prompt_spec_hash,
        )

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
