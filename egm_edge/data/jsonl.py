"""JSON lines of strangers, read one by one with their numbers; whole files written atomically.

Knows nothing of what the objects mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from egm_edge.data.problems import Problem
from egm_edge.errors import InputError
from egm_edge.files import make_folder, whole_file

MAX_LINE_BYTES = 4 << 20


def read_objects(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every readable line; each unreadable one becomes a Problem and is passed over."""
    try:
        with path.open("rb") as stream:
            number = 0
            while raw := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    limit = f"{MAX_LINE_BYTES >> 20} MiB"
                    problems.append(Problem(str(path), number, f"lines of at most {limit}", f"more than {limit}"))
                    return
                if raw.strip():
                    value = _parse(raw, path, number, problems)
                    if value is not None:
                        yield number, value
    except OSError as error:
        problems.append(Problem(str(path), 0, "a readable file", error.strerror or str(error)))


def write_objects(path: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Write a whole file beside and rename it into place; returns the number of lines."""
    make_folder(path.parent)
    count = 0
    try:
        with whole_file(path, errors="backslashreplace") as stream:  # half a surrogate pair, as JSON escapes it
            for value in objects:
                stream.write(json.dumps(value, ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise InputError(f"a place to write {path}", error.strerror or str(error), "choose another --out") from None
    return count


def _parse(raw: bytes, path: Path, number: int, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        cut = not raw.endswith(b"\n")
        what = f"a line cut off after {len(raw)} bytes" if cut else f"{type(error).__name__}: {str(error)[:120]}"
        problems.append(Problem(str(path), number, "one JSON object a line", what))
        return None
    if not isinstance(value, dict):
        problems.append(Problem(str(path), number, "one JSON object a line", f"a {type(value).__name__}"))
        return None
    return value
