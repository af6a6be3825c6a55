"""The accuracy gate: a quantised CPU bundle against the same checkpoint in full precision, on probe requests.

Both run the same graphs but for their weight formats, token by token on the full-precision reply, so that the numbers
isolate what quantisation costs. Knows nothing of how bundles are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.probes import Probe, probes
from egm_edge.backends.onnx_runtime.backend import OnnxBackend, OnnxFrame
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.grounder import Grounder
from egm_edge.grounding import Grounding

MAX_REFERENCE_PARAMETERS = 400_000_000  # beyond this a full-precision copy does not fit a build machine's memory
PROBE_TOKENS = 96
MIN_VISION_COSINE = 0.98
MAX_MEAN_KL_NATS = {"int8": 0.10, "int4": 0.40}


@dataclass(frozen=True, slots=True)
class ProbeAgreement:
    """One probe: smallest cosine between image embeddings, KL divergence and top-1 agreement per position, box IoU
    (None where full precision found no box, 0.0 where only it did)."""

    vision_cosine: float
    kl_nats: NDArray[np.float64]
    top1: NDArray[np.bool_]
    box_iou: float | None


def not_run(why: str) -> dict[str, Any]:
    """The parity section of a bundle that was not compared."""
    return {"status": "unverified", "why": why}


def check(reference: Bundle, candidate: Bundle, precision: str) -> dict[str, Any]:
    """Compare two bundles of one checkpoint.

    Returns:
        The parity section of the candidate's manifest.

    Raises:
        BuildError: the candidate differs by more than its precision's bound.
    """
    with Grounder.from_opened(reference) as full, Grounder.from_opened(candidate, memory="fast") as quantised:
        agreements = [_compare(full, quantised, probe) for probe in probes()]
    report = _report(agreements)
    bound = MAX_MEAN_KL_NATS[precision]
    if report["vision_cosine_min"] < MIN_VISION_COSINE or report["kl_nats_mean"] > bound:
        raise BuildError(
            f"{precision} logits within {bound} nats and image embeddings within cosine {MIN_VISION_COSINE} of full precision",
            f"{report['kl_nats_mean']:.3f} nats and cosine {report['vision_cosine_min']:.3f}",
            "build with a higher --precision, or --no-gate to take it as it is",
        )
    return {"status": "verified", "against": "the same checkpoint in fp32 on ONNX Runtime, probe requests", **report}


def _compare(full: Grounder, quantised: Grounder, probe: Probe) -> ProbeAgreement:
    replies: list[Grounding] = []
    frames: list[OnnxFrame] = []
    for grounder in (full, quantised):
        frame = grounder.frame(probe.image, color="rgb")
        replies.append(grounder.ground(frame, probe.expression, task=probe.task, max_new_tokens=PROBE_TOKENS))
        assert isinstance(frame.engine_frame, OnnxFrame)
        frames.append(frame.engine_frame)
    request, reply = (
        full.token_ids(probe.expression, probe.task),
        full.tokenizer.encode(replies[0].text, add_special_tokens=False).ids,
    )
    reference, candidate = (
        _log_probabilities(grounder, frame, [*request, *reply])[len(request) - 1 :]
        for grounder, frame in zip((full, quantised), frames, strict=True)
    )
    return ProbeAgreement(
        vision_cosine=float(_cosines(frames[0].embeddings, frames[1].embeddings).min()),
        kl_nats=(np.exp(reference) * (reference - candidate)).sum(-1),
        top1=reference.argmax(-1) == candidate.argmax(-1),
        box_iou=_box_iou(*replies),
    )


def _log_probabilities(grounder: Grounder, frame: OnnxFrame, token_ids: list[int]) -> NDArray[np.float64]:
    backend = grounder.backend
    assert isinstance(backend, OnnxBackend)
    logits = backend.open_session(frame).extend(token_ids, every_position=True).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1) + 1e-12))


def _box_iou(full: Grounding, quantised: Grounding) -> float | None:
    if full.box is None:
        return None
    return full.box.iou(quantised.box) if quantised.box else 0.0


def _report(agreements: list[ProbeAgreement]) -> dict[str, Any]:
    kl, top1 = (np.concatenate([getattr(a, name) for a in agreements]) for name in ("kl_nats", "top1"))
    ious = [a.box_iou for a in agreements if a.box_iou is not None]
    return {
        "probes": len(agreements),
        "positions": len(kl),
        "vision_cosine_min": round(min(a.vision_cosine for a in agreements), 6),
        "kl_nats_mean": round(float(kl.mean()), 6),
        "top1_agreement": round(float(top1.mean()), 6),
        "box_iou_mean": round(float(np.mean(ious)), 6) if ious else None,
        "boxes_compared": len(ious),
    }
