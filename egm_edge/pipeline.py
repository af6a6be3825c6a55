"""run_request: one expression on one frame, from the plan to the Grounding.

Knows the order of the stages and measures them; each stage belongs to another module.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from egm_edge.assembly import assemble, timed_out
from egm_edge.backends.base import Backend, EngineFrame
from egm_edge.decoding.batched_generation import generate_in_turn, generate_together
from egm_edge.decoding.constrained.decoder import ConstrainedDecoder
from egm_edge.decoding.constrained.fsm import BOX_NUMBERS
from egm_edge.decoding.deadline.budget import Budget
from egm_edge.decoding.deadline.planner import Plan, plan
from egm_edge.decoding.events import Generation, StopReason
from egm_edge.decoding.generate import Decoder
from egm_edge.decoding.options import DecodingOptions
from egm_edge.decoding.sampler import Sampler
from egm_edge.decoding.session import InterruptedRunError
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer
from egm_edge.decoding.voting import Vote, vote
from egm_edge.frame import Frame, open_in_engine
from egm_edge.grounding import Grounding, Outcome, Truncation
from egm_edge.grounding_request import GroundingRequest, RequestProgress
from egm_edge.loaded_model import LoadedModel
from egm_edge.parsing import Parsed, parse_answer

CLOSING_STEPS = 3  # closing the thought, the frame of the answer, and one that a draft may lose
VOTE_TEMPERATURE, VOTE_TOP_P = 0.7, 0.9  # what EGM's own rollouts are drawn with (verl/scripts/grounding_qwen.sh)


def run_request(model: LoadedModel, frame: Frame, request: GroundingRequest, turn: threading.Lock) -> Grounding:
    """Answer one request when `turn` can be had: at the latest when it is due, or there is no answer."""
    wait_s = -1.0 if request.due_at == math.inf else max(0.0, request.due_at - time.monotonic())
    if not turn.acquire(timeout=min(wait_s, threading.TIMEOUT_MAX)):
        return timed_out(model, frame, request, RequestProgress())
    try:
        stop_at = request.due_at - model.latency.interruption_ms / 1e3  # stopping the engine takes time, too
        with _interrupted_at(model.backend, stop_at) as order:
            grounding = _run(model, frame, request, stop_at)
        if order.given:
            model.latency.record_interruption((time.monotonic() - order.due_at) * 1e3)
        return grounding
    finally:
        turn.release()


def _run(model: LoadedModel, frame: Frame, request: GroundingRequest, stop_at: float) -> Grounding:
    """Plan, prefill, decode, parse, vote, Grounding."""
    progress = RequestProgress()
    planned = _plan(model, frame, request, stop_at, progress)
    try:
        if planned.image_share < 1.0 and time.monotonic() >= stop_at:  # not even time to cut patches of a smaller picture
            raise InterruptedRunError("a request with time left", "one whose deadline has come", "give it more")
        engine_frame = _prefill(model, frame, planned, progress)
        generations = _decode(model, frame, request, planned, engine_frame, stop_at, progress)
    except InterruptedRunError:
        return timed_out(model, frame, request, progress)
    _learn(model, frame, request, planned, generations)
    generated = time.perf_counter()
    task, thinking, asked = request.task, model.thinking, request.expression
    parsed = [parse_answer(g.marked_text, task=task, in_thought=thinking, expression=asked) for g in generations]
    chosen, ballot = _vote(parsed)
    grounding = assemble(model, frame, request, generations, chosen, parsed[chosen], ballot, generated, progress)
    model.latency.record_finish(grounding.timings.parse_ms)
    return grounding


def _plan(
    model: LoadedModel, frame: Frame, request: GroundingRequest, stop_at: float, progress: RequestProgress
) -> Plan:
    """What the time left and the token limits afford."""
    options, latency = request.options, model.latency
    without = options.max_think_tokens == 0
    fits = fits_limit = True
    if request.is_constrained and not without:
        long, limit = latency.long_thought_tokens, options.max_new_tokens
        # A limit that does not even hold a box is no reason to leave the thought out.
        fits_limit = limit is None or limit < model.syntax.box_tokens or long + model.syntax.answer_tokens <= limit
        fits = fits_limit and (options.max_think_tokens is None or long <= options.max_think_tokens)
    planned = plan(
        latency,
        stop_at if stop_at == math.inf else (stop_at - time.monotonic()) * 1e3,
        image_tokens=frame.pixels.image_token_count,
        frame_opened=frame.engine_frame is not None,
        prompt_tokens=len(request.request_ids),
        answer_steps=CLOSING_STEPS + BOX_NUMBERS * _number_steps(model),
        samples=options.samples,
        may_think=fits,
    )
    if not planned.think and not without and (model.thinking or latency.think_tokens):
        progress.truncated_by |= {Truncation.THOUGHT, *([] if fits_limit else [Truncation.MAX_NEW_TOKENS])}
    return planned


def _prefill(model: LoadedModel, frame: Frame, planned: Plan, progress: RequestProgress) -> EngineFrame:
    """The image in the engine, as much of it as was planned."""
    opened, progress.reused = open_in_engine(model, frame, planned.image_share)
    progress.engine_frame = opened
    if opened.image_token_count < frame.pixels.image_token_count:
        progress.truncated_by.add(Truncation.IMAGE_TOKENS)
    return opened


def _decode(
    model: LoadedModel,
    frame: Frame,
    request: GroundingRequest,
    planned: Plan,
    engine_frame: EngineFrame,
    stop_at: float,
    progress: RequestProgress,
) -> list[Generation]:
    """One reply, or several in one batch where the engine has one."""
    most_think = request.options.max_think_tokens if planned.think else 0
    limit, progress.limited_by = _limit(model, request, engine_frame, without_thought=most_think == 0)
    budget = Budget(
        max_new_tokens=limit,
        max_think_tokens=most_think,
        deadline=stop_at,
        answer_ms=lambda: model.latency.answer_ms(CLOSING_STEPS + BOX_NUMBERS * _number_steps(model)),
    )

    def open_session() -> Any:
        opening = time.perf_counter()
        session = model.backend.open_session(engine_frame)
        progress.reopened_ms += (time.perf_counter() - opening) * 1e3
        return session

    decoders = [_decoder(model, frame, request, budget, sample) for sample in range(planned.samples)]
    if planned.samples > 1 and model.backend.capabilities.branches:
        progress.together = True
        return generate_together(open_session(), request.request_ids, decoders, model.latency.record_step)
    generations = generate_in_turn(open_session, request.request_ids, decoders)
    progress.truncated_by |= {Truncation.SAMPLES} if len(generations) < planned.samples else set()
    return generations


def _decoder(model: LoadedModel, frame: Frame, request: GroundingRequest, budget: Budget, sample: int) -> Decoder:
    options, constrained, proposer = request.options, None, None
    digits: frozenset[int] = frozenset()
    if request.is_constrained:
        strict, chosen_box = options.force_syntax, model.prompt_spec.chosen_box
        constrained = ConstrainedDecoder(model.syntax, request.expression, strict=strict, chosen_box=chosen_box)
        digits = model.syntax.tokens.digit_ids
    speculate = request.speculate and model.backend.capabilities.rewind
    if speculate and request.lookup:
        statistics = model.statistics if constrained is not None else None  # shapes need to know what a number is
        proposer = NgramProposer(digits=digits, statistics=statistics, reply_cache=frame.replies)
    return Decoder(
        model.tokenizer,
        request.stop_ids,
        budget,
        thinking=model.thinking,
        constrained=constrained,
        sampler=_sampler(options, sample),
        speculate=speculate,
        proposer=proposer,
        should_stop=request.should_stop,
        on_token=request.on_token if sample == 0 else None,
        on_step=model.latency.record_step,
    )


def _sampler(options: DecodingOptions, sample: int) -> Sampler:
    """The first answer is that of a single request; the others are drawn, or a vote would be unanimous."""
    temperature, top_p = options.temperature, options.top_p
    if sample and temperature == 0.0:
        temperature, top_p = VOTE_TEMPERATURE, VOTE_TOP_P
    seed = options.seed if options.seed is not None else (0 if options.temperature == 0.0 else None)
    return Sampler(temperature, top_p, None if seed is None else seed + sample, options.top_k)


def _learn(
    model: LoadedModel, frame: Frame, request: GroundingRequest, planned: Plan, generations: list[Generation]
) -> None:
    """Remember what the request cost and said."""
    model.latency.record_prompt(len(request.request_ids), generations[0].prefill_ms)
    frame.replies.note(generations[0].token_ids)
    for generation in generations if planned.think and request.options.max_think_tokens != 0 else []:
        cut = Truncation.THOUGHT in generation.truncated_by
        if cut or (not generation.truncated_by and generation.stop_reason is StopReason.END_TOKEN):
            model.latency.record_thought(generation.think_tokens, generation.think_ms, cut=cut)


def _vote(parsed: list[Parsed]) -> tuple[int, Vote | None]:
    """Which answer stands for all, and the vote (None for a single one). Unreadable answers have no vote."""
    voters = [i for i, p in enumerate(parsed) if p.outcome in (Outcome.FOUND, Outcome.NOT_FOUND)]
    if len(parsed) == 1 or not voters:
        return 0, None
    ballot = vote([parsed[i].box_norm1000 for i in voters])
    if ballot.winner is not None:
        return voters[ballot.winner], ballot
    return next(i for i in voters if parsed[i].outcome is Outcome.NOT_FOUND), ballot


def _limit(
    model: LoadedModel, request: GroundingRequest, frame: EngineFrame, *, without_thought: bool
) -> tuple[int, Truncation]:
    """How many tokens may be generated, and what says so."""
    asked = model.max_new_tokens if request.options.max_new_tokens is None else request.options.max_new_tokens
    closing = len(model.syntax.close_thought) if without_thought and model.thinking else 0
    room = model.context_tokens - frame.prefix_token_count - len(request.request_ids) - closing
    return max(1, min(asked, room)), Truncation.MAX_NEW_TOKENS if asked <= room else Truncation.CONTEXT_TOKENS


def _number_steps(model: LoadedModel) -> int:
    """Decode steps of one coordinate, at most."""
    return max(1, model.syntax.tokens.number_tokens - 1)  # 1000 itself is rare


@dataclass(slots=True)
class _Order:
    """An order to stop the engine: when it is due (never before it could be given), seconds, and whether it was given."""

    due_at: float
    given: bool = False


@contextmanager
def _interrupted_at(backend: Backend, moment: float) -> Iterator[_Order]:
    """Stop the engine in the middle of a call at a moment, or at once where that is past, if the backend can."""
    order = _Order(max(moment, time.monotonic()))
    if moment == math.inf or not backend.capabilities.interrupt:
        yield order
        return

    def stop() -> None:
        order.given = True
        backend.interrupt()

    backend.arm()
    timer = threading.Timer(max(moment - time.monotonic(), 0.0), stop)
    timer.daemon = True
    timer.start()
    try:
        yield order
    finally:
        timer.cancel()
        timer.join()
        backend.disarm()
