"""Reports as files: whole or not at all, and what is said when they cannot be written."""

from __future__ import annotations

from pathlib import Path

from egm_edge.errors import InputError
from egm_edge.files import whole_file


def replace_text(path: Path, text: str) -> None:
    """Write a whole file beside and rename it into place."""
    try:
        with whole_file(path, errors="replace") as stream:
            stream.write(text)
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(directory: Path, error: OSError) -> InputError:
    """What an OSError while writing to a folder means to the user."""
    return InputError(f"a folder to write to at {directory}", error.strerror or str(error), "choose another --out")
