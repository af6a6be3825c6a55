"""Files that are written whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from egm_edge.errors import InputError


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w", *, errors: str | None = None) -> Iterator[IO[Any]]:
    """A stream to a file beside `path` that is synced and renamed into place at the end; on any error `path` stays as it was.

    Args:
        mode: "w" for UTF-8 text, "wb" for bytes.
        errors: what to do with text that UTF-8 cannot hold, as in `open`.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with beside.open(mode, encoding=encoding, errors=errors) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a whole text file, for a user who named where.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        with whole_file(path, errors="replace") as stream:
            stream.write(text)
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(directory: Path, error: OSError) -> InputError:
    """What an OSError while writing to a folder means to the user."""
    return InputError(f"a folder to write to at {directory}", error.strerror or str(error), "choose another --out")
