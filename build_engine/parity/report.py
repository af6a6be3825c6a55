"""ParityReport: what a comparison found, as a value, as JSON for the manifest, and as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from egm_edge.boxes import Box

STAGES = ("pixels", "prompt", "vision embedding", "deep-stack", "prefill logits", "decode logits", "rounding", "text")
ACCURATE_IOU = 0.5
CLOSE_IOU = 0.9


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage.

    Attributes:
        name: one of STAGES.
        passed: True, False, or None when it was not reached.
        worst: the largest deviation seen, in `unit`; None where the comparison is of exact values.
        bound: what `worst` may be.
        detail: what differs, in words; "" when nothing does.
    """

    name: str
    passed: bool | None
    worst: float | None = None
    bound: float | None = None
    unit: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BoxPair:
    """One request's boxes on both sides, None where a side gave none; pixels of the picture."""

    reference: Box | None
    backend: Box | None
    truth: Box | None
    same_text: bool

    @property
    def iou(self) -> float | None:
        """Between the two boxes; 0 where only the backend's is missing, None where the reference gave none."""
        if self.reference is None:
            return None
        return self.reference.iou(self.backend) if self.backend else 0.0


@dataclass(frozen=True, slots=True)
class BoxAgreement:
    """Both sides' boxes over all cases.

    Attributes:
        cases: requests. same_text: share whose replies are equal.
        boxes: cases in which the reference gave a box; the IoU figures are over these.
        iou_mean, iou_p5, iou_p50: IoU between the two boxes. iou_close: share of at least 0.9; iou_half: of at least 0.5.
        no_box_reference, no_box_backend: replies without a box.
        truths: cases with a known true box; accuracy_reference, accuracy_backend: Acc@0.5 over these, None without any.
    """

    cases: int
    same_text: float
    boxes: int
    iou_mean: float | None
    iou_p5: float | None
    iou_p50: float | None
    iou_close: float | None
    iou_half: float | None
    no_box_reference: int
    no_box_backend: int
    truths: int
    accuracy_reference: float | None
    accuracy_backend: float | None

    @classmethod
    def of(cls, pairs: Sequence[BoxPair]) -> BoxAgreement:
        """Count; figures are rounded so that equal builds on equal machines give equal reports."""
        ious = np.array([p.iou for p in pairs if p.iou is not None], np.float64)
        judged = [p for p in pairs if p.truth is not None]

        def share(hits: Sequence[bool]) -> float | None:
            return round(sum(hits) / len(hits), 4) if len(hits) else None

        return cls(
            cases=len(pairs),
            same_text=share([p.same_text for p in pairs]) or 0.0,
            boxes=len(ious),
            iou_mean=round(float(ious.mean()), 4) if len(ious) else None,
            iou_p5=round(float(np.percentile(ious, 5)), 4) if len(ious) else None,
            iou_p50=round(float(np.percentile(ious, 50)), 4) if len(ious) else None,
            iou_close=share([bool(v >= CLOSE_IOU) for v in ious]),
            iou_half=share([bool(v >= ACCURATE_IOU) for v in ious]),
            no_box_reference=sum(p.reference is None for p in pairs),
            no_box_backend=sum(p.backend is None for p in pairs),
            truths=len(judged),
            accuracy_reference=share([_hits(p.reference, p.truth) for p in judged]),
            accuracy_backend=share([_hits(p.backend, p.truth) for p in judged]),
        )

    @property
    def accuracy_points(self) -> float | None:
        """Acc@0.5 of the backend minus the reference's, percentage points."""
        if self.accuracy_reference is None or self.accuracy_backend is None:
            return None
        return round((self.accuracy_backend - self.accuracy_reference) * 100, 2)


@dataclass(frozen=True, slots=True)
class ParityReport:
    """A finished comparison.

    Attributes:
        against: what the reference was, with version and arithmetic.
        backend: what ran the bundle. precision: whose bounds were applied.
        checkpoint_sha256: of the reference's config and weights. content_sha256: of what was compared, parity left out.
        stages: in the order of STAGES. boxes: None when text was not reached. machine: what ran the bundle.
    """

    against: str
    backend: str
    precision: str
    checkpoint_sha256: str
    content_sha256: str
    stages: tuple[StageResult, ...]
    boxes: BoxAgreement | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def first_divergence(self) -> str:
        """The first stage that differs, "" when all agree."""
        return next((stage.name for stage in self.stages if stage.passed is False), "")

    @property
    def passed(self) -> bool:
        return not self.first_divergence and all(stage.passed for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the parity section of a manifest."""
        return asdict(self) | {
            "status": "verified" if self.passed else "failed",
            "first_divergence": self.first_divergence,
            "stages": [asdict(stage) for stage in self.stages],
            "boxes": asdict(self.boxes) | {"accuracy_points": self.accuracy_points} if self.boxes else None,
        }

    @property
    def accuracy_points(self) -> float | None:
        return self.boxes.accuracy_points if self.boxes else None

    def lines(self) -> list[str]:
        """The report for people."""
        head = "parity: verified" if self.passed else f"parity: FAILED, first at {self.first_divergence}"
        found = [f"{head}  ({self.precision} on {self.backend}, against {self.against})"]
        found += [f"  {_mark(stage.passed):<8}{stage.name:<17}{_measured(stage)}" for stage in self.stages]
        return found + (_box_lines(self.boxes) if self.boxes else [])


def summary(parity: dict[str, Any]) -> str:
    """One line of a manifest's parity section, whoever wrote it."""
    text = f"parity: {parity.get('status')}"
    if parity.get("first_divergence"):
        text += f", first at {parity['first_divergence']}"
    boxes = parity.get("boxes") or {}
    if boxes.get("iou_mean") is not None:
        text += f", mean IoU {boxes['iou_mean']:.3f} to the checkpoint's {boxes['boxes']} boxes"
    if parity.get("against"):
        text += f", against {parity['against']}"
    text += f": {parity['why']}" if parity.get("why") else ""
    parts = (part for part in ("graphs", "engine") if "status" in parity.get(part, {}))  # Edge-LLM's hold figures alone
    return text + "".join(f"; its {part} on the CPU: {parity[part]['status']}" for part in parts)


def _mark(passed: bool | None) -> str:
    return {True: "same", False: "DIFFERS", None: "-"}[passed]


def _measured(stage: StageResult) -> str:
    text = f"{stage.worst:.3g} {stage.unit} (bound {stage.bound:.3g})" if stage.worst is not None else ""
    return "  ".join(part for part in (text, stage.detail) if part)


def _box_lines(boxes: BoxAgreement) -> list[str]:
    lines = [
        f"  {boxes.cases} requests, {boxes.same_text:.1%} with the reference's very text; without a box: "
        f"{boxes.no_box_backend} (reference {boxes.no_box_reference})"
    ]
    if boxes.boxes:
        lines.append(
            f"  IoU to the reference's {boxes.boxes} boxes: mean {boxes.iou_mean:.3f}, p5 {boxes.iou_p5:.3f}, "
            f"p50 {boxes.iou_p50:.3f}, {boxes.iou_close:.1%} at 0.9 and more"
        )
    if boxes.truths:
        lines.append(
            f"  Acc@0.5 on {boxes.truths} known boxes: {boxes.accuracy_backend:.1%}, reference "
            f"{boxes.accuracy_reference:.1%}, difference {boxes.accuracy_points:+.2f} points"
        )
    return lines


def _hits(box: Box | None, truth: Box | None) -> bool:
    return box is not None and truth is not None and box.iou(truth) >= ACCURATE_IOU
