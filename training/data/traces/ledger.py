"""The ledger: every answer that was paid for, one JSON line each, on disk before it counts. Knows nothing of HTTP.

The request whose line a kill has torn is sent again under the same request id, so that a server which honours
`Idempotency-Key` does not bill it twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from egm_edge.data.journal import Journal
from egm_edge.data.jsonl import read_objects
from egm_edge.data.problems import Problem, collected, require_none
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
    """An opened ledger; `entries` holds what earlier runs paid for, by request id. Locked until the end of the `with` block.

    Raises:
        InputError: another run holds it, it cannot be written, or it holds what is no entry.
    """

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self._journal = Journal(path)
        problems: list[Problem] = []
        for line, values in read_objects(path, problems):
            with collected(problems, path, line, TypeError, expected="a ledger entry"):
                entry = Entry(**values)
                self.entries[entry.request_id] = entry
        try:
            require_none(problems)
        except InputError:
            self._journal.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def add(self, entry: Entry) -> None:
        """Record one answer; when this returns it is on disk."""
        self._journal.append(asdict(entry))
        self.entries[entry.request_id] = entry
