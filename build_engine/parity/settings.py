"""Settings of a bundle's manifest against the checkpoint as transformers understands it: values that must be equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from build_engine.parity.stages import changed_fields
from egm_edge.backends.transformers_reference import TransformersReference


def note_problems(model: dict[str, Any], reference: TransformersReference, note: Callable[..., None]) -> None:
    """Tell `note(stage, problem, ...)` of every setting that differs."""
    vision = model.get("vision") or {}
    note(
        "vision embedding",
        *changed_fields({"rope_theta": vision.get("rope_theta")}, {"rope_theta": reference.vision_rope_theta}),
    )
    if vision.get("deepstack") != reference.deepstack_count:
        note("deep-stack", f"{vision.get('deepstack')} features instead of {reference.deepstack_count}")
    theta, section = reference.rope
    ours = {"rope_theta": model.get("rope_theta"), "mrope_section": tuple(model.get("mrope_section") or ()) or None}
    note("prefill logits", *changed_fields(ours, {"rope_theta": theta, "mrope_section": section}))
    ends = frozenset(model["stop_token_ids"])
    if ends != reference.end_token_ids:
        note("text", f"end tokens {sorted(ends)} instead of {sorted(reference.end_token_ids)}")
