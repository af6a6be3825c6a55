"""One measurement from bundle to report: load, cold start, warm-up, requests, fixed rate, sweeps, roofline, peer.

Reads top to bottom. Everything cheap that can fail has been checked by the caller.
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import egm_edge
from egm_edge.auto import AnyGrounder, open_grounder
from egm_edge.benchmark.comparison import PeerChoice, measure_beside
from egm_edge.benchmark.conditions import Conditions, others_share, snapshot
from egm_edge.benchmark.energy import Energy
from egm_edge.benchmark.fixed_rate import run_at_rate
from egm_edge.benchmark.gpu import GpuRun, GpuWatch
from egm_edge.benchmark.limits import Bandwidth, measure_limits
from egm_edge.benchmark.report import KIND, SCHEMA_VERSION, rate_dict, samples_dict, summarise, sweep_dict
from egm_edge.benchmark.roofline import RequestModel, reached
from egm_edge.benchmark.runner import Told, ask, measure_requests, measure_sweep
from egm_edge.benchmark.sample import Sample
from egm_edge.benchmark.workload import Workload
from egm_edge.bundle import Bundle
from egm_edge.bundle_from_checkpoint import open_directory
from egm_edge.errors import InputError
from egm_edge.grounder import Grounder
from egm_edge.machine import board_name, cpu_flags, cpu_name, memory_gb, usable_cpus

PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "tokenizers")


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """What to measure.

    Attributes:
        requests, warm_up: counted and uncounted requests.
        max_new_tokens: None for the bundle's own.
        ignore_end: generate exactly max_new_tokens, whatever the model says.
        speculate: let the decoder check drafted tokens several at a time.
        rate_hz: also run at a fixed frame rate; None leaves it out.
        sweeps: (axis, setting) points. roofline: measure the machine's limits too.
        beside, pairs: a peer side by side, and how many pairs; None leaves it out.
    """

    requests: int = 20
    warm_up: int = 3
    max_new_tokens: int | None = None
    ignore_end: bool = False
    speculate: bool = True
    rate_hz: float | None = None
    sweeps: list[tuple[str, str]] = field(default_factory=list)
    roofline: bool = True
    beside: PeerChoice | None = None
    pairs: int = 5

    @property
    def most_questions(self) -> int:
        """What the part that takes most of the workload takes."""
        return max(
            1,
            self.warm_up,
            self.requests,
            self.sweep_requests + 1 if self.sweeps else 0,
            self.pairs if self.beside else 0,
        )

    @property
    def sweep_requests(self) -> int:
        """Counted ones of every point of a sweep, after one of warm-up."""
        return max(3, self.requests // 4)


def measure_bundle(
    bundle_dir: Path,
    workload: Workload,
    plan: BenchmarkPlan,
    *,
    memory: str = "auto",
    threads: int | None = None,
    told: Callable[[str], Told] | None = None,
) -> dict[str, Any]:
    """Measure a bundle and return the report.

    Args:
        told: given the name of a part, returns what is told (done, total) of it.
    """
    tell = told or (lambda name: lambda done, total: None)
    started = time.perf_counter()
    bundle = open_directory(bundle_dir)
    opened = time.perf_counter()
    with open_grounder(bundle, memory=memory, threads=threads) as grounder, _as_planned(grounder, plan):
        loaded = time.perf_counter()
        after_load = snapshot()
        cold = {"verify_ms": (opened - started) * 1e3, "load_ms": (loaded - opened) * 1e3}
        return _measure(grounder, workload, plan, tell, cold, after_load)


@contextmanager
def _as_planned(grounder: AnyGrounder, plan: BenchmarkPlan) -> Iterator[None]:
    """Decodes as the plan says, for as long as it is measured.

    Raises:
        InputError: the plan asks a runtime that answers whole requests for what needs its logits.
    """
    if not isinstance(grounder, Grounder):
        _refuse_what_needs_logits(plan, grounder.facts.runtime)
        yield
        return
    grounder.speculate, stop_ids = plan.speculate, grounder.stop_ids
    if plan.ignore_end:
        grounder.stop_ids = frozenset()
    try:
        yield
    finally:
        grounder.stop_ids = stop_ids


def _refuse_what_needs_logits(plan: BenchmarkPlan, runtime: str) -> None:
    asked = {"--ignore-end": plan.ignore_end, "--no-speculate": not plan.speculate, "--beside": plan.beside is not None}
    wanted = [option for option, on in asked.items() if on]
    if wanted:
        raise InputError(f"a bundle whose engine gives logits for {wanted[0]}", runtime, f"leave {wanted[0]} out")


def _measure(
    grounder: AnyGrounder,
    workload: Workload,
    plan: BenchmarkPlan,
    tell: Callable[[str], Told],
    cold: dict[str, float],
    after_load: Conditions,
) -> dict[str, Any]:
    """Measure what is already loaded; `cold` holds verify_ms and load_ms."""
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    cap = plan.max_new_tokens
    (question,) = workload.take(1)
    (first,) = samples_dict([ask(grounder, question, cap)])
    measure_requests(grounder, workload, plan.warm_up, cap, tell("warm-up"))
    model = _request_model(grounder) if plan.roofline else None
    run = _counted_requests(grounder, workload, plan, tell("requests"), model)
    samples = samples_dict(run.samples)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "created": created,
        "bundle": _bundle(grounder.bundle),
        "versions": _versions(),
        "machine": _machine(grounder) | {"gpu": run.gpu.name if run.gpu else None},
        "plan": _plan(plan, workload, grounder),
        "cold": cold | {"first_request_ms": first["total_ms"], "first_request": first},
        "conditions": {
            "before": asdict(run.before),
            "after": asdict(run.after),
            "others_cpu_share": others_share(run.before, run.after),
        },
        "memory": {
            "after_load_mb": after_load.rss_mb or 0.0,
            # the probe's own buffer is not the engine's
            "after_requests_mb": (run.after.rss_mb or 0.0) - (run.probe.bandwidth.buffer_mb if run.probe else 0.0),
            "peak_mb": (run.before if run.probe else run.after).peak_rss_mb or 0.0,
        },
        "gpu": asdict(run.gpu) if run.gpu else None,
        "energy": {"joules_per_request": run.joules_per_request},
        "summary": summarise(samples),
        "roofline": _roofline(model, run, _threads(grounder), samples),
        "rate": _rate(grounder, workload, plan),
        "sweep": _sweep(grounder, workload, plan, tell("sweeps")) if plan.sweeps else [],
        "beside": _beside(grounder, workload, plan, tell("beside")),
        "samples": samples,
    }


@dataclass(frozen=True, slots=True)
class _Run:
    """The counted requests, and the machine meanwhile; `probe`: of the bandwidth between them, where they leave room for it."""

    samples: list[Sample]
    before: Conditions
    after: Conditions
    gpu: GpuRun | None
    joules_per_request: dict[str, float]
    probe: _Probe | None


def _counted_requests(
    grounder: AnyGrounder, workload: Workload, plan: BenchmarkPlan, told: Told, model: RequestModel | None
) -> _Run:
    before = snapshot()
    probe = _Probe(_threads(grounder)) if model is not None and model.leaves_the_cache() else None
    with GpuWatch() as gpu, Energy() as energy:
        samples = measure_requests(grounder, workload, plan.requests, plan.max_new_tokens, told, probe)
    own = probe.joules if probe else {}
    joules = {name: (value - own.get(name, 0.0)) / len(samples) for name, value in energy.joules.items()}
    return _Run(samples, before, snapshot(), gpu.run, joules, probe)


def _roofline(
    model: RequestModel | None, run: _Run, threads: int, samples: list[dict[str, Any]]
) -> dict[str, Any] | None:
    if model is None:
        return None
    limits = measure_limits(threads, bandwidth=run.probe.bandwidth if run.probe else None)
    stages = [asdict(stage) for stage in reached(model, limits, samples)]
    return {"limits": asdict(limits), "in_turns": run.probe is not None, "stages": stages}


def _rate(grounder: AnyGrounder, workload: Workload, plan: BenchmarkPlan) -> dict[str, Any] | None:
    if not plan.rate_hz:
        return None
    questions = list(workload.take(plan.requests))

    def answer(frame: int) -> None:
        ask(grounder, questions[frame % len(questions)], plan.max_new_tokens)

    return rate_dict(run_at_rate(answer, plan.rate_hz, plan.requests))


def _sweep(grounder: AnyGrounder, workload: Workload, plan: BenchmarkPlan, told: Told) -> list[dict[str, Any]]:
    measured = measure_sweep(grounder, workload, plan.sweeps, plan.sweep_requests, plan.max_new_tokens, told)
    return sweep_dict(measured)


def _beside(grounder: AnyGrounder, workload: Workload, plan: BenchmarkPlan, told: Told) -> dict[str, Any] | None:
    if not plan.beside or not isinstance(grounder, Grounder):
        return None
    with closing(plan.beside.open(_threads(grounder))) as peer:
        return measure_beside(grounder, peer, workload, plan.pairs, plan.max_new_tokens or 128, told).to_dict()


class _Probe:
    """Probes memory bandwidth between requests, and knows the energy that this took."""

    def __init__(self, threads: int) -> None:
        self.bandwidth = Bandwidth(threads)
        self.joules: dict[str, float] = defaultdict(float)

    def __call__(self) -> None:
        with Energy() as energy:
            self.bandwidth.probe()
        for name, value in energy.joules.items():
            self.joules[name] += value


def _request_model(grounder: AnyGrounder) -> RequestModel | None:
    """What can count the work of a request; None for bundles without graphs to count."""
    if not RequestModel.counts(grounder.bundle):
        return None
    return RequestModel(grounder.bundle, fast=grounder.facts.memory == "fast")


def _threads(grounder: AnyGrounder) -> int:
    return grounder.facts.threads or usable_cpus()


def _bundle(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "hash": bundle.hash,
        "family": manifest.family,
        "target": manifest.target,
        "precision": manifest.precision,
        "pixel_spec_hash": manifest.pixel_spec_hash,
        "prompt_spec_hash": manifest.prompt_spec_hash,
        "parity": manifest.parity["status"],
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "built_by": manifest.egm_edge_version,
    }


def _versions() -> dict[str, str]:
    found = {"egm-edge": egm_edge.__version__, "python": platform.python_version(), "kernel": platform.release()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a system package or another wheel serves as well
            found[name] = "unknown"
    return found


def _machine(grounder: AnyGrounder) -> dict[str, Any]:
    facts = grounder.facts
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "cpu_flags": cpu_flags(),
        "board": board_name(),
        "memory_gb": memory_gb()[0],
        "architecture": platform.machine(),
        "engine": facts.engine,
        "device": facts.device,
        "threads": _threads(grounder),
        "memory_mode": facts.memory or "-",
    }


def _plan(plan: BenchmarkPlan, workload: Workload, grounder: AnyGrounder) -> dict[str, Any]:
    return {
        "requests": plan.requests,
        "warm_up": plan.warm_up + 1,
        "max_new_tokens": plan.max_new_tokens or int(grounder.bundle.manifest.limits["max_new_tokens"]),
        "ignore_end": plan.ignore_end,
        "speculate": plan.speculate,
        "batch": 1,
        "workload": workload.describe(),
    }
