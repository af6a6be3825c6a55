"""What decoding saw of one answer, as named numbers that a confidence map weighs. Pure arithmetic.

Nothing here is a probability of being right; only a fitted map makes one of it.
"""

from __future__ import annotations

import math
import re

from egm_edge.decoding.events import Generation
from egm_edge.decoding.uncertainty import std_norm1000
from egm_edge.grounding import Truncation
from egm_edge.parsing import BoxNorm1000

FLOOR = -20.0  # log-probabilities below this say the same
MEAN_LOG_PROBABILITY = "mean_log_probability"
FEATURES = (
    MEAN_LOG_PROBABILITY,  # of all tokens that the model chose, nats
    "thought_mean_log_probability",
    "thought_min_log_probability",
    "box_log_probability",  # of the coordinates among the numbers allowed, summed
    "box_min_log_probability",  # of the least certain digit or number
    "box_entropy",  # nats, summed over digits
    "log_relative_spread",  # of the least certain side, against the box's own extent
    "log_think_tokens",
    "thought_cut",  # 1 where the thought was closed early
    "thought_left_out",  # 1 where there was none
    "log_box_area",  # share of the image
    "amodal",
    "agreement",  # of the samples; 1 for a single one
    "label_contradicts",  # 1 where the label names another colour or another thing than the expression
    "log_longest_spelling",  # tokens of the expression's most spelled-out word: one that the model hardly knows
)


def evidence(
    generation: Generation,
    box: BoxNorm1000,
    *,
    amodal: bool,
    agreement: float | None,
    label: str | None,
    expression: str,
    longest_spelling: int,
) -> dict[str, float]:
    """The features of one answer with a box, by name.

    Args:
        generation: the answer that stands. box: its box, norm1000.
        agreement: share of the samples that agree with it, None for a single one.
        label: what the answer calls the box. expression: what was asked for.
        longest_spelling: tokens of the expression's most spelled-out word.
    """
    chosen = [max(lp, FLOOR) for lp in generation.log_probabilities if not math.isnan(lp)]
    thought = [max(lp, FLOOR) for lp in generation.log_probabilities[: generation.think_tokens] if not math.isnan(lp)]
    digits = [max(math.log(max(c.probability, 1e-30)), FLOOR) for c in generation.choices]
    width, height = max(box[2] - box[0], 1.0), max(box[3] - box[1], 1.0)
    spread = std_norm1000(list(generation.choices)) or (0.0, 0.0, 0.0, 0.0)
    relative = max(s / extent for s, extent in zip(spread, (width, height, width, height), strict=True))
    values = (
        _mean(chosen),
        _mean(thought),
        min(thought, default=0.0),
        sum(digits),
        min(digits, default=0.0),
        sum(c.entropy for c in generation.choices),
        math.log(relative + 1e-3),
        math.log1p(generation.think_tokens),
        float(Truncation.THOUGHT in generation.truncated_by),
        float(not thought),
        math.log(width * height / 1e6),
        float(amodal),
        1.0 if agreement is None else agreement,
        float(label_contradicts(label, expression)),
        math.log(max(longest_spelling, 1)),
    )
    return dict(zip(FEATURES, values, strict=True))


ANYTHING = frozenset({"object", "thing", "item", "one", "something"})
COLOUR_WORDS = frozenset(
    ("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "black", "white", "grey", "gray", "brown")
)


def label_contradicts(label: str | None, expression: str) -> bool:
    """Whether a label names another colour than the expression does, or another thing (its last word).

    Example:
        >>> label_contradicts("black ball", "the rightmost blue ball"), label_contradicts("black ball", "the ball")
        (True, False)
    """
    words, asked = re.findall(r"\w+", (label or "").lower()), set(re.findall(r"\w+", expression.lower()))
    if not words:
        return False
    colours, wanted = COLOUR_WORDS.intersection(words), COLOUR_WORDS & asked
    return bool(colours and wanted and not colours & wanted) or (words[-1] not in asked and not asked & ANYTHING)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
