"""The table of `egm ground --timings`: fixed row names and units, so that runs can be set side by side.

Rows are named as in the JSON. Milliseconds are wall clock after one warm-up request; peak memory is the process's own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from egm_edge.benchmark.sample import STAGES
from egm_edge.grounding import Grounding
from egm_edge.machine import cpu_name, peak_rss_mb, usable_cpus

if TYPE_CHECKING:
    from egm_edge.auto import AnyGrounder

TOTALS = ("ttft_ms", "total_ms")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What all requests of one run share.

    Attributes:
        bundle, bundle_hash: directory and hash of what ran.
        engine: runtime and version. precision, memory, threads: how it ran.
        cpu: processor's own name. cpu_count: logical CPUs this process may use.
        warm_up_requests: requests before the first counted one.
        load_ms: opening the bundle, its checksums included.
        peak_rss_mb: largest resident memory of this process so far, MB of 10^6 bytes.
    """

    bundle: str
    bundle_hash: str
    engine: str
    precision: str
    memory: str
    threads: int
    cpu: str
    cpu_count: int
    warm_up_requests: int
    load_ms: float
    peak_rss_mb: float

    @classmethod
    def collect(cls, grounder: AnyGrounder, load_ms: float) -> RunFacts:
        """Read the facts of a grounder that has answered."""
        manifest = grounder.bundle.manifest
        facts = grounder.facts
        return cls(
            bundle=str(grounder.bundle.root),
            bundle_hash=grounder.bundle.hash,
            engine=facts.engine,
            precision=manifest.precision,
            memory=facts.memory or "-",
            threads=facts.threads,
            cpu=cpu_name(),
            cpu_count=usable_cpus(),
            warm_up_requests=1,
            load_ms=load_ms,
            peak_rss_mb=peak_rss_mb(),
        )

    def to_dict(self, grounding: Grounding) -> dict[str, Any]:
        """JSON-ready, with one request's decode rate."""
        return asdict(self) | {"decode_tokens_per_s": decode_tokens_per_s(grounding)}


def decode_tokens_per_s(grounding: Grounding) -> float | None:
    """Tokens after the first per second; the first one belongs to the prefill. None for fewer than two tokens."""
    seconds = (grounding.timings.think_ms + grounding.timings.answer_ms) / 1000.0
    if grounding.tokens.completion < 2 or seconds <= 0.0:
        return None
    return (grounding.tokens.completion - 1) / seconds


def timings_table(facts: RunFacts, groundings: list[Grounding]) -> str:
    """The whole report as text, one column per request."""
    head = [
        ("bundle", f"{facts.bundle} ({facts.bundle_hash[:12]})"),
        ("engine", f"{facts.engine}, precision {facts.precision}, memory {facts.memory}, threads {facts.threads}"),
        ("machine", f"{facts.cpu}, {facts.cpu_count} CPUs"),
        ("image", "{}x{} px".format(*groundings[0].image_wh)),
        ("warm-up", f"{facts.warm_up_requests} request, not counted"),
        ("load_ms", f"{facts.load_ms:.1f}"),
        ("peak_rss_mb", f"{facts.peak_rss_mb:.1f}"),
    ]
    rows: list[tuple[str, list[str]]] = [("request", [f"#{i}" for i in range(1, len(groundings) + 1)])]
    for name in STAGES + TOTALS:
        rows.append((name, [f"{getattr(g.timings, name):.1f}" for g in groundings]))
    rows.append(("frame_reused", ["yes" if g.timings.frame_reused else "no" for g in groundings]))
    for name in ("prompt", "image", "think", "completion"):
        rows.append((f"{name}_tokens", [str(getattr(g.tokens, name)) for g in groundings]))
    rows.append(("decode_steps", [str(g.tokens.decode_steps) for g in groundings]))
    rates = [decode_tokens_per_s(g) for g in groundings]
    rows.append(("decode_tokens_per_s", ["-" if rate is None else f"{rate:.1f}" for rate in rates]))
    lines = [f"{name:<20} {text}" for name, text in head]
    lines += [f"{name:<20} " + " ".join(f"{value:>10}" for value in values) for name, values in rows]
    return "\n".join(lines)
