"""The parity gate: the same pictures and sentences through the checkpoint and through a bundle, compared stage by stage.

Reads top to bottom: ask the reference, look at pixels and prompts, run the backend, compare, report. Knows nothing of how
bundles are built or stored.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from build_engine.parity import stages
from build_engine.parity.bounds import BOUNDS, Bounds
from build_engine.parity.cases import Case, size_probes
from build_engine.parity.engine_pixels import engine_pixels
from build_engine.parity.report import BoxAgreement, BoxPair, ParityReport, StageResult
from egm_edge.backends import Backend
from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.backends.transformers_reference import Prepared, ReferenceTrace, TransformersReference
from egm_edge.boxes import Box
from egm_edge.bundle import Bundle, sha256_of
from egm_edge.errors import EgmError
from egm_edge.families import family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounder import Grounder
from egm_edge.grounding import Task
from egm_edge.loaded_model import read_tokenizer
from egm_edge.parsing import parse_answer
from egm_edge.pixels import PixelSpec

TRACED = 4  # cases whose every stage is compared; the others are compared by text and box
BATCH = 16
TIE_LOGITS = 2e-3  # two tokens this close are a tie: the order of summation decides between them
EXPRESSION = "the red mug left of the kettle"


@dataclass(slots=True)
class _Run:
    """What is gathered on the way, (reference, backend) pairs by stage."""

    embeddings: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    deepstack: list[tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = field(default_factory=list)
    logits: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    boxes: list[BoxPair] = field(default_factory=list)
    vision_problems: list[str] = field(default_factory=list)
    deepstack_problems: list[str] = field(default_factory=list)
    prefill_problems: list[str] = field(default_factory=list)
    text_problems: list[str] = field(default_factory=list)


def compare(
    bundle: Bundle,
    backend: Backend,
    reference: TransformersReference,
    cases: Sequence[Case],
    *,
    max_new_tokens: int,
    traced: int = TRACED,
    advance: Callable[[int], None] = lambda count: None,
) -> ParityReport:
    """Compare a bundle, run by `backend`, with its checkpoint.

    Args:
        cases: requests; the first `traced` are compared at every stage.
        max_new_tokens: cap of both sides' replies.
        advance: told how many cases were finished.

    Raises:
        EgmError: the reference cannot run. What the backend raises is a finding, not an error.
    """
    manifest = bundle.manifest
    bounds = BOUNDS[manifest.precision]
    grounder = Grounder(backend, bundle, read_tokenizer(bundle))
    side = _BackendSide(bundle, grounder)
    found = [_pixels(side, reference, cases), _prompt(side, reference)]
    run = _Run(
        vision_problems=_vision_settings(manifest.model, reference),
        deepstack_problems=_deepstack_settings(manifest.model, reference),
        prefill_problems=_decoder_settings(manifest.model, reference),
        text_problems=_end_tokens(manifest.model, reference),
    )
    broken = _run_cases(side, reference, cases, run, bounds, max_new_tokens, traced, advance)
    boxes = BoxAgreement.of(run.boxes) if not broken else None
    found += [*_measured_stages(run, bounds, boxes, broken)]
    return ParityReport(
        against=reference.name,
        backend=f"{backend.facts.runtime} ({backend.facts.device})",
        precision=manifest.precision,
        checkpoint_sha256=checkpoint_sha256(reference.checkpoint),
        content_sha256=manifest.content_hash,
        stages=tuple(found),
        boxes=boxes,
        versions=dict(reference.versions),
    )


def fitting(bundle: Bundle, reference: TransformersReference, cases: Sequence[Case], new_tokens: int) -> list[Case]:
    """The cases whose request leaves room for `new_tokens` in the bundle's context."""
    room = int(bundle.manifest.limits["context_tokens"]) - new_tokens
    return [c for c in cases if len(reference.prepare(_opened(c.picture), _task_text(bundle, c)).ids) <= room]


def checkpoint_sha256(directory: Path) -> str:
    """Names a checkpoint's content: every JSON, template and weight file of it."""
    digest = hashlib.sha256()
    for pattern in ("*.json", "*.jinja", "*.safetensors"):
        for path in sorted(directory.glob(pattern)):
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


class _BackendSide:
    """The bundle's half: frames, prompts, traces."""

    def __init__(self, bundle: Bundle, grounder: Grounder) -> None:
        self.bundle, self.grounder = bundle, grounder
        self.family = family_for(bundle.manifest.family)

    def task_text(self, case: Case) -> str:
        return _task_text(self.bundle, case)

    def seen(self, picture: bytes) -> stages.Seen:
        frame = self.grounder.frame(picture)
        values = engine_pixels(self.bundle, frame.pixels, self.grounder.pixel_spec)
        return stages.Seen(values, frame.pixels.grid_hw, frame.image_wh)

    def prompt_ids(self, case: Case) -> list[int]:
        grounder = self.grounder
        frame = grounder.frame(case.picture)
        prefix = self.family.prefix_token_ids(
            prefix_ids(grounder.tokenizer, grounder.prompt_spec),
            int(self.bundle.manifest.model["image_token_id"]),
            frame.pixels,
        )
        return [*prefix, *grounder.token_ids(case.expression, case.task)]

    def logits(self, engine_frame: Any, case: Case, reply: Sequence[int]) -> NDArray[np.float32]:
        """After every token of the request and of `reply`."""
        session = self.grounder.backend.open_session(engine_frame)
        ids = [*self.grounder.token_ids(case.expression, case.task), *reply]
        return session.extend(ids, every_position=True)


def _pixels(side: _BackendSide, reference: TransformersReference, cases: Sequence[Case]) -> StageResult:
    max_pixels = side.bundle.manifest.limits.get("max_pixels")
    expected = PixelSpec.from_checkpoint(reference.checkpoint)
    expected = expected if max_pixels is None else expected.with_max_pixels(max_pixels)
    changes = stages.changed_fields(side.grounder.pixel_spec.to_dict(), expected.to_dict())
    pairs = []
    for picture in [*size_probes(expected), *dict.fromkeys(case.picture for case in cases[:TRACED])]:
        image = _opened(picture)
        values, grid_hw = reference.pixel_values(image)
        try:
            pairs.append((stages.Seen(values, grid_hw, image.size), side.seen(picture)))
        except EgmError as error:
            changes.append(str(error))
    return stages.pixels(changes, pairs)


def _prompt(side: _BackendSide, reference: TransformersReference) -> StageResult:
    """Both tasks on one small picture, in one script and another."""
    picture = size_probes(PixelSpec.from_checkpoint(reference.checkpoint))[0]
    image, pairs = _opened(picture), []
    for expression in (EXPRESSION, "左边的杯子"):
        for task in Task:
            case = Case(picture, expression, task)
            try:
                ours = side.prompt_ids(case)
            except EgmError as error:
                return StageResult("prompt", False, detail=str(error))
            pairs.append((reference.prepare(image, side.task_text(case)).ids, ours))
    return stages.prompt(pairs, lambda ids: reference.text(ids, marked=True))


def _vision_settings(model: dict[str, Any], reference: TransformersReference) -> list[str]:
    ours, theirs = (model.get("vision") or {}).get("rope_theta"), reference.vision_rope_theta
    return stages.changed_fields({"rope_theta": ours}, {"rope_theta": theirs})


def _deepstack_settings(model: dict[str, Any], reference: TransformersReference) -> list[str]:
    ours = (model.get("vision") or {}).get("deepstack")
    return [] if ours == reference.deepstack_count else [f"{ours} features instead of {reference.deepstack_count}"]


def _decoder_settings(model: dict[str, Any], reference: TransformersReference) -> list[str]:
    theta, section = reference.rope
    ours = {"rope_theta": model.get("rope_theta"), "mrope_section": tuple(model.get("mrope_section") or ()) or None}
    return stages.changed_fields(ours, {"rope_theta": theta, "mrope_section": section})


def _end_tokens(model: dict[str, Any], reference: TransformersReference) -> list[str]:
    ours = frozenset(model["stop_token_ids"])
    if ours == reference.end_token_ids:
        return []
    return [f"end tokens {sorted(ours)} instead of {sorted(reference.end_token_ids)}"]


def _run_cases(
    side: _BackendSide,
    reference: TransformersReference,
    cases: Sequence[Case],
    run: _Run,
    bounds: Bounds,
    max_new_tokens: int,
    traced: int,
    advance: Callable[[int], None],
) -> str:
    """Ask both sides every case; returns what the backend raised, "" when it ran through."""
    for number, (case, prepared, reply) in enumerate(_asked(side, reference, cases, max_new_tokens)):
        try:
            frame = side.grounder.frame(case.picture)
            answer = side.grounder.ground(
                frame, case.expression, task=case.task, max_new_tokens=max_new_tokens, force_syntax=False
            )
            if number < traced:
                request = side.grounder.token_ids(case.expression, case.task)
                theirs = reference.trace(prepared, reply, len(request))
                _trace(side, frame.engine_frame, case, theirs, reply, run)
            same = answer.text == reference.text(reply)
            if not same and bounds.same_text and not _tie(side, reference, case, prepared, reply, frame.engine_frame):
                run.text_problems.append(f"{answer.text[:60]!r} instead of {reference.text(reply)[:60]!r}")
        except EgmError as error:
            return f"the backend failed: {error}"
        parsed = parse_answer(reference.text(reply, marked=True), task=case.task, in_thought=prepared.in_thought)
        box = Box.from_norm1000(parsed.box_norm1000, *frame.image_wh) if parsed.box_norm1000 else None
        run.boxes.append(BoxPair(box, answer.box, case.truth, same))
        advance(1)
    return ""


def _asked(
    side: _BackendSide, reference: TransformersReference, cases: Sequence[Case], max_new_tokens: int
) -> Iterator[tuple[Case, Prepared, list[int]]]:
    """Cases with the reference's replies, computed a batch at a time."""
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        prepared = [reference.prepare(_opened(case.picture), side.task_text(case)) for case in part]
        yield from zip(part, prepared, reference.generate(prepared, max_new_tokens), strict=True)


def _trace(side: _BackendSide, frame: Any, case: Case, theirs: ReferenceTrace, reply: Sequence[int], run: _Run) -> None:
    run.embeddings.append((theirs.embeddings, frame.embeddings))
    run.deepstack.append((theirs.deepstack, list(frame.deepstack)))
    ours = side.logits(frame, case, reply)
    run.logits.append((theirs.logits, ours))
    prompt_length = frame.positions.shape[1]
    if not np.array_equal(frame.positions, theirs.positions[:, :prompt_length]):
        run.prefill_problems.append(_where_positions_differ(frame.positions, theirs.positions[:, :prompt_length]))
    if (
        theirs.deepstack
        and frame.deepstack
        and EngineConfig.from_dict(side.bundle.manifest.model).layers > 1  # behind the last layer no other token sees them
        and len(run.logits) == 1
        and _ignores_deepstack(side, frame, case, reply, ours)
    ):
        run.deepstack_problems.append("the decoder gives the same logits without them: they reach no layer")


def _ignores_deepstack(
    side: _BackendSide, frame: Any, case: Case, reply: Sequence[int], ours: NDArray[np.float32]
) -> bool:
    """Whether logits stay the very same when the frame's deep-stack features are replaced by zeros."""
    kept = frame.deepstack
    backend = side.grounder.backend
    other = side.grounder.frame(case.picture)
    try:
        side.grounder.ground(other, case.expression, task=case.task, max_new_tokens=1)  # takes the cache from `frame`
        frame.deepstack = [np.zeros_like(feature) for feature in kept]
        without = side.logits(frame, case, reply)
    finally:
        frame.deepstack = kept
    backend.open_session(other.engine_frame)  # type: ignore[arg-type]
    return bool(np.array_equal(without, ours))


def _where_positions_differ(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> str:
    if ours.shape != theirs.shape:
        return f"{ours.shape[1]} rotary positions instead of {theirs.shape[1]}"
    at = int(np.flatnonzero((ours != theirs).any(0))[0])
    return f"rotary position {ours[:, at].tolist()} instead of {theirs[:, at].tolist()} (time, height, width) at token {at}"


def _tie(
    side: _BackendSide,
    reference: TransformersReference,
    case: Case,
    prepared: Prepared,
    reply: Sequence[int],
    frame: Any,
) -> bool:
    """Whether the replies part at two tokens that the reference itself finds equally likely."""
    ours = side.logits(frame, case, reply)[-len(reply) - 1 :].argmax(-1)
    parting = [i for i, token in enumerate(reply) if token != ours[i]]
    if not parting:
        return False
    at = parting[0]
    last = reference.trace(prepared, reply[:at], 1).logits[-1]
    return bool(abs(float(last[reply[at]]) - float(last[ours[at]])) <= TIE_LOGITS)


def _measured_stages(run: _Run, bounds: Bounds, boxes: BoxAgreement | None, broken: str) -> Iterator[StageResult]:
    vision = stages.vision(run.embeddings, bounds, run.vision_problems)
    deepstack = stages.deep_stack(run.deepstack, bounds, run.deepstack_problems)
    logits = stages.logits(run.logits, bounds, run.prefill_problems)
    if boxes is not None:
        yield from (vision, deepstack, logits, stages.text(boxes, bounds, run.text_problems))
        return
    # The engine stopped. What it finished and settings that differ speak for themselves; else its own words name the stage.
    results = {stage.name: stage for stage in (vision, deepstack, logits)}
    if not run.embeddings:
        results |= {name: StageResult(name, None) for name in results if results[name].passed is not False}
    if all(stage.passed is not False for stage in results.values()):
        blamed = next((name for word, name in _BLAMED if word in broken), "prefill logits")
        results[blamed] = StageResult(blamed, False, detail=broken)
    yield from results.values()
    yield StageResult("text", None, detail="" if broken in (s.detail for s in results.values()) else broken)


# Words of an engine's error, most telling first.
_BLAMED = (("deepstack", "deep-stack"), ("vision", "vision embedding"), ("patches", "vision embedding"))


def _task_text(bundle: Bundle, case: Case) -> str:
    """The text of this project for the checkpoint's family, whatever the bundle says."""
    family = family_for(bundle.manifest.family)
    return (family.amodal if case.task is Task.AMODAL else family.modal).replace("{expression}", case.expression)


def _opened(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture)).convert("RGB")
