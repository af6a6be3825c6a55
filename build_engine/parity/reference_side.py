"""The checkpoint's half of a comparison: its replies and traces, each computed once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from build_engine.parity.cases import Case
from build_engine.parity.report import BoxPair
from build_engine.parity.side import BackendSide
from build_engine.parity.streamed_reference import StreamedReference
from build_engine.parity.witnesses import Observed, in_pixels, read_box, task_text
from egm_edge.backends.transformers_reference import Prepared, TransformersReference
from egm_edge.boxes import Box
from egm_edge.bundle import sha256_of
from egm_edge.parsing import parse_answer

BATCH = 16
TRACED = 5  # cases whose every stage is compared; the others are compared by text and box


class ReferenceSide:
    """A checkpoint, asked the cases of one comparison; both passes over the bundle use what it said."""

    def __init__(
        self, reference: TransformersReference, family: str, cases: Sequence[Case], max_new_tokens: int
    ) -> None:
        self.reference, self.family, self.cases, self.max_new_tokens = reference, family, cases, max_new_tokens
        self.observed: Observed | None = None
        self.proposed_by: BackendSide  # whose replies a streamed reference judges
        self.pairs: list[BoxPair] = []
        self._replies: dict[int, list[int]] = {}
        self._traces: dict[tuple[Any, ...], Any] = {}

    def prepared(self, case: Case) -> Prepared:
        return self.reference.prepare(opened(case.picture), task_text(self.family, case.expression, case.task))

    def reply(self, number: int) -> list[int]:
        if number not in self._replies and isinstance(self.reference, StreamedReference):
            case = self.cases[number]
            proposal, _ = self.proposed_by.naive_reply(case, self.max_new_tokens)
            self._replies[number] = self.reference.judged(self.prepared(case), proposal).reply[: self.max_new_tokens]
        if number not in self._replies:
            start = number - number % BATCH
            batch = [self.prepared(case) for case in self.cases[start : start + BATCH]]
            self._replies |= dict(enumerate(self.reference.generate(batch, self.max_new_tokens), start))
        return self._replies[number]

    def trace(self, case: Case, reply: Sequence[int], last: int, **options: Any) -> Any:
        key = (case, tuple(reply), last, *options.items())
        if key not in self._traces:
            observed = Observed(self.reference.model) if self.observed is None else None
            self._traces[key] = self.reference.trace(self.prepared(case), reply, last, **options)
            if observed is not None:
                observed.detach(vision_runs=2)  # for its features, and for the logits
                self.observed = observed
        return self._traces[key]


def box_of(reply: str, case: Case, image_wh: tuple[int, int], *, in_thought: bool) -> Box | None:
    """The box of a reply with its special tokens, pixels: as the second witness reads it, and where the reply is more than one
    plain box, as the parser does, whose choice is held by scripted replies."""
    norm1000 = read_box(reply, in_thought=in_thought)
    if norm1000 is None:
        parsed = parse_answer(reply, task=case.task, in_thought=in_thought, expression=case.expression)
        norm1000 = parsed.box_norm1000
    if norm1000 is None:
        return None
    x1, y1, x2, y2 = in_pixels(norm1000, image_wh, case.task)
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def checkpoint_sha256(directory: Path) -> str:
    """Names a checkpoint's content: every JSON, template and weight file of it."""
    digest = hashlib.sha256()
    for pattern in ("*.json", "*.jinja", "*.safetensors"):
        for path in sorted(directory.glob(pattern)):
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def opened(picture: bytes) -> Image.Image:
    """A picture as it is displayed."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(picture))).convert("RGB")
