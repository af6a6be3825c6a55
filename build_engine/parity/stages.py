"""One comparison per stage, each from arrays to a StageResult. Pure functions; no engine, no model library.

Tensor notation: t image tokens, H hidden size, k compared positions, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.parity.bounds import PIXEL_STEP, Bounds
from build_engine.parity.report import BoxAgreement, StageResult

MIN_JUDGED = 20  # boxes; with fewer, shares say nothing
CASES_ALLOWED = 1
RELATIVE = "relative error"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one side made of one picture: normalised pixels and the grid (None where the family has none)."""

    values: NDArray[np.float32]
    grid_hw: tuple[int, int] | None
    image_wh: tuple[int, int]


def changed_fields(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """A phrase for every value that differs: name, found, "instead of", expected."""
    names = sorted(found.keys() | expected.keys())
    return [
        f"{name} {_short(found.get(name))} instead of {_short(expected.get(name))}"
        for name in names
        if found.get(name) != expected.get(name)
    ]


def pixels(spec_changes: Sequence[str], pairs: Sequence[tuple[Seen, Seen]]) -> StageResult:
    """Normalised pixels of both sides, (reference, backend) per picture, and differences between their settings."""
    worst, problems = 0.0, list(spec_changes)
    for reference, backend in pairs:
        size = "x".join(str(side) for side in reference.image_wh)
        if reference.grid_hw is not None and reference.grid_hw != backend.grid_hw:
            problems.append(f"a {size} picture becomes {backend.grid_hw} patches instead of {reference.grid_hw}")
        elif reference.values.shape != backend.values.shape:
            problems.append(f"a {size} picture becomes {backend.values.shape} instead of {reference.values.shape}")
        else:
            off = float(np.abs(reference.values - backend.values).max())
            if off > max(worst, PIXEL_STEP):
                problems.append(f"pixels of a {size} picture")
            worst = max(worst, off)
    return _result("pixels", problems, worst, PIXEL_STEP, "normalised units")


def prompt(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], text_of: Callable[[Sequence[int]], str]
) -> StageResult:
    """Prompt token ids, (reference, backend) per request."""
    for reference, backend in pairs:
        if list(reference) != list(backend):
            at = next(
                (i for i, (a, b) in enumerate(zip(reference, backend, strict=False)) if a != b),
                min(len(reference), len(backend)),
            )
            theirs, ours = (text_of(ids[max(0, at - 2) : at + 6]) for ids in (reference, backend))
            return StageResult("prompt", False, detail=f"token {at}: {ours!r} instead of {theirs!r}")
    return StageResult("prompt", True, detail=f"{len(pairs)} prompts, the same tokens")


def vision(
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], bounds: Bounds, problems: Sequence[str] = ()
) -> StageResult:
    """Image embeddings [t, H], (reference, backend) per picture."""
    found, worst = _features(pairs, "embeddings")
    return _result("vision embedding", [*problems, *found], worst, bounds.vision, RELATIVE)


def deep_stack(
    pairs: Sequence[tuple[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]]],
    bounds: Bounds,
    problems: Sequence[str] = (),
) -> StageResult:
    """Deep-stack features, (reference, backend) per picture; `problems` are findings about how they are used."""
    found, worst, count = list(problems), 0.0, 0
    for reference, backend in pairs:
        count = len(reference)
        if len(reference) != len(backend):
            found.append(f"{len(backend)} features instead of {len(reference)}")
            break
        for i, pair in enumerate(zip(reference, backend, strict=True)):
            wrong, off = _features([pair], f"feature {i}")
            found, worst = found + wrong, max(worst, off)
    if not count and not found:
        return StageResult("deep-stack", True, detail="none in this architecture")
    return _result("deep-stack", found, worst, bounds.vision, RELATIVE)


def logits(
    name: str,
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    bounds: Bounds,
    problems: Sequence[str] = (),
) -> StageResult:
    """Logits [k, V] of the request ("prefill logits") or of the reply's tokens one by one, (reference, backend) per case."""
    if not pairs:
        return StageResult(name, False if problems else None, detail="; ".join(problems))
    shapes = {(reference.shape, backend.shape) for reference, backend in pairs if reference.shape != backend.shape}
    if shapes:
        theirs, ours = shapes.pop()
        return StageResult(name, False, detail="; ".join([*problems, f"{ours} logits instead of {theirs}"]))
    kl = float(np.mean([divergence(reference, backend) for reference, backend in pairs]))
    off = max(_logit_error(reference, backend) for reference, backend in pairs)
    agreement = float(np.mean(np.concatenate([r.argmax(-1) == b.argmax(-1) for r, b in pairs])))
    found = list(problems)
    if not off <= bounds.logits:
        found.append(f"logits off by {off:.2g} of their spread (bound {bounds.logits:.2g})")
    result = _result(name, found, kl, bounds.kl_nats, "nats")
    return StageResult(
        result.name, result.passed, result.worst, result.bound, result.unit,
        "; ".join(part for part in (result.detail, f"same first choice at {agreement:.1%} of positions") if part),
    )  # fmt: skip


def rounding(problems: Sequence[str]) -> StageResult:
    """Every rounded weight is the nearest of its block's steps to the checkpoint's, and every step as large as the block asks."""
    return _result("rounding", problems, 0.0, 0.0, "") if problems else StageResult("rounding", True)


def text(agreement: BoxAgreement, bounds: Bounds, problems: Sequence[str] = ()) -> StageResult:
    """Replies and boxes over all cases."""
    found = list(problems)
    extra = agreement.no_box_backend - agreement.no_box_reference
    if extra > max(CASES_ALLOWED, 0.01 * agreement.cases):
        found.append(f"{extra} more replies without a box")
    if agreement.iou_half is not None and agreement.boxes >= MIN_JUDGED:
        lost = 1 - agreement.iou_half
        if lost > max(bounds.disagreeing, CASES_ALLOWED / agreement.boxes):
            found.append(f"another box (IoU < 0.5) in {lost:.1%} of cases (bound {bounds.disagreeing:.0%})")
    points = agreement.accuracy_points
    if points is not None and agreement.truths >= MIN_JUDGED:
        allowed = max(bounds.accuracy_points, 100 * CASES_ALLOWED / agreement.truths + 0.01)
        if points < -allowed:
            found.append(f"Acc@0.5 {points:+.2f} points (bound -{allowed:.2f})")
    return StageResult("text", not found, detail="; ".join(list(dict.fromkeys(found))[:4]))


def divergence(reference: NDArray[np.float32], backend: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of next-token distributions, nats; infinite where the backend's are not numbers."""
    theirs, ours = (_log_softmax(values) for values in (reference, backend))
    mean = float((np.exp(theirs) * (theirs - ours)).sum(-1).mean())
    return mean if math.isfinite(mean) else math.inf


def _log_softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def _logit_error(reference: NDArray[np.float32], backend: NDArray[np.float32]) -> float:
    """Root-mean-square difference of centred logits over the reference's spread; infinite where they are not numbers."""
    theirs, ours = (v.astype(np.float64) - v.astype(np.float64).mean(-1, keepdims=True) for v in (reference, backend))
    off = float(np.sqrt(((theirs - ours) ** 2).mean()) / (np.sqrt((theirs**2).mean()) + 1e-12))
    return off if math.isfinite(off) else math.inf


def _features(pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], what: str) -> tuple[list[str], float]:
    worst = 0.0
    for reference, backend in pairs:
        if reference.shape != backend.shape:
            return [f"{what} of shape {backend.shape} instead of {reference.shape}"], math.inf
        theirs, ours = reference.astype(np.float64), backend.astype(np.float64)
        off = float(np.sqrt(((theirs - ours) ** 2).mean()) / (np.sqrt((theirs**2).mean()) + 1e-12))
        worst = max(worst, off if math.isfinite(off) else math.inf)
    return [], worst


def _result(name: str, problems: Sequence[str], worst: float, bound: float, unit: str) -> StageResult:
    measured = None if math.isinf(worst) else float(f"{worst:.2g}")
    unique = list(dict.fromkeys(problems))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return StageResult(name, not unique and worst <= bound, measured, bound, unit, "; ".join(unique[:3]) + more)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
