"""The last step of a build that can run on this machine: compare what was written with its checkpoint, refuse it or vouch
for it. What cannot be compared here is recorded as unverified, with the command that does it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from build_engine.parity.cases import golden_cases, probes
from egm_edge.backends import Backend, load_backend
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.golden.check import check_golden
from egm_edge.golden.replies import GoldenSet, write_golden
from egm_edge.grounder import Grounder
from egm_edge.loaded_model import read_tokenizer
from egm_edge.machine import memory_gb
from egm_edge.pixels import PixelSpec

MAX_PARAMETERS = 400_000_000  # beyond this the reference reads its layers from disk, one at a time
STREAMED_TOKENS, STREAMED_PROBES = 16, slice(1, 4)
STREAMED_GOLDEN = slice(3, 5)  # golden requests of such a one: a relation, an amodal box
PROBE_TOKENS = 48
GOLDEN_TOKENS = 192
KL_SHARE, LEAST_KL = 4.0, 5e-4  # what another machine's logits may differ by, of what this one's do
REFUSED = "build with a higher --precision, or --no-gate to take it as it is"
VERIFY = "egm verify BUNDLE --reference CHECKPOINT"
FLOAT32_SHARE = 1.3  # memory of the float32 reference over its weights


def unverified(why: str) -> dict[str, Any]:
    """The parity section of a bundle that was not compared."""
    return {"status": "unverified", "why": why, "verify_with": VERIFY}


def _on_this_cpu(candidate: Bundle) -> Backend:
    return load_backend(candidate, memory="fast")


def gate(
    candidate: Bundle,
    checkpoint: Path,
    parameters: int,
    *,
    open_engine: Callable[[Bundle], Backend] = _on_this_cpu,
) -> dict[str, Any]:
    """Compare a bundle that is about to be committed.

    Args:
        candidate: as written so far; its files' hashes are not needed.
        parameters: of the checkpoint.
        open_engine: what runs the candidate here.

    Returns:
        The parity section of its manifest. Its golden replies are written into the candidate's directory.

    Raises:
        BuildError: it differs from its checkpoint by more than its precision's bounds.
    """
    if missing := _missing():
        return unverified(missing)
    from build_engine.parity.gate import compare, fitting
    from build_engine.parity.golden import golden_set
    from build_engine.parity.side import BackendSide
    from build_engine.parity.streamed_reference import StreamedReference
    from egm_edge.backends.transformers_reference import TransformersReference

    streamed = parameters > MAX_PARAMETERS
    kind = StreamedReference if streamed else TransformersReference
    reference = kind(checkpoint, max_pixels=candidate.manifest.limits.get("max_pixels"))
    limits = candidate.manifest.limits
    new_tokens = min(STREAMED_TOKENS if streamed else PROBE_TOKENS, int(limits["max_new_tokens"]))
    cases = fitting(candidate, reference, probes()[STREAMED_PROBES] if streamed else probes(), new_tokens)
    if not cases:
        return unverified(
            f"no probe picture leaves room for {new_tokens} tokens in a context of {limits['context_tokens']}"
        )
    report = compare(candidate, open_engine, reference, cases, max_new_tokens=new_tokens)
    if not report.passed:
        stage = next((s for s in report.stages if s.passed is False), report.stages[-1])
        measured = f"{stage.worst:.3g} {stage.unit}, bound {stage.bound:.3g}" if stage.worst is not None else ""
        found = "; ".join(part for part in (measured, stage.detail) if part)
        raise BuildError(
            f"a {report.precision} bundle that follows its checkpoint",
            f"another {stage.name} ({found})",
            REFUSED,
        )
    backend = open_engine(candidate)
    try:
        asked = golden_cases()[STREAMED_GOLDEN] if streamed else golden_cases()
        golden = golden_set(candidate, reference, asked, GOLDEN_TOKENS, BackendSide(candidate, backend))
        if golden.replies:
            write_golden(candidate.root, _bounded_by_this_machine(candidate, backend, golden))
    finally:
        backend.close()
    return report.to_dict()


def too_large(parameters: int) -> str:
    """Why the float32 reference of so many parameters does not fit into the memory that is available; "" where it does."""
    needed, available = parameters * 4 * FLOAT32_SHARE / 1e9, memory_gb()[1]
    if available and needed > available:
        return f"the reference takes {needed:.1f} GB in float32, {available:.1f} GB are available"
    return ""


def store_golden(candidate: Bundle, checkpoint: Path, parameters: int) -> str:
    """Write the golden replies of a bundle that does not run on this machine into the candidate's directory.

    Returns:
        Why there are none; "" where they were written.
    """
    missing = _missing() or too_large(parameters)
    if missing:
        return missing
    import torch

    from build_engine.parity.golden import golden_set
    from egm_edge.backends.transformers_reference import TransformersReference

    own, spec = PixelSpec.from_checkpoint(checkpoint), PixelSpec.from_dict(candidate.manifest.pixel_spec)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = TransformersReference(checkpoint, max_pixels=None if spec == own else spec.area, device=device)
    golden = golden_set(candidate, reference, golden_cases(), GOLDEN_TOKENS)
    if not golden.replies:
        return "no golden request fits into the bundle's context"
    write_golden(candidate.root, golden)
    return ""


def _missing() -> str:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed on the build machine" if missing else ""


def _bounded_by_this_machine(candidate: Bundle, backend: Backend, golden: GoldenSet) -> GoldenSet:
    """Golden replies with a bound on logits that is little more than what the bundle shows here, where it was verified: another
    machine is to round as this one does, not only to stay within what its precision may cost."""
    grounder = Grounder(backend, candidate, read_tokenizer(candidate))
    report = check_golden(grounder, backend.facts, golden)
    if not report.passed:
        found = "; ".join(report.problems)
        raise BuildError("a bundle that follows its checkpoint", f"another {report.first_divergence} ({found})", REFUSED)
    assert report.kl_nats is not None  # the backend gives logits
    bound = min(golden.limits["kl_nats"], KL_SHARE * report.kl_nats + LEAST_KL)
    return replace(golden, limits={**golden.limits, "kl_nats": bound})
