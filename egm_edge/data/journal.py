"""Journal: a file of JSON lines that one writer appends to, each line on disk before it counts. Knows nothing of what they say.

A kill in the middle of a write leaves half a line, which is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from egm_edge.errors import InputError
from egm_edge.files import make_folder, unwritable


class Journal:
    """An opened journal, locked until it is closed; its folder is made where it is missing.

    Raises:
        InputError: another run holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise unwritable(path.parent, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._cut_torn_line()
        except BlockingIOError:
            self.close()
            hint = "wait for it, or choose another --out"
            raise InputError(f"to be the only writer of {path}", "another run writing there", hint) from None
        except OSError as error:
            self.close()
            raise unwritable(path.parent, error) from None

    @property
    def is_empty(self) -> bool:
        return os.fstat(self._file).st_size == 0

    def append(self, values: dict[str, Any]) -> None:
        """Write one line; it is on disk when this returns.

        Raises:
            InputError: there is no room for it.
        """
        try:
            data = (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise unwritable(self.path.parent, error) from None

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._file)

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        whole = self.path.read_bytes().rfind(b"\n") + 1
        if whole < size:
            os.truncate(self._file, whole)
            os.fsync(self._file)
