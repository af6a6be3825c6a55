"""Files and folders that are written whole or not at all, JSON files of bounded size. Knows nothing of what they say."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from egm_edge.errors import EgmError, InputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h and linux/fs.h
MOST_JSON_BYTES = 2 << 30


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w", *, errors: str | None = None) -> Iterator[IO[Any]]:
    """A stream to a file beside `path` that is synced and renamed into place at the end; on any error `path` stays as it was.

    Args:
        mode: "w" for UTF-8 text, "wb" for bytes.
        errors: what to do with text that UTF-8 cannot hold, as in `open`.

    Raises:
        OSError: it cannot be written, or is a device or a pipe, in whose place a file would be put.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    beside = _beside(path)
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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


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


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file as transformers writes its settings, into a folder that takes its place as a whole later."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json_object(
    path: Path, kind: type[EgmError] = InputError, hint: str = "download it again", most_bytes: int = MOST_JSON_BYTES
) -> dict[str, Any]:
    """A JSON object of bounded size.

    Args:
        kind, hint: of the error.

    Raises:
        EgmError: missing, too large, damaged, or not an object.
    """
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise kind(f"{path} of at most {most_bytes:,} bytes", f"{size:,}", "check the file")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise kind(f"{path.name} in {path.parent}", (error.strerror or str(error)).lower(), hint) from None
    except (ValueError, RecursionError) as error:
        raise kind(f"a JSON object in {path}", f"{type(error).__name__}: {str(error)[:100]}", hint) from None
    if not isinstance(values, dict):
        raise kind(f"a JSON object in {path}", f"a {type(values).__name__}", hint)
    return values


def take_place(new: Path, final: Path) -> None:
    """Give the directory `new` the name `final`, in one step where kernel and file system can (Linux renameat2). A directory
    that was there is left under the name `new`, to be deleted by the caller.

    Raises:
        OSError: it cannot be renamed.
    """
    if not final.exists() or not any(final.iterdir()):
        new.rename(final)
    elif not _exchange(new, final):
        aside = new.with_name(new.name + "-old")
        final.rename(aside)
        new.rename(final)
        aside.rename(new)
    _sync(final.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step; False where kernel or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    return renameat2 is not None and renameat2(*names) == 0


def user_cache() -> Path:
    """Where this project keeps what can be made again: $XDG_CACHE_HOME/egm-edge, else ~/.cache/egm-edge."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "egm-edge"


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


def check_place(path: Path, *, never: Iterable[Path] = ()) -> Path:
    """Return `path` if a file can be written there; say so before any work is done.

    Args:
        never: what must not be written over, because it is to be read.

    Raises:
        InputError: no such directory, one that takes no file of that name, a folder, a device or pipe, or one of `never`.
    """
    if not os.path.isdir(path.parent):
        raise InputError(f"a directory {path.parent}", "nothing there", f"mkdir -p {path.parent}")
    if os.path.isdir(path):
        raise InputError("a file to write", f"{path}, which is a folder", "name a file in it")
    if os.path.exists(path) and not path.is_file():
        raise InputError("a file to write", f"{path}, which is a device or a pipe, not a regular file", "name another")
    if os.path.exists(path) and any(other.exists() and path.samefile(other) for other in never):
        raise InputError("a place of its own", f"{path}, which is read", "name another file")
    try:  # permissions do not tell it all: names that are too long, file systems that take no files
        _beside(path).touch()
        _beside(path).unlink()
    except OSError as error:
        raise InputError(f"to write {path}", error.strerror or str(error), "choose another place") from None
    return path


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
