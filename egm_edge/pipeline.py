"""One request on an opened Grounder: frame, session, decoding, votes, and the Grounding that comes of it.

Knows the order of the stages and measures them; each stage belongs to another module.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from egm_edge.backends.base import Backend, EngineFrame, InterruptedRunError
from egm_edge.boxes import Box
from egm_edge.confidence.features import evidence
from egm_edge.decoding import Budget, DecodingOptions, Generation, StopReason, TokenEvent
from egm_edge.decoding.batched_generation import generate_in_turn, generate_together
from egm_edge.decoding.constrained.decoder import ConstrainedDecoder
from egm_edge.decoding.constrained.fsm import BOX_NUMBERS, NUMBER_MAX
from egm_edge.decoding.deadline.planner import Plan, plan
from egm_edge.decoding.generate import Run
from egm_edge.decoding.sampler import Sampler
from egm_edge.decoding.uncertainty import std_norm1000
from egm_edge.decoding.voting import Vote, vote
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts
from egm_edge.parsing import Parsed, parse_answer

if TYPE_CHECKING:
    from egm_edge.grounder import Frame, Grounder

CLOSING_STEPS = 3  # closing the thought, the frame of the answer, and one that a draft may lose


@dataclass(frozen=True, slots=True)
class GroundingRequest:
    """What is asked of a frame.

    Attributes:
        expression, task: as in Grounding.
        request_ids: the prompt tokens behind the frame's prefix.
        options: how to decode.
        started: when the call began, `time.perf_counter()` seconds.
        made_frame: the call made the frame itself, so its cost is part of the request.
        should_stop, on_token: as in `Grounder.ground`.
        reserve_s: of the time until the deadline, kept for stopping the engine.
    """

    expression: str
    task: Task
    request_ids: list[int]
    options: DecodingOptions
    started: float
    made_frame: bool
    should_stop: Callable[[], bool] | None = None
    on_token: Callable[[TokenEvent], None] | None = None
    reserve_s: float = 0.0

    @property
    def deadline(self) -> float:
        """When the answer is due, perf_counter seconds; infinite for never."""
        due_ms = self.options.deadline_ms
        return math.inf if due_ms is None else self.started + due_ms / 1e3

    @property
    def stop_at(self) -> float:
        """When the engine is stopped, so that the call ends by the deadline."""
        return self.deadline - self.reserve_s


def answer(grounder: Grounder, frame: Frame, question: GroundingRequest, turn: threading.Lock) -> Grounding:
    """Answer one question when `turn` can be had: at the latest by the deadline, or there is no answer."""
    if question.deadline < math.inf:
        question = replace(question, reserve_s=grounder.cost.interruption_ms / 1e3)
    request = _Request(grounder, frame, question)
    wait_s = -1.0 if question.deadline == math.inf else max(0.0, question.deadline - time.perf_counter())
    if not turn.acquire(timeout=min(wait_s, threading.TIMEOUT_MAX)):
        return request.timed_out(time.perf_counter())
    try:
        with _interrupted_at(grounder.backend, question.stop_at) as fired:
            grounding = request.run()
        if fired.is_set():
            grounder.cost.record_interruption((time.perf_counter() - question.stop_at) * 1e3)
        return grounding
    finally:
        turn.release()


class _Request:
    """A request under way."""

    def __init__(self, grounder: Grounder, frame: Frame, question: GroundingRequest) -> None:
        self.grounder, self.frame, self.question = grounder, frame, question
        self.reused = False
        self.engine_frame: EngineFrame | None = None
        self.reopened_ms = 0.0
        self.together = False
        self.cut: list[str] = []

    def run(self) -> Grounding:
        try:
            generations = self._generate()
        except InterruptedRunError:
            generations = []
        generated = time.perf_counter()
        if not generations:
            return self.timed_out(generated)
        task, asked, thinking = self.question.task, self.question.expression, self.grounder.thinking
        parsed = [parse_answer(g.marked_text, task=task, in_thought=thinking, expression=asked) for g in generations]
        chosen, vote_result = _choose(generations, parsed)
        return self._grounding(generations, chosen, parsed[chosen], vote_result, generated)

    def _generate(self) -> list[Generation]:
        grounder, question, options = self.grounder, self.question, self.question.options
        spending, opened = self._plan(), self.frame.opened
        frame = self.engine_frame = grounder.engine_frame(self.frame, spending.image_share)
        self.reused = self.frame.opened == opened
        self.cut += ["image_tokens"] if frame.image_token_count < self.frame.pixels.image_token_count else []
        room = grounder.context_tokens - frame.prefix_token_count - len(question.request_ids)
        limit = grounder.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
        self.limit_cut = "max_new_tokens" if limit <= room else "context_tokens"
        budget = Budget(
            max_new_tokens=max(1, min(limit, room)),
            max_think_tokens=options.max_think_tokens if spending.think else 0,
            deadline=question.stop_at,
            answer_ms=self._answer_ms,
        )
        if not spending.think and (grounder.thinking or grounder.cost.think_tokens):
            self.cut.append("thought")
        generations = self._replies(frame, budget, spending.samples)
        for generation in generations:
            cut = "thought" in generation.cut
            if budget.max_think_tokens is None and (cut or (not generation.cut and generation.stop_reason is StopReason.END_TOKEN)):
                grounder.cost.record_thought(generation.think_tokens, generation.think_ms, cut=cut)
        self.frame.earlier.note(generations[0].token_ids)
        grounder.cost.record_prompt(len(question.request_ids), generations[0].prefill_ms)
        return generations

    def _plan(self) -> Plan:
        stop_at = self.question.stop_at
        return plan(
            self.grounder.cost,
            stop_at if stop_at == math.inf else (stop_at - time.perf_counter()) * 1e3,
            image_tokens=self.frame.pixels.image_token_count,
            frame_opened=self.frame.engine_frame is not None,
            prompt_tokens=len(self.question.request_ids),
            answer_steps=self._answer_steps,
            samples=self.question.options.samples,
        )

    def _replies(self, frame: EngineFrame, budget: Budget, samples: int) -> list[Generation]:
        """One reply, or several in one batch where the engine has one."""
        backend, request_ids = self.grounder.backend, self.question.request_ids
        runs = [self._run(budget, sample) for sample in range(samples)]
        if samples > 1 and backend.capabilities.branches:
            self.together = True
            return generate_together(self._open_session(frame), request_ids, runs, self.grounder.cost.record_step)
        generations = generate_in_turn(lambda: self._open_session(frame), request_ids, runs)
        self.cut += ["samples"] if len(generations) < samples else []
        return generations

    def _open_session(self, frame: EngineFrame) -> Any:
        opening = time.perf_counter()
        session = self.grounder.backend.open_session(frame)
        self.reopened_ms += (time.perf_counter() - opening) * 1e3
        return session

    def _run(self, budget: Budget, sample: int) -> Run:
        grounder, options = self.grounder, self.question.options
        needs_guide = options.force_syntax or options.deadline_ms is not None or options.max_think_tokens is not None
        guide = None
        if needs_guide and grounder.stop_ids:
            guide = ConstrainedDecoder(grounder.syntax, self.question.expression, strict=options.force_syntax)
        return Run(
            grounder.tokenizer,
            grounder.stop_ids,
            budget,
            thinking=grounder.thinking,
            guide=guide,
            pick=_pick(options, sample),
            speculate=grounder.speculate and grounder.backend.capabilities.rewind,
            lookup=grounder.lookup,
            earlier=self.frame.earlier,
            should_stop=self.question.should_stop,
            on_token=self.question.on_token if sample == 0 else None,
            on_step=grounder.cost.record_step,
        )

    @property
    def _answer_steps(self) -> int:
        digits = 1 if self.grounder.syntax.tokens.whole_numbers else len(str(NUMBER_MAX)) - 1
        return CLOSING_STEPS + BOX_NUMBERS * digits

    def _answer_ms(self) -> tuple[float, float]:
        return self.grounder.cost.answer_ms(self._answer_steps)

    def _grounding(
        self, generations: list[Generation], chosen: int, parsed: Parsed, vote_result: Vote | None, generated: float
    ) -> Grounding:
        frame, generation, question = self.frame, generations[chosen], self.question
        outcome = _outcome(generation, parsed, vote_result)
        box = spread = confidence = None
        seen: dict[str, float] = {}
        agreement = None if vote_result is None else vote_result.agreement
        if outcome is Outcome.FOUND and parsed.box_norm1000 is not None:
            box = Box.from_norm1000(parsed.box_norm1000, *frame.image_wh)
            spread = _spread_px(generation, frame.image_wh)
            amodal = question.task is Task.AMODAL
            seen = evidence(generation, parsed.box_norm1000, amodal=amodal, agreement=agreement)
            fitted = self.grounder.confidence_map
            if fitted is not None and fitted.samples == len(generations) and generation.choices:
                confidence = fitted(seen)
        cut = [*self.cut, *generation.cut]
        if generation.stop_reason is StopReason.TOKEN_LIMIT or "max_new_tokens" in cut:
            cut = [*(c for c in cut if c != "max_new_tokens"), self.limit_cut]
        cut += ["answer"] if outcome is Outcome.TIMED_OUT else []
        finished = time.perf_counter()
        grounding = Grounding(
            outcome=outcome,
            expression=question.expression,
            task=question.task,
            image_wh=frame.image_wh,
            box=box,
            label=parsed.label,
            confidence=confidence,
            reasoning=parsed.reasoning,
            text=generation.text,
            parse_rule=parsed.rule,
            candidates=parsed.candidates_of(frame.image_wh),
            reason=parsed.reason if outcome is Outcome.UNPARSABLE else None,
            tokens=self._tokens(generations),
            timings=self._timings(generations, generated, finished),
            cut=", ".join(cut),
            agreement=agreement,
            samples=len(generations),
            std_px=spread,
            evidence=seen,
        )
        return self._stamped(grounding, finished)

    def timed_out(self, generated: float) -> Grounding:
        """The engine was never reached, or stopped before the first token of an answer."""
        question = self.question
        grounding = Grounding(
            outcome=Outcome.TIMED_OUT,
            expression=question.expression,
            task=question.task,
            image_wh=self.frame.image_wh,
            tokens=self._tokens([]),
            timings=self._timings([], generated, generated),
            cut=", ".join([*self.cut, "answer"]),
        )
        return self._stamped(grounding, generated)

    def _stamped(self, grounding: Grounding, finished: float) -> Grounding:
        """With the frame's stamp, the hashes, and whether the deadline was met."""
        grounder, deadline = self.grounder, self.question.deadline
        answered = grounding.outcome in (Outcome.FOUND, Outcome.NOT_FOUND, Outcome.AMBIGUOUS)
        return replace(
            grounding,
            stamp_ns=self.frame.stamp_ns,
            deadline_met=None if deadline == math.inf else answered and finished <= deadline,
            bundle_hash=grounder.bundle_hash,
            pixel_spec_hash=grounder.pixel_spec_hash,
            prompt_spec_hash=grounder.prompt_spec_hash,
        )

    def _tokens(self, generations: list[Generation]) -> TokenCounts:
        frame, steps = self.engine_frame, [g.steps for g in generations]
        return TokenCounts(
            prompt=(frame.prefix_token_count if frame else 0) + len(self.question.request_ids),
            image=frame.image_token_count if frame else 0,
            think=sum(g.think_tokens for g in generations),
            completion=sum(len(g.token_ids) for g in generations),
            decode_steps=max(steps, default=0) if self.together else sum(steps),
        )

    def _timings(self, generations: list[Generation], generated: float, finished: float) -> Timings:
        frame, engine_frame, started = self.frame, self.engine_frame, self.question.started
        think_ms, answer_ms = sum(g.think_ms for g in generations), sum(g.answer_ms for g in generations)
        frame_prefill_ms = 0.0 if engine_frame is None else engine_frame.prefill_ms
        return Timings(
            decode_image_ms=frame.decode_image_ms if self.question.made_frame else 0.0,
            preprocess_ms=frame.preprocess_ms if self.question.made_frame else 0.0,
            vision_ms=0.0 if self.reused or engine_frame is None else engine_frame.vision_ms,
            prefill_ms=sum(g.prefill_ms for g in generations) + (self.reopened_ms if self.reused else frame_prefill_ms),
            think_ms=think_ms,
            answer_ms=answer_ms,
            parse_ms=(finished - generated) * 1e3,
            ttft_ms=(generated - started) * 1e3 - think_ms - answer_ms,
            total_ms=(finished - started) * 1e3,
            frame_reused=self.reused,
        )


def _pick(options: DecodingOptions, sample: int) -> Sampler:
    """The first answer is that of a single request; the others are drawn, or a vote would be unanimous."""
    temperature, top_p = options.temperature, options.top_p
    if sample and temperature == 0.0:
        temperature, top_p = VOTE_TEMPERATURE, VOTE_TOP_P
    seed = options.seed if options.seed is not None else (0 if options.temperature == 0.0 else None)
    return Sampler(temperature, top_p, None if seed is None else seed + sample)


VOTE_TEMPERATURE, VOTE_TOP_P = 0.7, 0.9  # what EGM's own rollouts are drawn with (verl/scripts/grounding_qwen.sh)


def _choose(generations: list[Generation], parsed: list[Parsed]) -> tuple[int, Vote | None]:
    """Which answer stands for all, and the vote (None for a single one). Unreadable answers have no vote."""
    voters = [i for i, p in enumerate(parsed) if p.outcome in (Outcome.FOUND, Outcome.NOT_FOUND)]
    if len(generations) == 1 or not voters:
        return 0, None
    vote_result = vote([parsed[i].box_norm1000 for i in voters])
    if vote_result.winner is not None:
        return voters[vote_result.winner], vote_result
    return next(i for i in voters if parsed[i].outcome is Outcome.NOT_FOUND), vote_result


def _outcome(generation: Generation, parsed: Parsed, vote_result: Vote | None) -> Outcome:
    if generation.stop_reason is StopReason.STOPPED:
        return Outcome.CANCELLED
    if vote_result is not None and vote_result.ambiguous:
        return Outcome.AMBIGUOUS
    if generation.stop_reason is StopReason.DEADLINE and parsed.outcome is Outcome.UNPARSABLE:
        return Outcome.TIMED_OUT
    return parsed.outcome


def _spread_px(generation: Generation, image_wh: tuple[int, int]) -> tuple[float, float, float, float] | None:
    spread = std_norm1000(list(generation.choices))
    if spread is None:
        return None
    width, height = image_wh
    x1, y1, x2, y2 = spread
    return x1 * width / NUMBER_MAX, y1 * height / NUMBER_MAX, x2 * width / NUMBER_MAX, y2 * height / NUMBER_MAX


@contextmanager
def _interrupted_at(backend: Backend, moment: float) -> Iterator[threading.Event]:
    """Stop the engine in the middle of a call at a moment, where the backend can; the event tells whether it was."""
    fired = threading.Event()
    if moment == math.inf or not backend.capabilities.interrupt:
        yield fired
        return

    def stop() -> None:
        fired.set()
        backend.interrupt()

    backend.arm()
    timer = threading.Timer(max(moment - time.perf_counter(), 0.0), stop)
    timer.daemon = True
    timer.start()
    try:
        yield fired
    finally:
        timer.cancel()
        timer.join()
        backend.disarm()
