"""Files that are written whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from egm_edge.errors import InputError


def replace_text(path: Path, text: str) -> None:
    """Write a whole file beside and rename it into place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise unwritable(path.parent, error) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def unwritable(directory: Path, error: OSError) -> InputError:
    """What an OSError while writing to a folder means to the user."""
    return InputError(f"a folder to write to at {directory}", error.strerror or str(error), "choose another --out")
