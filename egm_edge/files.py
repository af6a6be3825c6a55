"""Files that are written whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from egm_edge.errors import InputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h and linux/fs.h


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


def take_place(new: Path, final: Path) -> None:
    """Give the directory `new` the name `final`, in one step where kernel and file system can (Linux renameat2). A directory
    that was there is left under the name `new`, to be deleted by the caller.

    Raises:
        OSError: it cannot be renamed.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(final), RENAME_EXCHANGE)
    if not final.exists() or not any(final.iterdir()):
        new.rename(final)
    elif renameat2 is None or renameat2(*names) != 0:
        aside = new.with_name(new.name + "-old")
        final.rename(aside)
        new.rename(final)
        aside.rename(new)
    _sync(final.parent)


def make_durable(directory: Path) -> None:
    """Flush every file under a directory, and the directory itself, to the disk."""
    for path in (*directory.rglob("*"), directory):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> Path:
    """The folder, made where it is not there yet.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    return path


def unwritable(directory: Path, error: OSError) -> InputError:
    """What an OSError while writing to a folder means to the user."""
    return InputError(f"a folder to write to at {directory}", error.strerror or str(error), "choose another --out")
