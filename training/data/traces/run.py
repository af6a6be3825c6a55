"""Reasoning traces for rows: concurrent, resumable after a kill, with progress and a count of tokens and cost."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.openai import NoAnswerError, OpenAIClient, RequestRefusedError, Retry
from training.data.traces.ledger import Entry, Ledger
from training.data.traces.prompts import messages, request_id
from training.data.traces.trace_filter import reject_reason


@dataclass(frozen=True, slots=True)
class TraceRun:
    """Where and how to ask.

    Attributes:
        endpoint: base URL, up to `/v1`.
        model: name that the endpoint knows.
        images: root of the rows' pictures.
        ledger: file that keeps every paid answer; give the same one to go on after a kill.
        key_variable: environment variable with the key; it may be unset for a local server.
        concurrency: requests in flight.
        attempts: traces asked for a row before it goes without one.
        max_tokens, temperature: the recipe's.
        price_per_million: of prompt and completion tokens, in any currency.
    """

    endpoint: str
    model: str
    images: Path
    ledger: Path
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 16
    attempts: int = 3
    max_tokens: int = 800
    temperature: float = 0.7
    retry: Retry = field(default_factory=Retry)
    price_per_million: tuple[float, float] = (0.0, 0.0)
    progress: bool = True

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("http://", "https://")):
            raise InputError("an endpoint such as http://localhost:8000/v1", repr(self.endpoint), "pass --endpoint URL")


@dataclass(slots=True)
class TraceReport:
    """What a run did and what all runs on this ledger paid.

    Attributes:
        rows: asked for; accepted: have a trace; reused: answers found in the ledger; asked: requests answered now.
        rejected: answers thrown away, by reason; failed: rows without an answer, by reason.
        prompt_tokens, completion_tokens, cost: of the whole ledger.
    """

    rows: int = 0
    accepted: int = 0
    reused: int = 0
    asked: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __str__(self) -> str:
        lost = [f"{sum(c.values())} {word} ({_reasons(c)})" for word, c in self._losses() if c]
        spent = f"{self.prompt_tokens} + {self.completion_tokens} tokens, cost {self.cost:.2f}"
        ledger = f"{self.asked} answers paid now, {self.reused} from the ledger"
        return "; ".join([f"{self.accepted} of {self.rows} rows have a trace", ledger, *lost, spent])

    def _losses(self) -> list[tuple[str, Counter[str]]]:
        return [("answers rejected", self.rejected), ("rows failed", self.failed)]


def run_traces(rows: Sequence[Row], run: TraceRun) -> tuple[list[Row], TraceReport]:
    """The rows that got a trace, in their order, and the report.

    Raises:
        BackendError: the endpoint refuses us; what was paid for is in the ledger.
    """
    report, accepted = TraceReport(rows=len(rows)), dict[str, str]()
    client = OpenAIClient(run.endpoint, key=os.environ.get(run.key_variable), retry=run.retry)
    with Ledger(run.ledger) as ledger, tqdm(total=len(rows), unit="row", disable=not run.progress) as bar:
        asked = _Asked(run, client, ledger, report)
        with ThreadPoolExecutor(run.concurrency) as pool:
            futures = {pool.submit(asked.trace, row): row for row in rows}
            try:
                for done in as_completed(futures):
                    if text := done.result():
                        accepted[futures[done].id] = text
                    bar.update()
                    with contextlib.suppress(AttributeError):
                        refused = sum(report.rejected.values())
                        bar.set_postfix(kept=len(accepted), paid=report.asked, refused=refused, refresh=False)
            except BaseException:
                asked.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        for entry in ledger.entries.values():
            report.prompt_tokens += entry.prompt_tokens
            report.completion_tokens += entry.completion_tokens
    prices = run.price_per_million
    report.cost = (report.prompt_tokens * prices[0] + report.completion_tokens * prices[1]) / 1e6
    report.accepted = len(accepted)
    return [replace(row, reasoning=accepted[row.id]) for row in rows if row.id in accepted], report


@dataclass(frozen=True, slots=True)
class _Asked:
    """One run as its threads see it; `stop` drops what is in flight."""

    run: TraceRun
    client: OpenAIClient
    ledger: Ledger
    report: TraceReport
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def trace(self, row: Row) -> str:
        """An accepted trace, from the ledger or newly asked for; "" when there is none."""
        try:
            return self._accepted(row)
        except (NoAnswerError, RequestRefusedError) as error:
            failure = error.found
        except InputError as error:
            failure = f"{error.expected}; {error.found}"
        with self.lock:
            self.report.failed[failure] += 1
        return ""

    def _accepted(self, row: Row) -> str:
        for attempt in range(self.run.attempts):
            name = request_id(row, self.run.model, attempt)
            entry = self.ledger.entries.get(name)
            paid_now = entry is None
            entry = entry or self._ask(row, name)
            # Judged anew: stricter rules apply to old answers too, and cost nothing.
            reason = reject_reason(entry.text, row)
            with self.lock:
                if paid_now:
                    self.ledger.add(entry)
                self.report.asked += paid_now
                self.report.reused += not paid_now
                self.report.rejected.update([reason] if reason else [])
            if not reason:
                return entry.text.strip()
        return ""

    def _ask(self, row: Row, name: str) -> Entry:
        run = self.run
        body = {
            "model": run.model,
            "messages": messages(row, run.images),
            "max_tokens": run.max_tokens,
            "temperature": run.temperature,
        }
        # The same key on every try: a server that knows it does not bill a repeated request again.
        headers = {"Idempotency-Key": name, "X-Request-Id": name}
        reply = self.client.complete(body, headers=headers, should_stop=self.stop.is_set)
        if reply.stopped:
            raise NoAnswerError("an answer", "a run that ended before it", "run the same command again")
        return Entry(
            request_id=name,
            row_id=row.id,
            text=reply.answer,
            rejected=reject_reason(reply.answer, row),
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            model=reply.model,
        )


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))
