"""Evaluates an OpenAI-compatible server: many requests at once, the family's own prompt, the one parser.

A request that fails on its way is no wrong answer: it is left for the next run of the same command. One that the server
refuses by itself is: it counts as an answer without a box, under the outcome REFUSED.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from egm_edge.boxes import Box, Coordinates
from egm_edge.data.pictures import encoded, require_size
from egm_edge.data.rows import Row
from egm_edge.errors import BackendError, EgmError
from egm_edge.evaluate.budget import Budgets
from egm_edge.evaluate.records import REFUSED, Record, RecordLog
from egm_edge.evaluate.run import record_of, unanswered
from egm_edge.families import Family
from egm_edge.grounding import Task, TokenCounts
from egm_edge.openai import ChatReply, NoAnswerError, OpenAIClient, RequestRefusedError, data_url, grounding_request
from egm_edge.parsing import parse_answer

REFUSALS_BEFORE_GIVING_UP = 8
_Job = tuple[Row, Path, int]
_Done = Record | EgmError | BaseException


class EvaluatedServer:
    """Answers rows through a server.

    Args:
        family: whose task texts are used. model: as the server names it. concurrency: requests open at once, for the record.
        coordinates: the unit that the model writes boxes in.
    """

    def __init__(
        self,
        client: OpenAIClient,
        family: Family,
        model: str,
        concurrency: int,
        coordinates: Coordinates = Coordinates.NORM1000,
    ) -> None:
        self._client, self._family, self._model, self._concurrency = client, family, model, concurrency
        self._coordinates = coordinates

    def answer(self, row: Row, picture: Path, budget: int) -> Record:
        """One row, asked once (and again where the way there fails).

        Raises:
            NoAnswerError: it did not come through. BackendError: the server refuses us altogether.
            InputError: the picture cannot be used.
        """
        data, media_type, image_wh = encoded(picture, mirrored=row.mirrored)
        require_size(image_wh, row)
        sentence = (self._family.amodal if row.task is Task.AMODAL else self._family.modal).replace(
            "{expression}", row.expression
        )
        body = grounding_request(self._model, data_url(data, media_type), sentence, budget)
        try:
            reply = self._client.complete(body)
        except RequestRefusedError as error:
            return self._record(row, budget, image_wh, ChatReply(finish_reason=error.found), REFUSED)
        return self._record(row, budget, image_wh, reply)

    def _record(self, row: Row, budget: int, image_wh: tuple[int, int], reply: ChatReply, outcome: str = "") -> Record:
        parsed = parse_answer(
            reply.text, task=row.task, in_thought=reply.opened_in_thought, expression=row.expression,
            coordinates=self._coordinates, image_wh=image_wh,
        )  # fmt: skip
        box = Box.from_norm1000(parsed.box_norm1000, *image_wh) if parsed.box_norm1000 and not outcome else None
        milliseconds = 0.0 if outcome else (reply.finished_at - reply.sent_at) * 1e3
        return record_of(
            row,
            image_wh,
            box,
            budget=budget,
            outcome=outcome or parsed.outcome.value,
            rule=parsed.rule if not outcome else reply.finish_reason,
            cut="max_new_tokens" if reply.is_cut else "",
            text=reply.text,
            thought_apart=reply.thought_apart,
            candidates=tuple(c.box.xyxy for c in parsed.candidates_of(image_wh)),
            tokens=TokenCounts(prompt=reply.prompt_tokens, completion=reply.completion_tokens),
            concurrency=self._concurrency,
            total_ms=milliseconds,
        )


def evaluate_server(
    answer: Callable[[Row, Path, int], Record],
    rows: Sequence[Row],
    pictures: Mapping[str, Path],
    budgets: Budgets,
    log: RecordLog,
    concurrency: int,
    on_record: Callable[[int, int], None] | None = None,
) -> None:
    """Answer what the log does not hold yet, `concurrency` rows at a time.

    Raises:
        BackendError: the server refuses us, answers nothing at all any more, or left rows unanswered.
    """
    jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    missing = unanswered(rows, budgets, log)
    for row, budget in missing:
        jobs.put((row, pictures[row.image], budget))
    results: queue.SimpleQueue[_Done] = queue.SimpleQueue()
    for _ in range(min(concurrency, len(missing))):  # daemons: Ctrl-C must not wait for a server that is silent
        threading.Thread(target=_work, args=(answer, jobs, results), daemon=True).start()
    try:
        _collect(results, len(missing), log, concurrency, len(rows) * len(budgets.values), on_record)
    finally:
        with contextlib.suppress(queue.Empty):  # what nobody has begun stays undone
            while True:
                jobs.get_nowait()  # a worker may take the last one at any moment: to wait for it would be for ever


def _work(
    answer: Callable[[Row, Path, int], Record], jobs: queue.SimpleQueue[_Job], results: queue.SimpleQueue[_Done]
) -> None:
    while True:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            return
        try:
            results.put(answer(*job))
        except BaseException as error:  # judged by the collecting thread
            results.put(error)


def _collect(
    results: queue.SimpleQueue[_Done],
    count: int,
    log: RecordLog,
    concurrency: int,
    total: int,
    on_record: Callable[[int, int], None] | None,
) -> None:
    """Write records as they come. Refusals are held back until the server has answered anything at all."""
    done = total - count
    answered_once = any(record.outcome != REFUSED for record in log.records)
    held: list[Record] = []
    failures: list[NoAnswerError] = []
    in_a_row = 0
    for _ in range(count):
        result = results.get()
        if isinstance(result, NoAnswerError):
            failures.append(result)
            in_a_row += 1
            if in_a_row >= max(REFUSALS_BEFORE_GIVING_UP, 2 * concurrency):
                break
            continue
        if not isinstance(result, Record):
            raise result
        in_a_row = 0
        held.append(result)
        answered_once = answered_once or result.outcome != REFUSED
        if not answered_once:
            if len(held) >= REFUSALS_BEFORE_GIVING_UP:
                break
            continue
        for record in held:
            log.append(record)
            done += 1
            if on_record:
                on_record(done, total)
        held.clear()
    if held:
        raise BackendError("a server that answers", f"only refusals: {held[0].rule}", "check the model and the budget")
    if failures:
        found = f"{total - done} without one; the first: {failures[0].found}"
        raise BackendError(
            f"answers to all {total} requests", found, "run the same command again: it asks only for these"
        )
