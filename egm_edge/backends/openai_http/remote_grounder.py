"""RemoteGrounder: `Grounder.ground` answered by an OpenAI-compatible server.

    grounder = RemoteGrounder.from_url("http://127.0.0.1:8000", served_model="out/egm-4b-serve")
    grounding = grounder.ground("frame.png", "the red mug left of the kettle", deadline_ms=1500)

The server renders the chat template, tokenises and decodes; this side owns the task text, the pixels and the parser. With a
`served_model` (a bundle of the same checkpoint, or the checkpoint itself) the picture is resized here by the checkpoint's own rule
and sent losslessly, so that the server's processor finds nothing left to resize. Logits stay on the server: no forced syntax,
no confidence, no voting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import Capabilities, RuntimeFacts
from egm_edge.backends.openai_http.served_model import ServedModel
from egm_edge.boxes import Box
from egm_edge.decoding import DecodingKeywords, DecodingOptions, TokenEvent
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts, Truncation
from egm_edge.images import load_image
from egm_edge.openai import ChatReply, Limits, OpenAIClient, Retry, Server, TextStream, ask, data_url, grounding_request
from egm_edge.openai.chat_stream import ChatStream
from egm_edge.parsing import parse_answer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

ImageSource = str | Path | bytes | NDArray[np.uint8]
MAX_NEW_TOKENS = 1024
# A frame grows old: what broke on its way is the caller's to ask again, with the next frame.
RETRY = Retry(tries=4, first_wait_s=0.25, longest_wait_s=8.0, timeout_s=float("inf"), lost_answers=False)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteFrame:
    """One picture, encoded once for every expression on it.

    Attributes:
        image_wh: width and height of the original image, pixels.
        sent_wh: of the picture that is sent.
        stamp_ns: the caller's stamp.
        decode_image_ms, preprocess_ms: what making the frame cost.
        picture: what is sent: a PNG data URL, or for an engine in this process that takes arrays [H, W, 3] uint8 RGB.
        image_tokens: that it should become, 0 where that is not known.
    """

    image_wh: tuple[int, int]
    sent_wh: tuple[int, int]
    stamp_ns: int | None
    decode_image_ms: float
    preprocess_ms: float
    picture: str | NDArray[np.uint8] = field(repr=False)
    image_tokens: int = 0

    def charged_to(self, grounding: Grounding) -> Grounding:
        """A Grounding whose request also waited for this frame to be decoded and preprocessed."""
        return grounding.with_frame_cost(self.decode_image_ms, self.preprocess_ms)


class RemoteGrounder:
    """Answers expressions through a server; same arguments and same Groundings as `Grounder`. Threads may share it.

    Attributes:
        server: where it asks. model: the name it asks for.
        served: pixels and prompts of the checkpoint that is served; where only its family is known, the server's resize is trusted.
        extra_body: fields that every request carries beside the standard ones (`mm_processor_kwargs`, `top_k`, …).
        max_new_tokens: cap of a request that names none.
    """

    capabilities = Capabilities(tokens=False, frame_reuse=False, rewind=False, interrupt=True)

    def __init__(
        self, server: Server, model: str, served: ServedModel, *, extra_body: Mapping[str, Any] | None = None
    ) -> None:
        self.server, self.model, self.served = server, model, served
        self.extra_body = dict(extra_body or {})
        self.max_new_tokens = MAX_NEW_TOKENS
        self.facts = RuntimeFacts("OpenAI-compatible server", server.where)
        self._told_difference = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        served_model: str | Path | None = None,
        family: str = "qwen3_vl",
        model: str | None = None,
        api_key: str = "",
        extra_body: Mapping[str, Any] | None = None,
        stall_timeout_s: float = 60.0,
        contract: str | Path | None = None,
    ) -> RemoteGrounder:
        """Reach a server.

        Args:
            url: "http://HOST:PORT", with or without /v1.
            served_model: a bundle or checkpoint directory of the model that is served.
            family: task text and answer syntax where that is not given.
            model: its name on the server; None for the only one there.
            api_key: a bearer token.
            extra_body: further request fields.
            stall_timeout_s: silence after which a request without deadline is given up.
            contract: deprecated name of `served_model`.

        Raises:
            BackendError: nobody answers, or several models are there and none was named.
            BundleError, CheckpointError: `served_model` cannot be read.
        """
        server = Server(url, api_key, stall_timeout_s=stall_timeout_s)
        known = served_model if served_model is not None else contract
        served = ServedModel.read(known) if known is not None else ServedModel.of_family(family)
        if model is None:
            names = OpenAIClient(server, retry=RETRY).models()
            if len(names) > 1:
                raise InputError("the name of a model", f"{len(names)}: {', '.join(names[:5])}", "pass one of them")
            model = names[0]
        return cls(server, model, served, extra_body=extra_body)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        """Nothing is held between requests."""

    def warm_up(self) -> None:
        """One small request."""
        self.ground(np.full((64, 64, 3), 128, np.uint8), "warm up", color="rgb", max_new_tokens=2)

    def frame(self, image: ImageSource, *, color: str | None = None, stamp_ns: int | None = None) -> RemoteFrame:
        """Read and encode an image; arguments and errors as `Grounder.frame`."""
        started = time.perf_counter()
        array = load_image(image, color=color)
        decoded = time.perf_counter()
        sent, image_tokens = self.served.picture_to_send(array)
        picture = self._picture(sent)
        finished = time.perf_counter()
        from_array = isinstance(image, np.ndarray)
        return RemoteFrame(
            image_wh=(array.shape[1], array.shape[0]),
            sent_wh=(sent.shape[1], sent.shape[0]),
            stamp_ns=stamp_ns,
            decode_image_ms=0.0 if from_array else (decoded - started) * 1e3,
            preprocess_ms=(finished - (started if from_array else decoded)) * 1e3,
            picture=picture,
            image_tokens=image_tokens,
        )

    def ground(
        self,
        image: ImageSource | RemoteFrame,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        **decoding: Unpack[DecodingKeywords],
    ) -> Grounding:
        """Find what an expression refers to; arguments as `Grounder.ground`.

        A deadline or `should_stop` drops the connection at once, wherever the answer is; a box that stands by then counts.

        Args:
            decoding: max_new_tokens and deadline_ms; what else there is needs the logits, and is refused.

        Raises:
            InputError: the image, the expression or an argument cannot be used.
            BackendError: the server cannot be reached, refuses, or sends what is no answer.
        """
        started = time.perf_counter()
        task = Task.parse(task)
        check_expression(expression)
        options = _greedy(DecodingOptions(**decoding), self.server)
        cap = self.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
        limits = Limits.of(cap, options.deadline_ms, started, self.server.stall_timeout_s)
        frame = image if isinstance(image, RemoteFrame) else self.frame(image, color=color, stamp_ns=stamp_ns)
        user_text = self.served.task_text(expression, task)
        reply = ask(
            lambda: self._open_stream(frame, user_text, limits),
            limits,
            RETRY,
            where=self.server.where,
            should_stop=should_stop,
            on_token=on_token,
            in_thought=self.served.in_thought,
        )
        grounding = self._grounding(frame, expression, task, reply, limits, started, made_here=frame is not image)
        self._compare_prompt(frame, expression, task, reply)
        return grounding

    def _picture(self, sent_rgb: NDArray[np.uint8]) -> str | NDArray[np.uint8]:
        """A picture as frames carry it."""
        return data_url(_png(sent_rgb), "image/png")

    def _open_stream(self, frame: RemoteFrame, user_text: str, limits: Limits) -> TextStream:
        """Send one request: a picture and the user's text."""
        return ChatStream(self.server, self._body(frame, user_text, limits))

    def _body(self, frame: RemoteFrame, user_text: str, limits: Limits) -> dict[str, Any]:
        assert isinstance(frame.picture, str)
        body = grounding_request(self.model, frame.picture, user_text, limits.max_new_tokens or self.max_new_tokens)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.served.special_token_syntax:
            body["skip_special_tokens"] = (
                False  # <box> is a special token of InternVL3 (vLLM and SGLang know the field)
            )
        return body | self.extra_body

    def _grounding(
        self,
        frame: RemoteFrame,
        expression: str,
        task: Task,
        reply: ChatReply,
        limits: Limits,
        started: float,
        *,
        made_here: bool,
    ) -> Grounding:
        generated = time.perf_counter()
        parsed = parse_answer(reply.text, task=task, in_thought=reply.opened_in_thought, expression=expression)
        outcome, cut = parsed.outcome, set[Truncation]()
        if reply.stopped and outcome is not Outcome.FOUND:
            outcome = Outcome.CANCELLED
        elif reply.out_of_time:
            outcome = outcome if outcome is Outcome.FOUND else Outcome.TIMED_OUT
            cut = {Truncation.ANSWER} if outcome is Outcome.FOUND else cut
        elif reply.stopped:
            outcome = Outcome.CANCELLED
        elif reply.finish_reason == "length":
            cut = {Truncation.MAX_NEW_TOKENS}
        box = None
        if outcome is Outcome.FOUND and parsed.box_norm1000 is not None:
            box = Box.from_norm1000(parsed.box_norm1000, *frame.image_wh)
        finished = time.perf_counter()
        first = reply.piece_times[0] if reply.piece_times else generated
        measured = reply.measured
        prefill_ms = measured.prefill_ms
        if prefill_ms is None:
            prefill_ms = max(0.0, (first - reply.sent_at) * 1e3 - measured.preprocess_ms)
        shared_tokens = self.served.frame_tokens(frame.image_tokens)
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
                decode_steps=measured.decode_steps or reply.completion_tokens,
            ),
            timings=Timings(
                decode_image_ms=frame.decode_image_ms if made_here else 0.0,
                preprocess_ms=(frame.preprocess_ms if made_here else 0.0) + measured.preprocess_ms,
                prefill_ms=prefill_ms,
                think_ms=max(0.0, (reply.answer_from or generated) - first) * 1e3 if reply.think_tokens else 0.0,
                answer_ms=max(0.0, generated - (reply.answer_from or first)) * 1e3,
                parse_ms=(finished - generated) * 1e3,
                ttft_ms=(first - started) * 1e3,
                total_ms=(finished - started) * 1e3,
                frame_reused=0 < shared_tokens <= measured.cached_tokens,
            ),
            stamp_ns=frame.stamp_ns,
            deadline_met=None if limits.ends_at is None else finished <= limits.ends_at and box is not None,
            truncated_by=frozenset(cut),
            bundle_hash=self.bundle_hash,
            pixel_spec_hash=self.pixel_spec_hash,
            prompt_spec_hash=self.prompt_spec_hash,
        )

    def _compare_prompt(self, frame: RemoteFrame, expression: str, task: Task, reply: ChatReply) -> None:
        """Say it once when the server counts other prompt tokens: then it resized or worded the request otherwise."""
        expected = self.served.prompt_tokens(expression, task, frame.image_tokens)
        if not expected or not reply.prompt_tokens or reply.prompt_tokens == expected or self._told_difference:
            return
        self._told_difference = True
        _log.warning(
            "%s counts %d prompt tokens where the checkpoint's own processor makes %d: its pixel budget or chat template "
            "differs, and so may its boxes",
            self.server.where, reply.prompt_tokens, expected,
        )  # fmt: skip


def _greedy(options: DecodingOptions, server: Server) -> DecodingOptions:
    """The options, if they ask for nothing but greedy decoding within limits."""
    asked = {"max_think_tokens": options.max_think_tokens is not None, "samples": options.samples not in (None, 1)}
    asked["temperature"] = options.temperature > 0.0
    refused = [name for name, wanted in asked.items() if wanted]
    if refused:
        expected = f"max_new_tokens or deadline_ms: {server.where} answers greedily and keeps its logits"
        raise InputError(expected, ", ".join(refused), "leave it out, or use a bundle whose engine gives logits")
    return options


def _png(image_rgb: NDArray[np.uint8]) -> bytes:
    import cv2

    done, data = cv2.imencode(".png", np.ascontiguousarray(image_rgb[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise InputError("an image that can be written as PNG", f"one of shape {image_rgb.shape}", "check the image")
    return data.tobytes()
