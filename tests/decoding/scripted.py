"""A model that writes what a script says, over any tokenizer, with a little noise in its logits; and well-formed answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LABELS = ("mug", "the red mug", "a box, left of the others", "naïve 猫", "it's")
QWEN_LAYOUTS = (
    '```json\n[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "{label}"}}]\n```',
    '[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "{label}"}}]',
    '```json\n[\n\t{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "{label}"}}\n]\n```',
    '[{{"label": "{label}", "bbox_2d": [{0}, {1}, {2}, {3}]}}]',
    '{{"bbox_2d": [{0}, {1}, {2}, {3}]}}',
    "```json\n[]\n```",
    "[]",
)
TAG_LAYOUTS = (
    "<answer><ref>{label}</ref><box>[{0}, {1}, {2}, {3}]</box></answer>",
    "<ref>{label}</ref><box>[[{0}, {1}, {2}, {3}]]</box>",
    "<box>[[{0}, {1}, {2}, {3}]]</box>",
    "<answer><box></box></answer>",
)


def well_formed(rng: random.Random, layout: str) -> str:
    """An answer with an ordered box of random size; multiples of 5 half of the time."""
    step = rng.choice((1, 5))
    x1, y1 = (rng.randrange(0, 900, step) for _ in range(2))
    x2, y2 = (rng.randrange(low + step, 1000 + step, step) for low in (x1, y1))
    return layout.format(x1, y1, min(x2, 1000), min(y2, 1000), label=rng.choice(LABELS))


@dataclass
class ScriptedModel:
    """A Session whose logits prefer a script, whatever is fed; elsewhere they are noise.

    Attributes:
        request: length of the request before the reply.
        script: the reply's tokens, its end token last.
    """

    vocabulary: int
    request: int
    script: Sequence[int]
    seed: int = 0
    sequence: list[int] = field(default_factory=list)
    steps: int = 0

    @property
    def length(self) -> int:
        return len(self.sequence)

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        self.steps += 1
        rows = []
        for token in token_ids:
            self.sequence.append(token)
            place = self.length - self.request
            row = np.random.default_rng((self.seed, self.length)).normal(0, 1, self.vocabulary).astype(np.float32)
            row[self.script[min(max(place, 0), len(self.script) - 1)]] += 12.0
            rows.append(row)
        return np.stack(rows) if every_position else rows[-1]

    def truncate(self, length: int) -> None:
        del self.sequence[length:]
