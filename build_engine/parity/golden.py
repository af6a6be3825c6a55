"""Golden replies as a build makes them: the reference's greedy answers to a few requests, with its likeliest logits."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from build_engine.parity.cases import Case
from build_engine.parity.witnesses import in_pixels, read_box, task_text
from build_engine.precisions import PRECISIONS
from egm_edge.backends.transformers_reference import Prepared, TransformersReference
from egm_edge.bundle import Bundle
from egm_edge.golden.replies import GoldenReply, GoldenSet, top_logits


def golden_set(bundle: Bundle, reference: TransformersReference, cases: Sequence[Case], new_tokens: int) -> GoldenSet:
    """The reference's answers, within the bundle's own limits; requests that do not fit into its context are left out."""
    family, limits = bundle.manifest.family, bundle.manifest.limits
    new_tokens = min(new_tokens, int(limits["max_new_tokens"]))
    prepared = [
        reference.prepare(Image.open(io.BytesIO(c.picture)).convert("RGB"), task_text(family, c.expression, c.task))
        for c in cases
    ]
    room = int(limits["context_tokens"]) - new_tokens
    fitting = [(case, request) for case, request in zip(cases, prepared, strict=True) if len(request.ids) <= room]
    replies = reference.generate([request for _, request in fitting], new_tokens) if fitting else []
    bounds = PRECISIONS[bundle.manifest.precision].bounds
    allowed = {"kl_nats": bounds.kl_nats, "disagreeing": bounds.disagreeing, "same_text": float(bounds.same_text)}
    made = [_golden(reference, case, request, ids) for (case, request), ids in zip(fitting, replies, strict=True)]
    return GoldenSet(tuple(made), reference.name, allowed, new_tokens)


def _golden(reference: TransformersReference, case: Case, request: Prepared, ids: list[int]) -> GoldenReply:
    logits = reference.trace(request, ids, len(ids) + 1).logits
    top_ids, log_probabilities = top_logits(logits)
    norm1000 = read_box(reference.text(ids, marked=True), in_thought=request.in_thought)
    width, height = Image.open(io.BytesIO(case.picture)).size
    box = None
    if norm1000 is not None:
        x1, y1, x2, y2 = in_pixels(norm1000, (width, height), case.task)
        box = (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
    text = reference.text(ids)
    return GoldenReply(case.picture, case.expression, case.task, text, tuple(ids), box, top_ids, log_probabilities)
