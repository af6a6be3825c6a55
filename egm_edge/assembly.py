"""From replies to the Grounding: box, confidence, what was cut short, token counts, timings. Arithmetic only."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from egm_edge.boxes import Box
from egm_edge.confidence.features import evidence
from egm_edge.decoding.constrained.fsm import NUMBER_MAX
from egm_edge.decoding.events import Generation, StopReason
from egm_edge.decoding.uncertainty import std_norm1000
from egm_edge.decoding.voting import Vote
from egm_edge.frame import Frame
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts, Truncation
from egm_edge.grounding_request import GroundingRequest, RequestProgress
from egm_edge.loaded_model import LoadedModel
from egm_edge.parsing import Parsed


def assemble(
    model: LoadedModel,
    frame: Frame,
    request: GroundingRequest,
    generations: list[Generation],
    chosen: int,
    parsed: Parsed,
    ballot: Vote | None,
    generated: float,
    progress: RequestProgress,
) -> Grounding:
    """The Grounding of a request whose replies are there.

    Args:
        chosen: which of `generations` stands for all, `parsed` being its text and `ballot` the vote, None for a single one.
        generated: when the last token was there, `time.perf_counter()` seconds.
    """
    generation = generations[chosen]
    outcome = _outcome(generation, parsed, ballot)
    box = std_px = confidence = None
    features: dict[str, float] = {}
    agreement = None if ballot is None else ballot.agreement
    if outcome is Outcome.FOUND and parsed.box_norm1000 is not None:
        box = Box.from_norm1000(parsed.box_norm1000, *frame.image_wh)
        std_px = _std_px(generation, frame.image_wh)
        features = evidence(
            generation, parsed.box_norm1000, amodal=request.task is Task.AMODAL, agreement=agreement,
            label=parsed.label, expression=request.expression, longest_spelling=_longest_spelling(model, request.expression),
        )  # fmt: skip
        fitted = model.confidence_map
        if fitted is not None and fitted.samples == len(generations) and generation.choices:
            confidence = fitted(features)
            if confidence < fitted.accept_from:  # the box stays among the candidates
                outcome, box, std_px = Outcome.NOT_FOUND, None, None
    cut = progress.truncated_by | generation.truncated_by
    if generation.stop_reason is StopReason.TOKEN_LIMIT or Truncation.MAX_NEW_TOKENS in cut:
        cut = cut - {Truncation.MAX_NEW_TOKENS} | {progress.limited_by}
    finished = time.perf_counter()
    grounding = Grounding(
        outcome=outcome,
        expression=request.expression,
        task=request.task,
        image_wh=frame.image_wh,
        box=box,
        label=parsed.label,
        confidence=confidence,
        reasoning=parsed.reasoning,
        text=generation.text,
        parse_rule=parsed.rule,
        candidates=parsed.candidates_of(frame.image_wh),
        reason=parsed.reason if outcome is Outcome.UNPARSABLE else None,
        tokens=_tokens(request, progress, generations),
        timings=_timings(frame, request, progress, generations, generated, finished),
        truncated_by=frozenset(cut | ({Truncation.ANSWER} if outcome is Outcome.TIMED_OUT else set())),
        agreement=agreement,
        samples=len(generations),
        std_px=std_px,
        evidence=features,
    )
    return _stamped(model, frame, request, grounding)


def _longest_spelling(model: LoadedModel, expression: str) -> int:
    """Tokens of the expression's most spelled-out word."""
    words = expression.split()
    return max((len(model.tokenizer.encode(f" {word}", add_special_tokens=False).ids) for word in words), default=1)


def timed_out(model: LoadedModel, frame: Frame, request: GroundingRequest, progress: RequestProgress) -> Grounding:
    """The engine was never reached, or stopped before the first token of an answer."""
    now = time.perf_counter()
    grounding = Grounding(
        outcome=Outcome.TIMED_OUT,
        expression=request.expression,
        task=request.task,
        image_wh=frame.image_wh,
        tokens=_tokens(request, progress, []),
        timings=_timings(frame, request, progress, [], now, now),
        truncated_by=frozenset(progress.truncated_by | {Truncation.ANSWER}),
    )
    return _stamped(model, frame, request, grounding)


def _stamped(model: LoadedModel, frame: Frame, request: GroundingRequest, grounding: Grounding) -> Grounding:
    """With the frame's stamp, the hashes, and whether the deadline was met."""
    answered = grounding.outcome in (Outcome.FOUND, Outcome.NOT_FOUND, Outcome.AMBIGUOUS)
    manifest = model.bundle.manifest
    return replace(
        grounding,
        stamp_ns=frame.stamp_ns,
        reduced_by=frame.reduced_by,
        deadline_met=None if request.due_at == math.inf else answered and time.monotonic() <= request.due_at,
        bundle_hash=model.bundle_hash,
        pixel_spec_hash=manifest.pixel_spec_hash,
        prompt_spec_hash=manifest.prompt_spec_hash,
    )


def _tokens(request: GroundingRequest, progress: RequestProgress, generations: list[Generation]) -> TokenCounts:
    frame, steps = progress.engine_frame, [g.steps for g in generations]
    return TokenCounts(
        prompt=(frame.prefix_token_count if frame else 0) + len(request.request_ids),
        image=frame.image_token_count if frame else 0,
        think=sum(g.think_tokens for g in generations),
        completion=sum(len(g.token_ids) - g.uncounted_tokens for g in generations),
        decode_steps=max(steps, default=0) if progress.together else sum(steps),
    )


def _timings(
    frame: Frame,
    request: GroundingRequest,
    progress: RequestProgress,
    generations: list[Generation],
    generated: float,
    finished: float,
) -> Timings:
    engine_frame, made = progress.engine_frame, request.made_frame
    if progress.together and generations:  # they shared their steps: the longest one's time is everyone's
        generations = [max(generations, key=lambda g: g.think_ms + g.answer_ms)]
    think_ms, answer_ms = sum(g.think_ms for g in generations), sum(g.answer_ms for g in generations)
    frame_prefill_ms = 0.0 if engine_frame is None else engine_frame.prefill_ms
    prefix_ms = progress.reopened_ms if progress.reused else frame_prefill_ms
    return Timings(
        decode_image_ms=frame.decode_image_ms if made else 0.0,
        preprocess_ms=frame.preprocess_ms if made else 0.0,
        vision_ms=0.0 if progress.reused or engine_frame is None else engine_frame.vision_ms,
        prefill_ms=sum(g.prefill_ms for g in generations) + prefix_ms,
        think_ms=think_ms,
        answer_ms=answer_ms,
        parse_ms=(finished - generated) * 1e3,
        ttft_ms=(generated - request.started) * 1e3 - think_ms - answer_ms,
        total_ms=(finished - request.started) * 1e3,
        frame_reused=progress.reused,
    )


def _outcome(generation: Generation, parsed: Parsed, ballot: Vote | None) -> Outcome:
    if generation.stop_reason is StopReason.STOPPED:
        return Outcome.CANCELLED
    if ballot is not None and ballot.ambiguous:
        return Outcome.AMBIGUOUS
    if generation.stop_reason is StopReason.DEADLINE and parsed.outcome is Outcome.UNPARSABLE:
        return Outcome.TIMED_OUT
    return parsed.outcome


def _std_px(generation: Generation, image_wh: tuple[int, int]) -> tuple[float, float, float, float] | None:
    std = std_norm1000(list(generation.choices))
    if std is None:
        return None
    width, height = image_wh
    x1, y1, x2, y2 = std
    return x1 * width / NUMBER_MAX, y1 * height / NUMBER_MAX, x2 * width / NUMBER_MAX, y2 * height / NUMBER_MAX
