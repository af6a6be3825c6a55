"""Problem: one thing that is wrong at one place of a data set; collected, so that all of them are reported together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from egm_edge.errors import EgmError, InputError


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where.

    Attributes:
        file: path as it was given.
        line: line of a text file from 1; record of a pickle or a JSON list from 1; 0 for the file as a whole.
        expected, found: noun phrases, as in EgmError.
    """

    file: str
    line: int
    expected: str
    found: str

    def __str__(self) -> str:
        return " ".join(f"{self.file}:{self.line}: expected {self.expected}; found {self.found}".split())


@contextmanager
def collected(problems: list[Problem], file: Path, line: int, *others: type[Exception], expected: str = "") -> Iterator[None]:
    """What goes wrong inside becomes a Problem of that line instead.

    Args:
        others: kinds of errors beside EgmError; `expected` says what should have been there then.
    """
    try:
        yield
    except EgmError as error:
        problems.append(Problem(str(file), line, error.expected, error.found))
    except others as error:
        problems.append(Problem(str(file), line, expected, f"{type(error).__name__}: {str(error)[:100]}"))


class DataError(InputError):
    """A data set that cannot be used; `problems` holds every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        whole = first.line == 0  # a file that cannot be read at all
        found = f"{first.found} at {first.file}" + ("" if whole else f":{first.line}") + more
        super().__init__(first.expected, found, "check the path" if whole else "list all of them with: egm data check DIR")


def require_none(problems: Sequence[Problem]) -> None:
    """Raise DataError if anything was wrong."""
    if problems:
        raise DataError(problems)
