"""What quantization costs, in numbers: transformers with exactly the saved numbers against transformers with the original's,
for the same requests.

Two things are held to bounds. Each decoder layer by itself, given what entered the original's layer: there a wrong scale or a
wrongly packed weight shows at full size, in whichever of many layers it sits. And the logits of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from build_engine.precisions import PRECISIONS
from egm_edge.errors import BuildError

VISION_BOUND = 1e-3  # a tower in high precision computes what the original's does
FP8_VISION_BOUND = 0.3  # Gaussian weights give 0.08


@dataclass(frozen=True, slots=True)
class QuantizationCheck:
    """What the comparison found, the worst of all requests.

    Attributes:
        vision: "fp8", or the type in which the vision tower stays. against: what both sides ran on.
        vision_error: image embeddings, root-mean-square error over the root mean square.
        layer_error: of the worst decoder layer by itself. worst_layer: its index.
        logits_error: over the logits' spread, at every position of prompt and answer. cosine: of the logits, centred.
        argmax_agreement: share of positions whose best token is the original's. answer_agreement: the same of the positions
            that the model answers from, prompt and picture left out; None without a known answer.
        arithmetic_error: of the logits when layers round to what the runtime computes in; no part of a bound.
    """

    precision: str
    vision: str
    against: str
    requests: int
    vision_error: float
    layer_error: float
    worst_layer: int
    logits_error: float
    cosine: float
    argmax_agreement: float
    answer_agreement: float | None
    arithmetic_error: float

    @property
    def bounds(self) -> dict[str, float]:
        row = PRECISIONS[self.precision]
        vision = FP8_VISION_BOUND if self.vision == "fp8" else VISION_BOUND
        return {"vision_error": vision, "layer_error": row.layer_bound, "logits_error": row.logits_bound}

    @property
    def failed(self) -> str:
        """The first figure beyond its bound, in the order in which the model computes; "" when all hold."""
        return next((name for name, bound in self.bounds.items() if not getattr(self, name) <= bound), "")

    def require_passed(self) -> None:
        """Raises BuildError naming the first figure beyond its bound."""
        if not self.failed:
            return
        where = f" of decoder layer {self.worst_layer}" if self.failed == "layer_error" else ""
        raise BuildError(
            f"{self.failed.replace('_', ' ')}{where} within {self.bounds[self.failed]:g} of the original at {self.precision}",
            f"{getattr(self, self.failed):.3g}",
            "give --calibration rows like the robot's own, pass a higher --precision, or --no-gate to keep the bundle",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return rounded | {"bounds": self.bounds, "passed": not self.failed}


def check_quantization(
    recorded: Path, precision: str, vision: str, against: str, answers: Sequence[int]
) -> QuantizationCheck:
    """Read the worker's record of both sides.

    Args:
        recorded: the worker's safetensors.
        precision, vision: whose bounds apply. against: what both sides ran on, for the report.
        answers: tokens at the end of each request that are its answer, 0 where it has none.
    """
    values = load_file(str(recorded))
    requests = len(answers)
    pairs = [(values[f"quantized.{i}.logits"], values[f"checkpoint.{i}.logits"]) for i in range(requests)]
    pictures = [(values[f"quantized.{i}.embeddings"], values[f"checkpoint.{i}.embeddings"]) for i in range(requests)]
    rounded = [(values[f"rounded.{i}.logits"], values[f"quantized.{i}.logits"]) for i in range(requests)]
    replies = [(found[-1 - n : -1], expected[-1 - n : -1]) for (found, expected), n in zip(pairs, answers, strict=True) if n]
    layers = np.nan_to_num(values["layer_errors"], nan=np.inf).max(0)  # [layers]
    return QuantizationCheck(
        precision=precision,
        vision=vision,
        against=against,
        requests=requests,
        vision_error=max(relative_error(found, expected, centred=False) for found, expected in pictures),
        layer_error=float(layers.max()),
        worst_layer=int(layers.argmax()),
        logits_error=max(relative_error(found, expected, centred=True) for found, expected in pairs),
        cosine=min(_cosine(found, expected) for found, expected in pairs),
        argmax_agreement=min(_agreement(found, expected) for found, expected in pairs),
        answer_agreement=min((_agreement(found, expected) for found, expected in replies), default=None),
        arithmetic_error=max(relative_error(found, expected, centred=True) for found, expected in rounded),
    )


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32], centred: bool) -> float:
    """Root-mean-square difference over the root mean square of `expected` (of its deviation from each row's mean when
    `centred`, as a constant added to all logits changes nothing); infinite for other shapes and values that are not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    difference = found.astype(np.float64) - expected
    scale = expected - expected.mean(-1, keepdims=True) if centred else expected
    return float(np.sqrt((difference**2).mean() / max((scale.astype(np.float64) ** 2).mean(), 1e-30)))


def _agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float((found.argmax(-1) == expected.argmax(-1)).mean())


def _cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Mean over positions of the cosine between both rows of logits, each centred."""
    a, b = (rows.astype(np.float64) - rows.mean(-1, keepdims=True) for rows in (found, expected))
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(lengths, 1e-30)).mean())
