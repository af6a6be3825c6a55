"""Replies and boxes of a bundle: against the reference's, and against plain greedy decoding by the same engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from build_engine.parity.bounds import Bounds
from build_engine.parity.cases import Case
from build_engine.parity.reference_side import TRACED, ReferenceSide, box_of
from build_engine.parity.report import BoxPair
from build_engine.parity.scripted import script_problems
from build_engine.parity.side import BackendSide
from build_engine.parity.stage_traces import StageTraces
from build_engine.parity.streamed_reference import StreamedReference

TIE_LOGITS = 2e-3  # two tokens this close are a tie: the order of summation decides between them
TIE_SPREADS = 3e-2  # the same of one engine's own logits, in spreads of them; what W8A8 leaves open is measured where it is more


def compare_exact_replies(side: BackendSide, asked: ReferenceSide, run: StageTraces) -> None:
    """Without rounding a reply is the reference's to the token."""
    for number, case in enumerate(asked.cases[:TRACED]):
        reply = asked.reply(number)
        limit = len(reply) if isinstance(asked.reference, StreamedReference) else asked.max_new_tokens
        found, expected = side.said(case, max(limit, 1)).text, asked.reference.text(reply)
        if limit and found != expected and not _is_tie(side, asked, case, reply):
            run.note("text", f"{found[:60]!r} instead of {expected[:60]!r}")


def compare_answers(
    side: BackendSide, asked: ReferenceSide, run: StageTraces, bounds: Bounds, advance: Callable[[int], None]
) -> None:
    """Replies as a user gets them, against the reference's and against plain greedy decoding, and the boxes read from them."""
    run.note("text", *script_problems(side.bundle, side.grounder.tokenizer))
    for number, case in enumerate(asked.cases):
        reply = asked.reply(number)
        try:
            _compare_answer(side, asked, case, reply, run, bounds, greedy_too=number < TRACED)
        except Exception as error:  # whatever an engine raises is a finding
            run.broken = f"the backend failed: {error}"
            return
        advance(1)


def _compare_answer(
    side: BackendSide,
    asked: ReferenceSide,
    case: Case,
    reply: Sequence[int],
    run: StageTraces,
    bounds: Bounds,
    *,
    greedy_too: bool,
) -> None:
    text_of, expected = asked.reference.text, asked.reference.text(reply)
    answer = side.said(case, asked.max_new_tokens)
    same = answer.text == expected
    if greedy_too:
        naive, leads = side.naive_reply(case, asked.max_new_tokens)
        parted = _parted(answer.text, [text_of(naive[:i]) for i in range(len(naive) + 1)])
        if parted is not None and not (parted < len(leads) and _is_own_tie(side, case, naive[:parted], leads[parted])):
            run.note("text", f"{answer.text[:40]!r} where greedy decoding gives {text_of(naive)[:40]!r}")
    if not same and bounds.same_text and not _is_tie(side, asked, case, reply):
        run.note("text", f"{answer.text[:60]!r} instead of {expected[:60]!r}")
    image_wh = side.frame(case.picture).image_wh
    box = box_of(text_of(reply, marked=True), case, image_wh, in_thought=asked.prepared(case).in_thought)
    asked.pairs.append(BoxPair(box, answer.box, case.truth, same))
    if same and box is not None and (answer.box is None or max(map(_off, box.xyxy, answer.box.xyxy)) > 0.01):
        read = answer.box.xyxy if answer.box else None
        run.note("text", f"the reference's very reply is read as {read} instead of {box.xyxy}")


def _is_own_tie(side: BackendSide, case: Case, reply: Sequence[int], lead: float) -> bool:
    """Whether an engine's own rounding decides the next token: two logits lead by less than both may move."""
    return lead <= TIE_SPREADS or lead <= 2 * side.rounding_noise(case, reply)


def _parted(text: str, prefixes: Sequence[str]) -> int | None:
    """The greedy token at which a text leaves the greedy one, whose beginnings are `prefixes`; None where they are equal."""
    if text == prefixes[-1]:
        return None
    return next((i - 1 for i, prefix in enumerate(prefixes) if not text.startswith(prefix.rstrip("\ufffd"))), len(prefixes) - 1)


def _off(a: float, b: float) -> float:
    return abs(a - b)


def _is_tie(side: BackendSide, asked: ReferenceSide, case: Case, reply: Sequence[int]) -> bool:
    """Whether the replies part at two tokens that the reference itself finds equally likely."""
    ours = np.concatenate([side.prefill(case)[-1:], side.decode(case, reply)]).argmax(-1) if reply else []
    parting = [i for i, token in enumerate(reply) if token != ours[i]]
    if not parting:
        return False
    at = parting[0]
    last = asked.trace(case, reply[:at], 1).logits[-1]
    return bool(abs(float(last[reply[at]]) - float(last[ours[at]])) <= TIE_LOGITS)
