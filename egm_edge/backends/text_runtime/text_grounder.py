"""TextGrounder: `Grounder.ground` over a TextRuntime, which takes a picture and text and gives text.

This side owns the task text, the resize (see `ServedModel.picture_to_send`) and the parser; the runtime decodes.
Logits stay there: no forced syntax, no confidence, no voting.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.text_runtime.base import BundleRuntime, TextRequest, TextRuntime
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.boxes import Box
from egm_edge.bundle import Bundle, Verify
from egm_edge.closing import ClosedByWith
from egm_edge.decoding import DecodingKeywords, DecodingOptions, TokenEvent
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts, Truncation
from egm_edge.images import load_picture
from egm_edge.openai import ChatReply, Limits, ask
from egm_edge.parsing import Parsed, parse_answer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

ImageSource = str | Path | bytes | NDArray[np.uint8]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextFrame:
    """One picture, encoded once for every expression on it.

    Attributes:
        image_wh: width and height of the original image, pixels.
        stamp_ns: the caller's stamp.
        decode_image_ms, preprocess_ms: what making the frame cost.
        picture: what is sent, as the runtime takes it.
        image_tokens: that it should become, 0 where that is not known.
        reduced_by: as in `egm_edge.frame.Frame`.
    """

    image_wh: tuple[int, int]
    stamp_ns: int | None
    decode_image_ms: float
    preprocess_ms: float
    picture: Any = field(repr=False)
    image_tokens: int = 0
    reduced_by: int = 1

    def charged_to(self, grounding: Grounding) -> Grounding:
        """A Grounding whose request also waited for this frame to be decoded and preprocessed."""
        return grounding.with_frame_cost(self.decode_image_ms, self.preprocess_ms)


class TextGrounder(ClosedByWith):
    """Answers expressions through a runtime; same arguments and same Groundings as `Grounder`. Threads may share it.

    Attributes:
        runtime: what answers. facts: its engine.
        served: pixels and prompts of the checkpoint that it runs; where only its family is known, its own resize is trusted.
        max_new_tokens: cap of a request that names none.
        bundle: what was opened, where one was.
    """

    runtime_kind: ClassVar[type[BundleRuntime]]
    bundle: Bundle

    def __init__(self, runtime: TextRuntime, served: ServedModel, *, max_new_tokens: int) -> None:
        self.runtime, self.served, self.max_new_tokens = runtime, served, max_new_tokens
        self._told_difference = False

    @classmethod
    def from_bundle(
        cls, path: str | Path, *, verify: Verify = "full", guided: tuple[str, str] | None = None
    ) -> Self:
        """Open a bundle and load its engine.

        Args:
            guided: (kind, guide) of the runtime's own guided decoding for every request, as it names the kinds; None leaves
                the model free. Where the template opens a thought the guide holds behind `</think>`.

        Raises:
            BundleError: no bundle, damaged, of another target or family, or its engine was not built yet.
            BackendError: the runtime is not installed, or does not accept this machine or this bundle.
        """
        return cls.from_opened(Bundle.open(path, verify=verify), guided=guided)

    @classmethod
    def from_opened(cls, bundle: Bundle, *, guided: tuple[str, str] | None = None) -> Self:
        """As `from_bundle`, for a bundle that is already open."""
        served = ServedModel.of_bundle(bundle)
        opened = cls.runtime_kind.open(bundle, served, guided)
        grounder = cls(opened, served, max_new_tokens=int(bundle.manifest.limits["max_new_tokens"]))
        grounder.bundle = bundle
        return grounder

    @property
    def facts(self) -> RuntimeFacts:
        return self.runtime.facts

    @property
    def bundle_hash(self) -> str:
        """Of the bundle that is served, "" otherwise."""
        return self.served.bundle_hash

    @property
    def pixel_spec_hash(self) -> str:
        return self.served.pixel_spec_hash

    @property
    def prompt_spec_hash(self) -> str:
        return self.served.prompt_spec_hash

    def close(self) -> None:
        """Free the engine; waits for requests that are running."""
        self.runtime.close()

    def warm_up(self) -> None:
        """One small request."""
        self.ground(np.full((64, 64, 3), 128, np.uint8), "warm up", color="rgb", max_new_tokens=2)

    def frame(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        stamp_ns: int | None = None,
        reduced_decoding: bool = False,
    ) -> TextFrame:
        """Read and encode an image; arguments and errors as `Grounder.frame`.

        A reduced decoding needs a bundle or checkpoint whose pixel budget is known; from elsewhere it is an InputError.
        """
        started = time.perf_counter()
        spec = self.served.pixel_spec
        if reduced_decoding and spec is None:
            found = f"{self.runtime.where}, whose own pixel budget is not known"
            raise InputError("a bundle or a checkpoint with reduced decoding", found, "leave it out")
        decoded_picture = load_picture(image, color, reduced_to=spec.resized_wh if spec and reduced_decoding else None)
        array = decoded_picture.image_rgb
        decoded = time.perf_counter()
        sent, image_tokens = self.served.picture_to_send(array)
        picture = self.runtime.encode_image(sent)
        finished = time.perf_counter()
        from_array = isinstance(image, np.ndarray)
        return TextFrame(
            image_wh=decoded_picture.original_wh,
            reduced_by=decoded_picture.reduced_by,
            stamp_ns=stamp_ns,
            decode_image_ms=0.0 if from_array else (decoded - started) * 1e3,
            preprocess_ms=(finished - (started if from_array else decoded)) * 1e3,
            picture=picture,
            image_tokens=image_tokens,
        )

    def ground(
        self,
        image: ImageSource | TextFrame,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
        reduced_decoding: bool = False,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        **decoding: Unpack[DecodingKeywords],
    ) -> Grounding:
        """Find what an expression refers to; arguments as `Grounder.ground`.

        A deadline or `should_stop` ends the request at once, wherever the answer is; a box that stands by then counts.

        Args:
            decoding: max_new_tokens, deadline_ms and deadline_at; what else there is needs the logits, and is refused.

        Raises:
            InputError: the image, the expression or an argument cannot be used.
            BackendError: the runtime cannot be reached, refuses, or sends what is no answer.
        """
        started, called = time.perf_counter(), time.monotonic()
        task = Task.parse(task)
        check_expression(expression)
        options, runtime = _greedy(DecodingOptions(**decoding), self.runtime.where), self.runtime
        due_at = options.due_at(called)
        frame = image
        if not isinstance(frame, TextFrame):
            frame = self.frame(frame, color=color, stamp_ns=stamp_ns, reduced_decoding=reduced_decoding)
        limit = self.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
        request = TextRequest(frame.picture, self.served.task_text(expression, task), limit)
        reply = ask(
            lambda: runtime.open_stream(request),
            Limits(due_at, runtime.stall_timeout_s),
            runtime.retry,
            where=runtime.where,
            should_stop=should_stop,
            on_token=on_token,
            in_thought=self.served.in_thought,
        )
        grounding = self._grounding(frame, expression, task, reply, due_at, started, made_here=frame is not image)
        self._compare_prompt(frame, expression, task, reply)
        return grounding

    def _grounding(
        self,
        frame: TextFrame,
        expression: str,
        task: Task,
        reply: ChatReply,
        due_at: float,
        started: float,
        *,
        made_here: bool,
    ) -> Grounding:
        generated = time.perf_counter()
        parsed = parse_answer(reply.text, task=task, in_thought=reply.opened_in_thought, expression=expression)
        outcome, cut = _outcome(reply, parsed)
        box = None
        if outcome is Outcome.FOUND and parsed.box_norm1000 is not None:
            box = Box.from_norm1000(parsed.box_norm1000, *frame.image_wh)
        finished = time.perf_counter()
        return Grounding(
            outcome=outcome,
            expression=expression,
            task=task,
            image_wh=frame.image_wh,
            box=box,
            label=parsed.label if box else "",
            reasoning=parsed.reasoning,
            text=reply.text,
            parse_rule=parsed.rule if box else "",
            candidates=parsed.candidates_of(frame.image_wh) if outcome in (Outcome.FOUND, Outcome.AMBIGUOUS) else (),
            reason=parsed.reason if outcome is Outcome.UNPARSABLE else None,
            tokens=TokenCounts(
                prompt=reply.prompt_tokens,
                image=frame.image_tokens,
                think=reply.think_tokens,
                completion=reply.completion_tokens,
                decode_steps=reply.measured.decode_steps or reply.completion_tokens,
            ),
            timings=self._timings(frame, reply, started, generated, finished, made_here=made_here),
            stamp_ns=frame.stamp_ns,
            reduced_by=frame.reduced_by,
            deadline_met=None if due_at == math.inf else box is not None and time.monotonic() <= due_at,
            truncated_by=cut,
            bundle_hash=self.bundle_hash,
            pixel_spec_hash=self.pixel_spec_hash,
            prompt_spec_hash=self.prompt_spec_hash,
        )

    def _timings(
        self, frame: TextFrame, reply: ChatReply, started: float, generated: float, finished: float, *, made_here: bool
    ) -> Timings:
        measured, shared_tokens = reply.measured, self.served.frame_tokens(frame.image_tokens)
        first = reply.piece_times[0] if reply.piece_times else generated
        prefill_ms = measured.prefill_ms
        if prefill_ms is None:
            prefill_ms = max(0.0, (first - reply.sent_at) * 1e3 - measured.preprocess_ms)
        return Timings(
            decode_image_ms=frame.decode_image_ms if made_here else 0.0,
            preprocess_ms=(frame.preprocess_ms if made_here else 0.0) + measured.preprocess_ms,
            prefill_ms=prefill_ms,
            think_ms=max(0.0, (reply.answer_from or generated) - first) * 1e3 if reply.think_tokens else 0.0,
            answer_ms=max(0.0, generated - (reply.answer_from or first)) * 1e3,
            parse_ms=(finished - generated) * 1e3,
            ttft_ms=(first - started) * 1e3,
            total_ms=(finished - started) * 1e3,
            frame_reused=0 < shared_tokens <= measured.cached_tokens,
        )

    def _compare_prompt(self, frame: TextFrame, expression: str, task: Task, reply: ChatReply) -> None:
        """Say it once when the server counts other prompt tokens: then it resized or worded the request otherwise."""
        expected = self.served.prompt_tokens(expression, task, frame.image_tokens)
        if not expected or not reply.prompt_tokens or reply.prompt_tokens == expected or self._told_difference:
            return
        self._told_difference = True
        _log.warning(
            "%s counts %d prompt tokens where the checkpoint's own processor makes %d: its pixel budget or chat template "
            "differs, and so may its boxes",
            self.runtime.where, reply.prompt_tokens, expected,
        )  # fmt: skip


def _outcome(reply: ChatReply, parsed: Parsed) -> tuple[Outcome, frozenset[Truncation]]:
    """How a request ended, and what was cut short of it."""
    found = parsed.outcome is Outcome.FOUND
    if reply.out_of_time:
        return (parsed.outcome, frozenset({Truncation.ANSWER})) if found else (Outcome.TIMED_OUT, frozenset())
    if reply.stopped:
        return Outcome.CANCELLED, frozenset()
    cut = {Truncation.MAX_NEW_TOKENS} if reply.finish_reason == "length" else ()
    return parsed.outcome, frozenset(cut)


def _greedy(options: DecodingOptions, where: str) -> DecodingOptions:
    """The options, if they ask for nothing but greedy decoding within limits."""
    asked = {"max_think_tokens": options.max_think_tokens is not None, "samples": options.samples not in (None, 1)}
    asked["temperature"] = options.temperature > 0.0
    refused = [name for name, wanted in asked.items() if wanted]
    if refused:
        expected = f"max_new_tokens or deadline_ms: {where} answers greedily and keeps its logits"
        raise InputError(expected, ", ".join(refused), "leave it out, or use a bundle whose engine gives logits")
    return options
