"""Files that are written whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


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
