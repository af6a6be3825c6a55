"""Where a bundle's device is not: what is compared on this CPU in its stead, and what that says of the bundle.

The portable graphs of an RTX bundle are those that its engines were made of; the `torch` engine computes in float32 here. Either
shows a bundle whose wiring or weights are wrong. Neither shows what the device makes of it, which stays unverified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError

if TYPE_CHECKING:
    from egm_edge.backends.portable.backend import PortableBackend

GRAPHS, ENGINE = "graphs", "engine"  # sections of a parity report
NAMES = {GRAPHS: "portable graphs on the CPU", ENGINE: "the engine in float32 on the CPU"}
WHY = {
    GRAPHS: "unverified on target: asked were its portable graphs on the CPU, not the engines made of them",
    ENGINE: "unverified on target: no GPU was here",
}


def open_graphs(bundle: Bundle, *, threads: int | None = None) -> PortableBackend:
    """The portable graphs of a bundle on this CPU; those in bfloat16, which has no products there, in float32.

    Raises:
        BackendError: the bundle holds none, or they do not load.
    """
    from egm_edge.backends.portable.backend import PortableBackend
    from egm_edge.backends.portable.ort_runner import DECODER, HEAD, VISION, OrtRunner

    if bundle.left_out or not {VISION, DECODER, HEAD} <= bundle.manifest.files.keys():
        found = "engines alone" if not bundle.left_out else f"a copy without {bundle.left_out[0]}"
        hint = "verify it where the GPU is, or where the build's portable/ is (no --no-graphs)"
        raise BackendError("the portable graphs that the engines were made of", found, hint)
    if bundle.manifest.precision != "bf16":
        return PortableBackend(bundle, OrtRunner(bundle, threads=threads))
    try:
        from build_engine.parity.float32_graphs import in_float32
    except ImportError as error:
        raise BackendError("onnx, which widens bfloat16 graphs", str(error), "pip install 'egm-edge[build]'") from None
    with in_float32(bundle) as runnable:  # the engine has read the files when it is open
        return PortableBackend(bundle, OrtRunner(runnable, threads=threads))


def section(part: str, found: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a parity section says after a part was compared: its own status never becomes "verified" by that.

    Args:
        part: GRAPHS or ENGINE. found: the report of the comparison.
        known: the section before; what the device itself showed stays, unless the part fails.
    """
    if found["status"] != "verified":
        why = f"{NAMES[part]} failed"
        return {"status": "failed", "why": why, "first_divergence": found["first_divergence"], part: dict(found)}
    of_device = dict(known) if known and "stages" in known else {"status": "unverified", "why": WHY[part]}
    return of_device | {part: dict(found)}
