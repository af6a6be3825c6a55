"""The parity gate: the same pictures and sentences through the checkpoint and through a bundle, compared stage by stage.

Reads top to bottom: pixels, prompts, the bundle with its rounding taken away (structure, tight bounds), the bundle as it is
(rounding, bounds of its precision), replies and boxes, report. Knows nothing of how bundles are built or stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from build_engine.checkpoint import Checkpoint
from build_engine.parity import settings, stages
from build_engine.parity.answers import compare_answers, compare_exact_replies
from build_engine.parity.bounds import EXACT, NEARLY_EXACT, Bounds
from build_engine.parity.cases import Case, largest_probe, odd_probes, size_probes
from build_engine.parity.engine_pixels import onnx_graph
from build_engine.parity.reference_side import TRACED, ReferenceSide, checkpoint_sha256, opened
from build_engine.parity.report import BoxAgreement, ParityReport, StageResult
from build_engine.parity.side import SINGLE_STEPS, BackendSide
from build_engine.parity.stage_traces import BundleTraces, StageTraces
from build_engine.parity.streamed_reference import StreamedReference
from build_engine.parity.unrounded import unrounded
from build_engine.parity.witnesses import attribute_problems
from build_engine.precisions import PRECISIONS
from egm_edge.backends import Backend
from egm_edge.backends.transformers_reference import TransformersReference
from egm_edge.bundle import Bundle
from egm_edge.errors import EgmError
from egm_edge.golden.attestation import Machine
from egm_edge.grounding import Task
from egm_edge.pixels import PixelSpec

LONG_TOKENS = 1100  # more than an engine's cache holds at first
LARGE_PIXELS, LARGE_PIXELS_BIG_MODEL = 640_000, 400_000  # of the largest probe: 2,500 and 1,562 patches of 16
SMALL_PARAMETERS = 50_000_000
EXPRESSIONS = (  # both scripts, and as nobody would tidy them; one of several hundred characters
    "The red mug,  left of \"Ana's\" kettle.",
    "the mug 左边，红色",
    " {0} die Cafe\u0301-Tasse " + "neben der Kanne und " * 30 + "dem Teller \n",
)

Opener = Callable[[Bundle], Backend]


def compare(
    bundle: Bundle,
    open_engine: Opener,
    reference: TransformersReference,
    cases: Sequence[Case],
    *,
    max_new_tokens: int,
    advance: Callable[[int], None] = lambda count: None,
) -> ParityReport:
    """Compare a bundle with its checkpoint.

    Args:
        open_engine: what runs the bundle here, and the same graphs in float32.
        cases: requests; the first TRACED are compared at every stage.
        max_new_tokens: cap of both sides' replies.
        advance: told how many cases were finished.

    Raises:
        EgmError: the reference cannot run. What the backend raises is a finding, not an error.
    """
    manifest = bundle.manifest
    bounds = PRECISIONS[manifest.precision].bounds
    asked = ReferenceSide(reference, manifest.family, cases, max_new_tokens)
    backend = open_engine(bundle)
    try:
        asked.proposed_by = side = BackendSide(bundle, backend)
        found = [_pixels(side, reference, cases), _prompt(side, reference)]
        measured = _measure(side, open_engine, asked, bounds)
        _compare_attributes(bundle, asked, measured.structure)
        found += [*measured.results(bounds), stages.rounding(measured.rounding)]
        if not measured.broken:
            compare_answers(side, asked, measured.rounded, bounds, advance)
    finally:
        backend.close()
    broken = measured.broken
    boxes = None if broken else BoxAgreement.of(asked.pairs)
    if boxes is None:
        found.append(StageResult("text", None, detail="" if broken in (stage.detail for stage in found) else broken))
    else:
        found.append(stages.text(boxes, bounds, measured.text_problems))
    return ParityReport(
        against=reference.name,
        backend=f"{backend.facts.runtime} ({backend.facts.device})",
        precision=manifest.precision,
        checkpoint_sha256=checkpoint_sha256(reference.checkpoint),
        content_sha256=manifest.hash,
        stages=tuple(found),
        boxes=boxes,
        versions=dict(reference.versions),
        machine=Machine.of(backend.facts).to_dict(),
    )


def fitting(bundle: Bundle, reference: TransformersReference, cases: Sequence[Case], new_tokens: int) -> list[Case]:
    """The cases whose request leaves room for `new_tokens` in the bundle's context."""
    room = int(bundle.manifest.limits["context_tokens"]) - new_tokens
    asked = ReferenceSide(reference, bundle.manifest.family, cases, new_tokens)
    return [case for case in cases if len(asked.prepared(case).ids) <= room]


def _pixels(side: BackendSide, reference: TransformersReference, cases: Sequence[Case]) -> StageResult:
    max_pixels = side.bundle.manifest.limits.get("max_pixels")
    expected = PixelSpec.from_checkpoint(reference.checkpoint)
    expected = expected if max_pixels is None else expected.with_max_pixels(max_pixels)
    changes = stages.changed_fields(side.grounder.pixel_spec.to_dict(), expected.to_dict())
    pairs = []
    camera = np.asarray(opened(cases[0].picture))
    pictures = [*size_probes(expected), *odd_probes(), *dict.fromkeys(case.picture for case in cases[:TRACED])]
    shown: list[tuple[Any, str | None]] = [(picture, None) for picture in pictures]
    for picture, color in [*shown, (camera, "rgb"), (camera[..., ::-1], "bgr")]:
        image = opened(picture) if color is None else Image.fromarray(camera)
        values, grid_hw = reference.pixel_values(image)
        try:
            pairs.append((stages.Seen(values, grid_hw, image.size), side.seen(picture, color)))
        except EgmError as error:
            changes.append(str(error))
    return stages.pixels(changes, pairs)


def _prompt(side: BackendSide, reference: TransformersReference) -> StageResult:
    """Both tasks on one small picture, in one script and another."""
    picture = size_probes(PixelSpec.from_checkpoint(reference.checkpoint))[0]
    asked, pairs = ReferenceSide(reference, side.bundle.manifest.family, (), 1), []
    for expression in EXPRESSIONS:
        for task in Task:
            case = Case(picture, expression, task)
            try:
                ours = side.prompt_ids(case)
            except EgmError as error:
                return StageResult("prompt", False, detail=str(error))
            pairs.append((asked.prepared(case).ids, ours))
    return stages.prompt(pairs, lambda ids: reference.text(ids, marked=True))


def _measure(side: BackendSide, open_engine: Opener, asked: ReferenceSide, bounds: Bounds) -> BundleTraces:
    """Trace the bundle, and before it its twin without rounding."""
    structure, reference = StageTraces(), asked.reference
    settings.note_problems(side.bundle.manifest.model, reference, structure.note)
    if side.bundle.manifest.precision == "fp32":
        _trace_all(side, asked, structure, bounds, exact=True)
        return BundleTraces(structure, structure, bounds, [])
    lean = isinstance(reference, StreamedReference)
    with Checkpoint(reference.checkpoint) as checkpoint, unrounded(side.bundle, checkpoint, one_decoder=lean) as twin:
        exact = EXACT if twin.exact else NEARLY_EXACT
        _trace_twin(twin.bundle, open_engine, asked, structure, exact)
    rounded = StageTraces()
    _trace_all(side, asked, rounded, bounds, exact=False)
    return BundleTraces(structure, rounded, exact, twin.problems)


def _trace_twin(bundle: Bundle, open_engine: Opener, asked: ReferenceSide, run: StageTraces, bounds: Bounds) -> None:
    try:
        backend = open_engine(bundle)
    except Exception as error:  # whatever an engine raises is a finding
        run.broken = f"the backend failed: {error}"
        return
    try:
        side = BackendSide(bundle, backend)
        _trace_all(side, asked, run, bounds, exact=True)
        if bounds.same_text and not run.broken:
            compare_exact_replies(side, asked, run)
    except Exception as error:  # whatever an engine raises is a finding
        run.broken = f"the backend failed: {error}"
    finally:
        backend.close()


def _trace_all(side: BackendSide, asked: ReferenceSide, run: StageTraces, bounds: Bounds, *, exact: bool) -> None:
    """Every stage of the traced cases; what only structure decides (`exact`) in one pass alone."""
    try:
        for number, case in enumerate(asked.cases[:TRACED]):
            _trace(side, asked, case, asked.reply(number), run)
            if exact and number == 0 and run.deepstack[0][0] and not stages.logits("", run.prefill, bounds).passed:
                _blame_deepstack(side, asked, case, run, bounds)
        if exact:
            _trace_extremes(side, asked, run)
    except Exception as error:  # whatever an engine raises is a finding
        run.broken = f"the backend failed: {error}"


def _compare_attributes(bundle: Bundle, asked: ReferenceSide, structure: StageTraces) -> None:
    """Norms and activations of the graphs, as they stand, with those that the model ran."""
    if asked.observed is None:
        return
    for name in ("vision", "decoder", "prefill"):
        if (graph := onnx_graph(bundle, name)) is not None:
            part, stage = ("vision", "vision embedding") if name == "vision" else ("decoder", "prefill logits")
            structure.note(stage, *attribute_problems(graph, asked.observed.seen[part]))


def _trace(side: BackendSide, asked: ReferenceSide, case: Case, reply: Sequence[int], run: StageTraces) -> None:
    """One case: vision, the request's logits, and the reference's reply token by token."""
    request = side.request_ids(case)
    theirs = asked.trace(case, reply, len(request) + len(reply))
    frame = side.engine_frame(case)
    run.embeddings.append((theirs.embeddings, frame.embeddings))
    run.deepstack.append((theirs.deepstack, list(frame.deepstack)))
    prompt_length = frame.positions.shape[1]
    if not np.array_equal(frame.positions, theirs.positions[:, :prompt_length]):
        run.note("prefill logits", _where_positions_differ(frame.positions, theirs.positions[:, :prompt_length]))
    run.prefill.append((theirs.logits[: len(request)], side.prefill(case)))
    if reply:
        run.decode.append((theirs.logits[len(request) :], side.decode(case, reply)))


def _trace_extremes(side: BackendSide, asked: ReferenceSide, run: StageTraces) -> None:
    """The largest picture, a reply that outgrows the cache's first allocation, and replies that are decoded together."""
    limits, case = side.bundle.manifest.limits, asked.cases[0]
    context = int(limits["context_tokens"])
    small = sum(p.numel() for p in asked.reference.model.parameters()) <= SMALL_PARAMETERS
    streamed = isinstance(asked.reference, StreamedReference)
    large = largest_probe(side.grounder.pixel_spec, LARGE_PIXELS if small else LARGE_PIXELS_BIG_MODEL)
    rng = np.random.default_rng(7)
    words = [int(token) for token in rng.integers(0, _ordinary_tokens(side), 2 * LONG_TOKENS)]
    if len(asked.prepared(large).ids) + 8 <= context:
        _trace(side, asked, large, words[:8], run)
    prompt = len(asked.prepared(case).ids)
    length = min(LONG_TOKENS, context - prompt - 1) if not streamed else 0  # the engine's code is the same for every size
    if length > 2 * SINGLE_STEPS:
        reply = words[:length]
        theirs = asked.trace(case, reply, SINGLE_STEPS)
        run.decode.append((theirs.logits, side.decode_tail(case, reply)))
    if getattr(side.grounder.backend.capabilities, "branches", False) and prompt + 12 < context:
        first, second = (words[i : i + 10] for i in (0, 10))
        for reply, ours in zip((first, second), side.branched(case, first, second), strict=True):
            run.decode.append((asked.trace(case, reply, len(reply)).logits, ours))


def _ordinary_tokens(side: BackendSide) -> int:
    """Ids below this are text (special tokens come last, and one of them would be taken for a picture)."""
    special = side.grounder.tokenizer.get_added_tokens_decoder()
    return min([*special, int(side.bundle.manifest.model["image_token_id"]), side.grounder.tokenizer.get_vocab_size()])


def _blame_deepstack(side: BackendSide, asked: ReferenceSide, case: Case, run: StageTraces, bounds: Bounds) -> None:
    """Logits that agree once both sides leave their deep-stack features out differ by how these are used."""
    length = len(side.request_ids(case))
    theirs = asked.trace(case, (), length, without_deepstack=True).logits
    with side.without_deepstack(case):
        ours = side.prefill(case)
    if stages.logits("", [(theirs, ours)], bounds).passed:
        run.note("deep-stack", "the decoder adds them elsewhere: without them its logits are the reference's")


def _where_positions_differ(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> str:
    if ours.shape != theirs.shape:
        return f"{ours.shape[1]} rotary positions instead of {theirs.shape[1]}"
    at = int(np.flatnonzero((ours != theirs).any(0))[0])
    return f"rotary position {ours[:, at].tolist()} instead of {theirs[:, at].tolist()} (time, height, width) at token {at}"
