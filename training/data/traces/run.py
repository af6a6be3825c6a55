"""Reasoning traces for rows: concurrent, resumable after a kill, with progress and a count of tokens and cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from tqdm import tqdm  # type: ignore[import-untyped]

from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from training.data.traces.client import GaveUpError, Retry, complete
from training.data.traces.judge import reject_reason
from training.data.traces.ledger import Entry, Ledger
from training.data.traces.prompts import messages, request_id


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
    report = TraceReport(rows=len(rows))
    with Ledger(run.ledger) as ledger:
        accepted = asyncio.run(_all(rows, run, ledger, report))
        for entry in ledger.entries.values():
            report.prompt_tokens += entry.prompt_tokens
            report.completion_tokens += entry.completion_tokens
    prices = run.price_per_million
    report.cost = (report.prompt_tokens * prices[0] + report.completion_tokens * prices[1]) / 1e6
    report.accepted = len(accepted)
    return [replace(row, reasoning=accepted[row.id]) for row in rows if row.id in accepted], report


async def _all(rows: Sequence[Row], run: TraceRun, ledger: Ledger, report: TraceReport) -> dict[str, str]:
    accepted: dict[str, str] = {}
    waiting = iter(rows)
    key = os.environ.get(run.key_variable, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=run.concurrency)
    with tqdm(total=len(rows), unit="row", disable=not run.progress) as bar:
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            workers = [
                asyncio.create_task(_worker(waiting, run, ledger, report, session, accepted, bar))
                for _ in range(min(run.concurrency, len(rows) or 1))
            ]
            try:
                await asyncio.gather(*workers)
            except BaseException:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                raise
    return accepted


async def _worker(
    waiting: Iterator[Row],
    run: TraceRun,
    ledger: Ledger,
    report: TraceReport,
    session: aiohttp.ClientSession,
    accepted: dict[str, str],
    bar: tqdm,
) -> None:
    for row in waiting:
        try:
            text = await _trace(row, run, ledger, report, session)
            if text:
                accepted[row.id] = text
        except GaveUpError as error:
            report.failed[str(error)] += 1
        except InputError as error:
            report.failed[f"{error.expected}; {error.found}"] += 1
        bar.update()
        with contextlib.suppress(AttributeError):
            bar.set_postfix(kept=len(accepted), paid=report.asked, refused=sum(report.rejected.values()), refresh=False)


async def _trace(row: Row, run: TraceRun, ledger: Ledger, report: TraceReport, session: aiohttp.ClientSession) -> str:
    """An accepted trace, from the ledger or newly asked for; "" when every attempt was rejected."""
    for attempt in range(run.attempts):
        name = request_id(row, run.model, attempt)
        entry = ledger.entries.get(name)
        if entry is None:
            entry = await _ask(row, name, run, session)
            ledger.add(entry)
            report.asked += 1
        else:
            report.reused += 1
        # Judged anew: stricter rules apply to old answers too, and cost nothing.
        reason = reject_reason(entry.text, row)
        if not reason:
            return entry.text.strip()
        report.rejected[reason] += 1
    return ""


async def _ask(row: Row, name: str, run: TraceRun, session: aiohttp.ClientSession) -> Entry:
    body = {
        "model": run.model,
        "messages": await asyncio.to_thread(messages, row, run.images),
        "max_tokens": run.max_tokens,
        "temperature": run.temperature,
    }
    answer = await complete(session, f"{run.endpoint.rstrip('/')}/chat/completions", body, name, run.retry)
    return Entry(
        request_id=name,
        row_id=row.id,
        text=answer.text,
        rejected=reject_reason(answer.text, row),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        model=answer.model,
    )


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))
