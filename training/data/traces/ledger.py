"""The ledger: every answer that was paid for, one JSON line each, on disk before it counts. Knows nothing of HTTP.

Append-only, one writer (a lock is held), fsync per line. A kill in the middle of a write leaves half a line, which is
cut off on opening; its request is sent again under the same request id, so that a server which honours
`Idempotency-Key` does not bill it twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from egm_edge.data.jsonl import read_objects
from egm_edge.data.problems import Problem, require_none
from egm_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer.

    Attributes:
        request_id: what it was asked under.
        row_id: whose trace it is.
        text: as the model wrote it.
        rejected: why it may not be used, "" when it may.
        prompt_tokens, completion_tokens: as the server counted them.
        model: as the server named it.
    """

    request_id: str
    row_id: str
    text: str
    rejected: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""


class Ledger:
    """An opened ledger; `entries` holds what earlier runs paid for, by request id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Ledger:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            found = "another run that holds it"
            raise InputError(f"to be the only writer of {self.path}", found, "wait for it or choose another") from None
        self._file = file
        self._cut_torn_line()
        problems: list[Problem] = []
        for line, values in read_objects(self.path, problems):
            try:
                entry = Entry(**values)
            except TypeError as error:
                problems.append(Problem(str(self.path), line, "a ledger entry", str(error)))
                continue
            self.entries[entry.request_id] = entry
        require_none(problems)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, entry: Entry) -> None:
        """Record one answer; when this returns it is on disk."""
        if self._file is None:
            raise InputError("an open ledger", "a closed one", "use it in a with statement")
        line = json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"room for {self.path}", error.strerror or str(error), "free some and run again") from None
        self.entries[entry.request_id] = entry

    def _cut_torn_line(self) -> None:
        data_end = self.path.stat().st_size
        with self.path.open("rb+") as file:
            keep = data_end
            while keep > 0:
                start = max(0, keep - 65536)
                file.seek(start)
                block = file.read(keep - start)
                at = block.rfind(b"\n")
                if at >= 0:
                    keep = start + at + 1
                    break
                keep = start
            if keep < data_end:
                file.truncate(keep)
                os.fsync(file.fileno())
