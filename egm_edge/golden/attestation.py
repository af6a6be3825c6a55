"""Attestations: what one machine found when it checked a bundle, kept beside the bundle's files and no part of it.

A machine is what decides rounding: the processor's instruction sets, the runtime and its version, the device. They lie in
BUNDLE/attestations, or in the user's cache where the bundle cannot be written.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egm_edge.backends.base import RuntimeFacts
from egm_edge.bundle import ATTESTATIONS, Bundle
from egm_edge.errors import EgmError
from egm_edge.files import user_cache, whole_file
from egm_edge.golden.check import check_golden
from egm_edge.golden.replies import has_golden, read_golden
from egm_edge.hashing import canonical_hash

MAX_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a runtime computes with; see `RuntimeFacts`."""

    runtime: str
    device: str
    instruction_set: str

    @classmethod
    def of(cls, facts: RuntimeFacts) -> Machine:
        return cls(facts.runtime, facts.device, facts.instruction_set)

    @property
    def key(self) -> str:
        return canonical_hash(asdict(self))[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def attest(bundle: Bundle, machine: Machine, report: dict[str, Any]) -> Path | None:
    """Keep a report; None where nothing can be written."""
    values = {"bundle": bundle.hash, "machine": machine.to_dict()} | report
    for path in _places(bundle, machine):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as stream:
                stream.write(json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
            return path
        except OSError:
            continue
    return None


def attested(bundle: Bundle, machine: Machine) -> dict[str, Any] | None:
    """What this machine found before about this very bundle."""
    for path in _places(bundle, machine):
        try:
            if path.stat().st_size <= MAX_BYTES:
                values = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(values, dict) and values.get("bundle") == bundle.hash:
                    return values
        except (OSError, ValueError, RecursionError):
            continue
    return None


def check_at_first_open(grounder: Any, bundle: Bundle, facts: RuntimeFacts) -> None:
    """Where a bundle was verified on another kind of machine, ask it a golden request, once, and warn when it answers otherwise."""
    verified_on = bundle.manifest.parity.get("machine")
    machine = Machine.of(facts)
    if not has_golden(bundle) or verified_on == machine.to_dict():
        return
    found = attested(bundle, machine)
    if found is None:
        try:
            report = check_golden(grounder, facts, read_golden(bundle), brief=True)
        except EgmError as error:
            _log.warning("%s: its golden replies could not be asked here: %s", bundle.root, error)
            return
        found = report.to_dict()
        attest(bundle, machine, found)
    if found.get("status") != "verified":
        problems = "; ".join(str(problem) for problem in found.get("problems") or ())
        _log.warning(
            "%s answers otherwise on this machine: %s; run `egm verify %s`", bundle.root, problems, bundle.root
        )


def _places(bundle: Bundle, machine: Machine) -> tuple[Path, Path]:
    cache = user_cache() / ATTESTATIONS
    return bundle.root / ATTESTATIONS / f"{machine.key}.json", cache / f"{bundle.hash[:16]}-{machine.key}.json"
