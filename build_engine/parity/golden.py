"""Golden replies as a build makes them: the reference's greedy answers to a few requests, with its likeliest logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from build_engine.parity.cases import Case
from build_engine.parity.reference_side import box_of, opened
from build_engine.parity.side import BackendSide
from build_engine.parity.streamed_reference import JudgedReply, StreamedReference
from build_engine.parity.witnesses import task_text
from build_engine.precisions import PRECISIONS
from egm_edge.backends.transformers_reference import Prepared, TransformersReference
from egm_edge.bundle import Bundle
from egm_edge.golden.replies import GoldenReply, GoldenSet, top_logits

STREAMED_PASSES = 3  # of a streamed reference, for each reply
Written = tuple[Case, Prepared, list[int], NDArray[np.float32] | None]  # reply, and logits behind the request and its tokens


def golden_set(
    bundle: Bundle, reference: TransformersReference, cases: Sequence[Case], new_tokens: int, engine: BackendSide | None = None
) -> GoldenSet:
    """The reference's answers, within the bundle's own limits; requests that do not fit into its context are left out.

    Args:
        engine: drafts the replies of a streamed reference, which would read its checkpoint again for every token. Replies that are
            not finished after `STREAMED_PASSES` are left out; where none is, all are cut to the length that is known of each.
    """
    family, limits = bundle.manifest.family, bundle.manifest.limits
    new_tokens = min(new_tokens, int(limits["max_new_tokens"]))
    prepared = [
        reference.prepare(opened(c.picture), task_text(family, c.expression, c.task)) for c in cases
    ]
    room = int(limits["context_tokens"]) - new_tokens
    fitting = [(case, request) for case, request in zip(cases, prepared, strict=True) if len(request.ids) <= room]
    if isinstance(reference, StreamedReference) and engine is not None:
        written, new_tokens = _drafted(reference, engine, fitting, new_tokens)
    else:
        replies = reference.generate([request for _, request in fitting], new_tokens) if fitting else []
        written = [(*pair, ids, None) for pair, ids in zip(fitting, replies, strict=True)]
    bounds = PRECISIONS[bundle.manifest.precision].bounds
    allowed = {"kl_nats": bounds.kl_nats, "disagreeing": bounds.disagreeing, "same_text": float(bounds.same_text)}
    return GoldenSet(tuple(_golden(reference, *each) for each in written), reference.name, allowed, new_tokens)


def _drafted(
    reference: StreamedReference, engine: BackendSide, asked: list[tuple[Case, Prepared]], new_tokens: int
) -> tuple[list[Written], int]:
    """What was asked and is answered, and the cap that the answers keep to."""
    found: list[tuple[Case, Prepared, JudgedReply]] = []
    for case, request in asked:

        def propose(begun: Sequence[int], case: Case = case) -> list[int]:
            return engine.naive_reply(case, new_tokens - len(begun), begun)[0]

        found.append((case, request, reference.written(request, new_tokens, propose, STREAMED_PASSES)))
    whole = [each for each in found if each[2].ended or len(each[2].reply) == new_tokens]
    if not whole and found:
        new_tokens = min(len(judged.reply) for _, _, judged in found)
    return [(c, request, judged.reply[:new_tokens], judged.logits) for c, request, judged in whole or found], new_tokens


def _golden(
    reference: TransformersReference, case: Case, request: Prepared, ids: list[int], known: NDArray[np.float32] | None
) -> GoldenReply:
    if known is None or len(known) <= len(ids):
        known = reference.trace(request, ids, len(ids) + 1).logits
    logits = known[: len(ids) + 1]
    top_ids, log_probabilities = top_logits(logits)
    image_wh = opened(case.picture).size
    box = box_of(reference.text(ids, marked=True), case, image_wh, in_thought=request.in_thought)
    text, xyxy = reference.text(ids), box.xyxy if box else None
    return GoldenReply(case.picture, case.expression, case.task, text, tuple(ids), xyxy, top_ids, log_probabilities)
