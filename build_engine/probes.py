"""Probe requests: a few deterministic pictures with expressions, drawn on the spot.

They exercise every graph with realistic input when two builds of one checkpoint are compared; they say nothing about how
well the model grounds. Evaluation data does that.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.grounding import Task


@dataclass(frozen=True, slots=True)
class Probe:
    """One request: HWC uint8 RGB picture, expression, task."""

    image: NDArray[np.uint8]
    expression: str
    task: Task


def probes() -> list[Probe]:
    """Four requests on three pictures of different aspect."""
    wide, tall, square = (_table(*size, seed=i) for i, size in enumerate(((480, 640), (400, 300), (320, 320))))
    return [
        Probe(wide, "the red mug", Task.MODAL),
        Probe(wide, "the leftmost green box", Task.MODAL),
        Probe(tall, "the blue ball", Task.AMODAL),
        Probe(square, "the yellow block behind the red mug", Task.AMODAL),
    ]


def _table(height: int, width: int, *, seed: int) -> NDArray[np.uint8]:
    """A grey table with four coloured shapes and a little noise."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(120, 190, height)[:, None, None]
    image = np.clip(shade + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)
    colours = ((200, 40, 40), (40, 160, 60), (50, 80, 200), (220, 190, 40))
    for i, colour in enumerate(colours):
        centre = (int(width * (0.15 + 0.22 * i)), int(height * rng.uniform(0.35, 0.75)))
        radius = int(min(height, width) * rng.uniform(0.07, 0.13))
        if i % 2:
            cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA)
        else:
            corner = (centre[0] + radius, centre[1] + radius)
            cv2.rectangle(image, (centre[0] - radius, centre[1] - radius), corner, colour, -1)
    return image
