"""Sample: what one request cost, stage by stage, with its tokens. Made from a Grounding; knows nothing of engines.

The stages follow one another without overlap; `other_ms` is what the total holds beyond them (prompt encoding, Python), and
is reported like a stage, so that the numbers add up to the total by construction and nothing can hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from egm_edge.grounding import Grounding

STAGES = ("decode_image_ms", "preprocess_ms", "vision_ms", "prefill_ms", "think_ms", "answer_ms", "parse_ms")
TOTALS = ("ttft_ms", "total_ms", "tpot_ms")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        frame: name of the picture. image_wh: its pixels.
        expression, task, outcome, cut: of the Grounding.
        tokens: prompt, image (part of prompt), think (part of completion), completion, decode_steps.
        stages: milliseconds of each of STAGES.
        other_ms: total_ms minus all stages.
        ttft_ms: request start to first generated token, image decoding included. total_ms: to the Grounding.
        tpot_ms: time per output token after the first, the end token counted as one; None with fewer than two.
        token_gaps_ms: between consecutive tokens as they were handed out.
    """

    frame: str
    image_wh: tuple[int, int]
    expression: str
    task: str
    outcome: str
    cut: str
    tokens: dict[str, int]
    stages: dict[str, float]
    other_ms: float
    ttft_ms: float
    total_ms: float
    tpot_ms: float | None
    token_gaps_ms: tuple[float, ...] = ()

    @classmethod
    def of(cls, grounding: Grounding, frame: str, token_times_s: Sequence[float] = ()) -> Sample:
        """From an answer, and when each of its tokens came."""
        timings, tokens = grounding.timings, grounding.tokens
        stages = {name: float(getattr(timings, name)) for name in STAGES}
        generated = tokens.completion + (0 if grounding.truncated_by else 1)
        gaps = (b - a for a, b in pairwise(token_times_s))
        return cls(
            frame=frame,
            image_wh=grounding.image_wh,
            expression=grounding.expression,
            task=grounding.task.value,
            outcome=grounding.outcome.value,
            cut=grounding.cut,
            tokens=asdict(tokens),
            stages=stages,
            other_ms=timings.total_ms - sum(stages.values()),
            ttft_ms=timings.ttft_ms,
            total_ms=timings.total_ms,
            tpot_ms=(timings.think_ms + timings.answer_ms) / (generated - 1) if generated > 1 else None,
            token_gaps_ms=tuple(gap * 1e3 for gap in gaps),
        )


def series(samples: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Measured quantity -> its values over samples (as `asdict` gives them), stages first, then other and the totals."""
    found = {name: [float(s["stages"][name]) for s in samples] for name in STAGES}
    for name in ("other_ms", *TOTALS):
        found[name] = [float(s[name]) for s in samples if s[name] is not None]
    found["token_gap_ms"] = [float(gap) for s in samples for gap in s["token_gaps_ms"]]
    return found
