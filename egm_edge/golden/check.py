"""Ask a runtime the golden requests and say how far its answers are from the reference's. For every runtime: one that gives
logits is compared at every position of the reference's reply, one that gives text by text and boxes.

Bounds come from the bundle. A shift of all boxes is looked for by itself: boxes that are all a little off overlap well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.boxes import Box
from egm_edge.errors import EgmError
from egm_edge.golden.replies import GoldenReply, GoldenSet, log_softmax_at, png_size

MAX_SHIFT_NORM1000 = 3.0  # median offset of one side of all boxes, thousandths of the picture
MIN_SHIFTED = 3  # boxes; the median of fewer says nothing
HALF_IOU = 0.5
BRIEF_TEXTS = 2
STORED_NATS = 2e-4  # what 16-bit log-probabilities may cost; 1e-5 is measured
MOST_NATS = 30.0
STORED = "golden replies"  # the stage of what is wrong with them


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """What one runtime on one machine made of the golden requests.

    Attributes:
        runtime, device: who answered. against: what the reference was.
        requests: asked. same_text: of them with the reference's very text.
        kl_nats: mean divergence of next-token distributions from the reference's, at least; None where logits are not given.
        shift_norm1000: median offset of x1, y1, x2, y2 from the reference's boxes, thousandths; None for too few boxes.
        boxes: the reference gives. mean_iou: of the answers with these, None without any. other_boxes: with IoU < 0.5.
        problems: what is out of bounds. first_divergence: the stage that the first of them belongs to, "" without any.
    """

    runtime: str
    device: str
    against: str
    requests: int
    same_text: int
    kl_nats: float | None
    kl_bound: float
    boxes: int
    mean_iou: float | None
    other_boxes: int
    shift_norm1000: tuple[float, float, float, float] | None
    problems: tuple[str, ...]
    first_divergence: str

    @property
    def passed(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"status": "verified" if self.passed else "failed"}

    def lines(self) -> list[str]:
        """The report for people."""
        head = f"golden replies: {'verified' if self.passed else f'FAILED, first at {self.first_divergence}'}"
        found = [f"{head}  ({self.runtime} on {self.device}, against {self.against})"]
        found += [f"  {problem}" for problem in self.problems]
        found.append(f"  {self.requests} requests, {self.same_text} with the reference's very text")
        if self.kl_nats is not None:
            found.append(f"  logits along its replies: {self.kl_nats:.2g} nats (bound {self.kl_bound:.2g})")
        if self.mean_iou is not None:
            found.append(f"  {self.boxes} boxes, mean IoU {self.mean_iou:.3f}, {self.other_boxes} with IoU < 0.5")
        if self.shift_norm1000 is not None:
            found.append(
                "  shift of x1, y1, x2, y2: " + ", ".join(f"{v:+.1f}" for v in self.shift_norm1000) + " thousandths"
            )
        return found


def check_golden(
    grounder: Any,
    facts: RuntimeFacts,
    golden: GoldenSet,
    *,
    brief: bool = False,
    known: Sequence[str] = (),
    advance: Callable[[int], None] = lambda count: None,
) -> GoldenReport:
    """Compare a runtime with the reference.

    Args:
        grounder: a Grounder, or anything that answers like one (`AnyGrounder`, `RemoteGrounder`).
        brief: one request's logits and no free reply, or a few replies where the runtime gives no logits: for the first open
            on a machine.
        known: what is wrong with the replies themselves.
        advance: told how many requests were finished.

    Raises:
        EgmError: the runtime does not answer.
    """
    logits = hasattr(grounder, "backend")
    asked = golden.replies[: 1 if logits else BRIEF_TEXTS] if brief else golden.replies
    found = _along_replies(grounder, golden, asked, one_by_one=not brief) if logits else None
    answers: list[tuple[GoldenReply, str, Box | None]] = []
    for reply in asked if not (brief and logits) else ():
        options = {"force_syntax": False} if logits else {}
        frame = grounder.frame(reply.picture)
        with grounder.answers_unjudged() if logits else nullcontext():
            answer = grounder.ground(
                frame, reply.expression, task=reply.task, max_new_tokens=golden.max_new_tokens, **options
            )
        answers.append((reply, answer.text, answer.box))
        advance(1)
    return _report(facts, golden, answers, found, known)


@dataclass(frozen=True, slots=True)
class _AlongReplies:
    """Mean divergence in nats along the reference's replies, what it may be, and the stage where it is more ("" else)."""

    mean: float
    bound: float
    stage: str


def _along_replies(
    grounder: Any, golden: GoldenSet, asked: Sequence[GoldenReply], *, one_by_one: bool
) -> _AlongReplies:
    """Replies are fed token by token; what is wrong in one piece too, without any step, is not the steps' mistake."""

    def mean(*, one_by_one: bool) -> float:
        return float(np.mean([v for reply in asked for v in _divergence(grounder, reply, one_by_one=one_by_one)]))

    bound, found = _kl_bound(golden), mean(one_by_one=one_by_one)
    if found <= bound:
        return _AlongReplies(found, bound, "")
    in_one_piece = mean(one_by_one=False) if one_by_one else found
    return _AlongReplies(found, bound, "decode logits" if in_one_piece <= bound else "prefill logits")


def _kl_bound(golden: GoldenSet) -> float:
    return float(golden.limits.get("kl_nats", 0.2)) + STORED_NATS


def _divergence(grounder: Any, reply: GoldenReply, *, one_by_one: bool) -> list[float]:
    """Divergence at every position of the reference's reply, fed as it stands: a lower bound, from the tokens that were kept."""
    session = grounder.backend.open_session(grounder.engine_frame(grounder.frame(reply.picture)))
    rows = [session.extend(grounder.token_ids(reply.expression, reply.task))]
    if one_by_one:
        rows += [session.extend([token]) for token in reply.token_ids]
    elif reply.token_ids:
        rows += list(session.extend(reply.token_ids, every_position=True))
    logits = np.stack(rows)
    if logits.shape[1] <= int(reply.top_ids.max()):
        raise EgmError(
            f"a vocabulary of more than {int(reply.top_ids.max())}", str(logits.shape[1]), "rebuild the bundle"
        )
    return list(_kept_divergence(reply.log_probabilities, log_softmax_at(logits, reply.top_ids)))


def _kept_divergence(theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL divergence [n] of distributions known at K tokens, all others taken as one."""
    p, q = (np.exp(np.minimum(values.astype(np.float64), 0.0)) for values in (theirs, ours))
    rest_p, rest_q = (np.maximum(1.0 - values.sum(-1), 1e-9) for values in (p, q))
    found = (p * (theirs.astype(np.float64) - ours)).sum(-1) + rest_p * np.log(rest_p / rest_q)
    return np.minimum(np.nan_to_num(found, nan=MOST_NATS, posinf=MOST_NATS), MOST_NATS)


def _report(
    facts: RuntimeFacts,
    golden: GoldenSet,
    answers: Sequence[tuple[GoldenReply, str, Box | None]],
    along: _AlongReplies | None,
    known: Sequence[str],
) -> GoldenReport:
    same = sum(text.strip() == reply.text.strip() for reply, text, _ in answers)
    nats = None if along is None else along.mean
    limits, problems, stage = golden.limits, list(known), STORED if known else ""
    if along is not None and along.stage:
        stage = stage or along.stage
        problems.append(f"{along.stage} differ by {along.mean:.2g} nats (bound {along.bound:.2g})")
    if limits.get("same_text") and same < len(answers):
        problems.append(f"{len(answers) - same} of {len(answers)} replies are not the reference's")
    if along is None and same < len(answers) and not any(reply.box for reply, _, _ in answers):
        problems.append(f"{len(answers) - same} of {len(answers)} replies are not the reference's, and it gives no box to compare")
    boxed = [(Box(*reply.box), box, reply.picture) for reply, _, box in answers if reply.box is not None]
    ious = [theirs.iou(ours) if ours is not None else 0.0 for theirs, ours, _ in boxed]
    other = sum(iou < HALF_IOU for iou in ious)
    if other > max(1, round(float(limits.get("disagreeing", 0.05)) * len(boxed))) or (other and other == len(boxed)):
        problems.append(f"another box (IoU < 0.5) in {other} of {len(boxed)} answers")
    shift = _shift([(theirs, ours, picture) for theirs, ours, picture in boxed if ours is not None])
    if shift is not None and max(abs(value) for value in shift) > MAX_SHIFT_NORM1000:
        told = ", ".join(f"{value:+.1f}" for value in shift)
        problems.append(f"boxes are shifted: x1, y1, x2, y2 by {told} thousandths (bound {MAX_SHIFT_NORM1000:g})")
    return GoldenReport(
        facts.engine, facts.device, golden.against, len(answers) or 1, same, nats, _kl_bound(golden), len(boxed),
        round(float(np.mean(ious)), 4) if ious else None, other, shift, tuple(problems), stage or ("text" if problems else ""),
    )  # fmt: skip


def _shift(pairs: Sequence[tuple[Box, Box, bytes]]) -> tuple[float, float, float, float] | None:
    if len(pairs) < MIN_SHIFTED:
        return None
    offsets = []
    for theirs, ours, picture in pairs:
        width, height = png_size(picture)
        a, b = theirs.to_norm1000(width, height), ours.to_norm1000(width, height)
        offsets.append([after - before for before, after in zip(a, b, strict=True)])
    x1, y1, x2, y2 = (round(float(value), 2) for value in np.median(np.asarray(offsets), axis=0))
    return x1, y1, x2, y2
