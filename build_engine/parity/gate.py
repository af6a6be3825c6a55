"""The parity gate: the same pictures and sentences through the checkpoint and through a bundle, compared stage by stage.

Reads top to bottom: pixels, prompts, the bundle with its rounding taken away (structure, tight bounds), the bundle as it is
(rounding, bounds of its precision), replies and boxes, report. Knows nothing of how bundles are built or stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import Checkpoint
from build_engine.parity import settings, stages
from build_engine.parity.bounds import EXACT, NEARLY_EXACT, Bounds
from build_engine.parity.cases import Case, largest_probe, size_probes
from build_engine.parity.reference_side import ReferenceSide, box_of, checkpoint_sha256, opened
from build_engine.parity.report import BoxAgreement, BoxPair, ParityReport, StageResult
from build_engine.parity.scripted import script_problems
from build_engine.parity.side import SINGLE_STEPS, BackendSide
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

TRACED = 5  # cases whose every stage is compared; the others are compared by text and box
TIE_LOGITS = 2e-3  # two tokens this close are a tie: the order of summation decides between them
TIE_SPREADS = 3e-2  # the same of one engine's own logits, in spreads of them; W8A8 steps of several tokens part at up to 0.02
LONG_TOKENS = 1100  # more than an engine's cache holds at first
LARGE_PIXELS, LARGE_PIXELS_BIG_MODEL = 640_000, 400_000  # of the largest probe: 2,500 and 1,562 patches of 16
SMALL_PARAMETERS = 50_000_000
EXPRESSION = "the red mug left of the kettle"

Opener = Callable[[Bundle], Backend]


@dataclass(slots=True)
class _Run:
    """What is gathered on the way, (reference, backend) pairs by stage."""

    embeddings: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    deepstack: list[tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = field(default_factory=list)
    prefill: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    decode: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    broken: str = ""

    def note(self, stage: str, *found: str) -> None:
        self.problems.setdefault(stage, []).extend(found)

    def results(self, bounds: Bounds) -> dict[str, StageResult]:
        """The measured stages by name."""
        known = self.problems.get
        found = [
            stages.vision(self.embeddings, bounds, known("vision embedding", ())),
            stages.deep_stack(self.deepstack, bounds, known("deep-stack", ())),
            stages.logits("prefill logits", self.prefill, bounds, known("prefill logits", ())),
            stages.logits("decode logits", self.decode, bounds, known("decode logits", ())),
        ]
        return {stage.name: stage for stage in (self._after_failure(found) if self.broken else found)}

    def _after_failure(self, found: list[StageResult]) -> list[StageResult]:
        """The engine stopped. What it finished and settings that differ speak for themselves; else its own words name the stage."""
        if not self.embeddings:
            found = [s if s.passed is False else StageResult(s.name, None) for s in found]
        if all(stage.passed is not False for stage in found):
            blamed = next((name for word, name in _BLAMED if word in self.broken), "prefill logits")
            found = [StageResult(blamed, False, detail=self.broken) if s.name == blamed else s for s in found]
        return found


# Words of an engine's error, most telling first.
_BLAMED = (("deepstack", "deep-stack"), ("vision", "vision embedding"), ("patches", "vision embedding"))


def compare(
    bundle: Bundle,
    open_engine: Opener,
    reference: TransformersReference,
    cases: Sequence[Case],
    *,
    max_new_tokens: int,
    traced: int = TRACED,
    advance: Callable[[int], None] = lambda count: None,
) -> ParityReport:
    """Compare a bundle with its checkpoint.

    Args:
        open_engine: what runs the bundle here, and the same graphs in float32.
        cases: requests; the first `traced` are compared at every stage.
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
        structure, rounding = _Run(), []
        settings.note_problems(manifest.model, reference, structure.note)
        if manifest.precision != "fp32":
            lean = isinstance(reference, StreamedReference)
            with Checkpoint(reference.checkpoint) as checkpoint, unrounded(bundle, checkpoint, one_decoder=lean) as twin:
                exact = EXACT if twin.exact else NEARLY_EXACT
                rounding = twin.problems
                _traced_by(twin.bundle, open_engine, asked, structure, exact, traced)
            rounded = _Run()
        else:
            exact, rounded = bounds, structure
        if not (rounded is structure and structure.broken):
            _trace_all(side, asked, rounded, bounds, traced, exact=rounded is structure)
        for name in ("vision", "decoder", "prefill"):
            if (graph := bundle.root / f"graphs/{name}.onnx").is_file() and asked.observed is not None:
                part = "vision" if name == "vision" else "decoder"
                stage = "vision embedding" if part == "vision" else "prefill logits"
                structure.note(stage, *attribute_problems(graph, asked.observed.seen[part]))
        text = _Run() if structure.broken or rounded.broken else _texts(side, asked, bounds, traced, advance)
    finally:
        backend.close()
    found += _merged(structure.results(exact), rounded.results(bounds), same=rounded is structure)
    found.append(stages.rounding(rounding))
    broken = structure.broken or rounded.broken or text.broken
    boxes = None if broken else BoxAgreement.of(asked.pairs)
    problems = [*structure.problems.get("text", ()), *text.problems.get("text", ())]
    if boxes is None:
        found.append(StageResult("text", None, detail="" if broken in (s.detail for s in found) else broken))
    else:
        found.append(stages.text(boxes, bounds, problems))
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
    for picture in [*size_probes(expected), *dict.fromkeys(case.picture for case in cases[:TRACED])]:
        image = opened(picture)
        values, grid_hw = reference.pixel_values(image)
        try:
            pairs.append((stages.Seen(values, grid_hw, image.size), side.seen(picture)))
        except EgmError as error:
            changes.append(str(error))
    return stages.pixels(changes, pairs)


def _prompt(side: BackendSide, reference: TransformersReference) -> StageResult:
    """Both tasks on one small picture, in one script and another."""
    picture = size_probes(PixelSpec.from_checkpoint(reference.checkpoint))[0]
    asked, pairs = ReferenceSide(reference, side.bundle.manifest.family, (), 1), []
    for expression in (EXPRESSION, "左边的杯子"):
        for task in Task:
            case = Case(picture, expression, task)
            try:
                ours = side.prompt_ids(case)
            except EgmError as error:
                return StageResult("prompt", False, detail=str(error))
            pairs.append((asked.prepared(case).ids, ours))
    return stages.prompt(pairs, lambda ids: reference.text(ids, marked=True))


def _traced_by(bundle: Bundle, open_engine: Opener, asked: ReferenceSide, run: _Run, bounds: Bounds, traced: int) -> None:
    try:
        backend = open_engine(bundle)
    except Exception as error:  # whatever an engine raises is a finding
        run.broken = f"the backend failed: {error}"
        return
    try:
        _trace_all(BackendSide(bundle, backend), asked, run, bounds, traced, exact=True)
    finally:
        backend.close()


def _trace_all(side: BackendSide, asked: ReferenceSide, run: _Run, bounds: Bounds, traced: int, *, exact: bool) -> None:
    """Every stage of the traced cases; what only structure decides (`exact`) in one pass alone."""
    try:
        for number, case in enumerate(asked.cases[:traced]):
            _trace(side, asked, case, asked.reply(number), run)
            if exact and number == 0 and run.deepstack[0][0] and not stages.logits("", run.prefill, bounds).passed:
                _blame_deepstack(side, asked, case, run, bounds)
        if exact:
            _trace_extremes(side, asked, run)
        if exact and bounds.same_text:
            _exact_texts(side, asked, run, traced)
    except Exception as error:  # whatever an engine raises is a finding
        run.broken = f"the backend failed: {error}"


def _trace(side: BackendSide, asked: ReferenceSide, case: Case, reply: Sequence[int], run: _Run) -> None:
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


def _trace_extremes(side: BackendSide, asked: ReferenceSide, run: _Run) -> None:
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


def _exact_texts(side: BackendSide, asked: ReferenceSide, run: _Run, traced: int) -> None:
    """Without rounding a reply is the reference's to the token."""
    for number, case in enumerate(asked.cases[:traced]):
        reply = asked.reply(number)
        limit = len(reply) if isinstance(asked.reference, StreamedReference) else asked.max_new_tokens
        found, expected = side.said(case, max(limit, 1)).text, asked.reference.text(reply)
        if limit and found != expected and not _tie(side, asked, case, reply):
            run.note("text", f"{found[:60]!r} instead of {expected[:60]!r}")


def _ordinary_tokens(side: BackendSide) -> int:
    """Ids below this are text (special tokens come last, and one of them would be taken for a picture)."""
    special = side.grounder.tokenizer.get_added_tokens_decoder()
    return min([*special, int(side.bundle.manifest.model["image_token_id"]), side.grounder.tokenizer.get_vocab_size()])


def _blame_deepstack(side: BackendSide, asked: ReferenceSide, case: Case, run: _Run, bounds: Bounds) -> None:
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


def _texts(side: BackendSide, asked: ReferenceSide, bounds: Bounds, traced: int, advance: Callable[[int], None]) -> _Run:
    """Replies as a user gets them, against the reference's and against plain greedy decoding, and the boxes read from them."""
    run, reference = _Run(), asked.reference
    run.note("text", *script_problems(side.bundle, side.grounder.tokenizer))
    for number, case in enumerate(asked.cases):
        reply = asked.reply(number)
        try:
            answer = side.said(case, asked.max_new_tokens)
            same = answer.text == reference.text(reply)
            if number < traced:
                naive, leads = side.naive_reply(case, asked.max_new_tokens)
                parted = _parted(answer.text, [reference.text(naive[:i]) for i in range(len(naive) + 1)])
                if parted is not None and (parted >= len(leads) or leads[parted] > TIE_SPREADS):
                    run.note("text", f"{answer.text[:40]!r} where greedy decoding gives {reference.text(naive)[:40]!r}")
            if not same and bounds.same_text and not _tie(side, asked, case, reply):
                run.note("text", f"{answer.text[:60]!r} instead of {reference.text(reply)[:60]!r}")
        except Exception as error:  # whatever an engine raises is a finding
            run.broken = f"the backend failed: {error}"
            return run
        in_thought = asked.prepared(case).in_thought
        image_wh = side.frame(case.picture).image_wh
        box = box_of(reference.text(reply, marked=True), case, image_wh, in_thought=in_thought)
        run_pair = BoxPair(box, answer.box, case.truth, same)
        if same and box is not None and (answer.box is None or max(map(_off, box.xyxy, answer.box.xyxy)) > 0.01):
            read = answer.box.xyxy if answer.box else None
            run.note("text", f"the reference's very reply is read as {read} instead of {box.xyxy}")
        asked.pairs.append(run_pair)
        advance(1)
    return run


def _parted(text: str, prefixes: Sequence[str]) -> int | None:
    """The greedy token at which a text leaves the greedy one, whose beginnings are `prefixes`; None where they are equal."""
    if text == prefixes[-1]:
        return None
    return next((i - 1 for i, prefix in enumerate(prefixes) if not text.startswith(prefix.rstrip("\ufffd"))), len(prefixes) - 1)


def _off(a: float, b: float) -> float:
    return abs(a - b)


def _tie(side: BackendSide, asked: ReferenceSide, case: Case, reply: Sequence[int]) -> bool:
    """Whether the replies part at two tokens that the reference itself finds equally likely."""
    ours = np.concatenate([side.prefill(case)[-1:], side.decode(case, reply)]).argmax(-1) if reply else []
    parting = [i for i, token in enumerate(reply) if token != ours[i]]
    if not parting:
        return False
    at = parting[0]
    last = asked.trace(case, reply[:at], 1).logits[-1]
    return bool(abs(float(last[reply[at]]) - float(last[ours[at]])) <= TIE_LOGITS)


def _merged(structure: dict[str, StageResult], rounded: dict[str, StageResult], *, same: bool) -> Iterator[StageResult]:
    """One result a stage: the structure's where that is wrong, else the rounded bundle's."""
    for name, exact in structure.items():
        result = rounded[name]
        if same:
            yield exact
        elif exact.passed is False:
            yield replace(
                exact, detail="; ".join(part for part in (exact.detail, "with all weights unrounded") if part)
            )
        else:
            yield replace(result, detail="; ".join(part for part in (result.detail, _unrounded_figure(exact)) if part))


def _unrounded_figure(exact: StageResult) -> str:
    return "" if exact.worst is None else f"unrounded {exact.worst:.2g} (bound {exact.bound:.2g})"
