"""The numbers behind /metrics, in a Prometheus registry of their own. Counts and times only: no text, no picture, no key."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from egm_edge.grounding import Grounding, Outcome

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 600.0)
KINDS = ("prompt", "image", "think", "completion")
STAGES = ("decode_image", "preprocess", "vision", "prefill", "think", "answer")
REFUSED, BUSY, GONE, LATE, FAILED = "refused", "busy", "gone", "late", "failed"
OUTCOMES = (*(outcome.value.lower() for outcome in Outcome), REFUSED, BUSY, GONE, LATE, FAILED)

disable_created_metrics()  # a second series per counter that nobody asks for


class Metrics:
    """One server's counters. Every label value is there from the start, so that rates begin at 0."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        here = self.registry
        self.requests = Counter(
            "egm_requests",
            "Chat requests by how they ended: the Grounding's outcome, or refused (4xx), busy (429), gone (the client left), "
            "late (ran out of the server's time), failed (5xx).",
            ["outcome"],
            registry=here,
        )
        self.seconds = Histogram(
            "egm_request_seconds", "Arrival to the end of the answer.", buckets=SECONDS, registry=here
        )
        self.first_token_seconds = Histogram(
            "egm_time_to_first_token_seconds", "Arrival to the first generated token.", buckets=SECONDS, registry=here
        )
        self.queue_seconds = Histogram("egm_queue_seconds", "Waiting for the engine.", buckets=SECONDS, registry=here)
        self.stage_seconds = Histogram(
            "egm_stage_seconds", "Engine time of one request by stage.", ["stage"], buckets=SECONDS, registry=here
        )
        self.queue_depth = Gauge("egm_queue_depth", "Requests waiting for the engine.", registry=here)
        self.running = Gauge("egm_requests_running", "Requests in the engine: 0 or 1.", registry=here)
        self.frames_reused = Counter(
            "egm_frames_reused", "Requests that found their picture's vision kept.", registry=here
        )
        self.frames_kept = Gauge("egm_frames_kept", "Pictures kept for the next sentence.", registry=here)
        self.held_bytes = Gauge("egm_held_bytes", "Request bodies and pictures held in memory.", registry=here)
        self.tokens = Counter(
            "egm_tokens", "Tokens by kind; image is part of prompt, think of completion.", ["kind"], registry=here
        )
        self.deadlines = Counter(
            "egm_deadlines", "Requests with a deadline_ms, by whether it was met.", ["met"], registry=here
        )
        self.ready = Gauge("egm_ready", "1 while requests are accepted.", registry=here)
        self.bundle = Info("egm_bundle", "What is served.", registry=here)
        for outcome in OUTCOMES:
            self.requests.labels(outcome)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for kind in KINDS:
            self.tokens.labels(kind)
        for met in ("true", "false"):
            self.deadlines.labels(met)

    def ended(self, outcome: str, seconds: float) -> None:
        """Count one chat request that was not answered with a Grounding."""
        self.requests.labels(outcome).inc()
        self.seconds.observe(seconds)

    def answered(self, grounding: Grounding, seconds: float) -> None:
        """Count one Grounding."""
        self.ended(grounding.outcome.value.lower(), seconds)
        for stage in STAGES:
            self.stage_seconds.labels(stage).observe(getattr(grounding.timings, f"{stage}_ms") / 1e3)
        if grounding.timings.frame_reused:
            self.frames_reused.inc()
        for kind in KINDS:
            self.tokens.labels(kind).inc(getattr(grounding.tokens, kind))
        if grounding.deadline_met is not None:
            self.deadlines.labels(str(grounding.deadline_met).lower()).inc()
