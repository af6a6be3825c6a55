"""Records: one JSON line per evaluated row, durable one by one, so that a killed run goes on where it stopped.

`RecordLog` owns `records.jsonl` of one output folder: a torn last line is cut off on opening, every appended line is on
disk before the next row starts, and a second process is kept out. Every number of a report is computed from these lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from egm_edge.data.journal import Journal
from egm_edge.errors import InputError
from egm_edge.files import read_json_object, replace_text
from egm_edge.grounding import Timings, TokenCounts

RECORDS_NAME, RUN_NAME = "records.jsonl", "run.json"
REFUSED = "REFUSED"  # outcome of a row that a server refused by itself; no time was taken of it


@dataclass(frozen=True, slots=True)
class Record:
    """One answer beside its target.

    Attributes:
        id, dataset, split, kind, task, image, image_wh, expression: of the row.
        budget: what the request was allowed; of `budget_kind`, see `egm_edge.evaluate.budget`.
        target: xyxy pixels, None for a thing that is not there.
        outcome, box, rule, cut, text: of the Grounding; box is xyxy pixels or None. "REFUSED" of a server that refused it.
        iou: with the target, 0.0 where there is no box, None where there is no target.
        thought_apart: a server kept the thought apart from the reply; in `text` it stands before it, between its tags.
        candidates: every box of the answer, xyxy pixels.
        tokens: of the request; of a server what it says of them.
        timings: of the request itself; a frame shared with the row before costs nothing here. A server tells none.
        concurrency: how many requests were open at once.
        total_ms: of the request on a frame of its own: what sharing saved is added from this frame's own first request. Of a
            server the client's wall time.
        deadline_met: None without a deadline.
    """

    id: str
    dataset: str
    split: str
    kind: str
    task: str
    image: str
    image_wh: tuple[int, int]
    expression: str
    budget: int
    target: tuple[float, ...] | None
    outcome: str
    box: tuple[float, ...] | None
    rule: str
    cut: str
    text: str
    iou: float | None
    tokens: TokenCounts = field(default_factory=TokenCounts)
    timings: Timings = field(default_factory=Timings)
    concurrency: int = 1
    total_ms: float = 0.0
    thought_apart: bool = False
    candidates: tuple[tuple[float, ...], ...] = ()
    budget_kind: str = "max_new_tokens"
    deadline_met: bool | None = None

    @property
    def key(self) -> tuple[str, int]:
        return (self.id, self.budget)

    @property
    def cluster(self) -> str:
        """Rows of one image are not independent: bootstraps draw by this."""
        return f"{self.dataset}/{self.image}"

    @property
    def reply(self) -> str:
        """What an OpenAI client has as the message's content."""
        return self.text.partition("</think>")[2] if self.thought_apart else self.text

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """Inverse of `dataclasses.asdict` through JSON."""
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        known["candidates"] = tuple(map(tuple, known.get("candidates", ())))
        timings = dict(known.get("timings", {}))
        known.setdefault("concurrency", timings.pop("concurrency", 1))  # records of earlier releases
        timings.pop("request_ms", None)
        return cls(**known | {"tokens": TokenCounts(**known.get("tokens", {})), "timings": Timings(**timings)})


class RecordLog:
    """Appends records durably; holds a lock on its folder while open.

    Args:
        directory: created when missing.
        identity: what the run is (bundle, data, budgets); a folder that holds another run is refused.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        self._directory = directory
        self._journal = Journal(directory / RECORDS_NAME)
        try:
            self._claim(identity)
            self.records = list(read_records(directory))
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def append(self, record: Record) -> None:
        """Write one line; it is on disk when this returns."""
        self._journal.append(asdict(record))
        self.records.append(record)

    def _claim(self, identity: dict[str, Any]) -> None:
        path = self._directory / RUN_NAME
        if path.exists():
            found = read_json_object(path, hint="choose another --out")
            differs = sorted(name for name in identity.keys() | found.keys() if identity.get(name) != found.get(name))
            if differs:
                name = differs[0]
                raise InputError(
                    f"the run of {path} to go on ({name} {_short(found.get(name))})",
                    f"{name} {_short(identity.get(name))}",
                    "choose another --out, or delete that folder",
                )
            return
        if not self._journal.is_empty:
            raise InputError(f"{RUN_NAME} beside {self._journal.path}", "none", "choose another --out")
        replace_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")


def read_records(directory: Path) -> Iterator[Record]:
    """The records of an output folder, in the order they were made; a torn last line is passed over.

    Raises:
        InputError: no such folder, or a line that no run wrote.
    """
    path = directory / RECORDS_NAME
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                if not raw.endswith(b"\n"):
                    return
                try:
                    yield Record.from_dict(json.loads(raw))
                except (ValueError, TypeError, AttributeError) as error:
                    raise InputError("a record", f"{path}:{number}: {str(error)[:80]}", "remove that line") from None
    except OSError as error:
        raise InputError(
            f"{RECORDS_NAME} of an evaluation", f"{path}: {error.strerror}", "run egm evaluate first"
        ) from None


def read_identity(directory: Path) -> dict[str, Any]:
    """What run a folder holds."""
    return read_json_object(directory / RUN_NAME, hint="choose another --out")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
