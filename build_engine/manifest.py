"""Write a bundle atomically: files go into a temporary sibling directory, which takes the bundle's name when all is well.

Until `commit` returns, the final path holds what it held before; after any failure (Ctrl-C and a full disk included)
nothing new is left behind. Knows how a bundle lies on disk; knows nothing of what is in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import egm_edge
from egm_edge.bundle import (
    ATTESTATIONS,
    HASH_THREADS,
    MANIFEST_NAME,
    Bundle,
    FileRecord,
    Manifest,
    is_safe_name,
    sha256_of,
)
from egm_edge.errors import BuildError, BundleError
from egm_edge.files import make_durable, take_place

NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY_MARK = ".egm-build-"


class BundleWriter:
    """Builds one bundle, or leaves no trace.

    An existing bundle at `out_dir` is replaced in one step when the new content differs, and left untouched when it does
    not. A directory that is not a bundle is never deleted; one that is damaged or holds files of somebody else's is
    replaced only with `force`.

    Write files with ordinary writes. A memory map on a full disk dies of SIGBUS, which no writer can clean up after.

    Example:
        with BundleWriter("out/egm-nano-cpu") as writer:
            writer.require_free(2 * weight_bytes)
            save(writer.path("graphs/vision.onnx"))
            bundle = writer.commit(target="cpu", precision="int8", ...)
    """

    def __init__(self, out_dir: str | Path, *, force: bool = False) -> None:
        self.out_dir = Path(os.path.abspath(out_dir))
        self.force = force
        self._needed_bytes = 0
        self._lock = -1
        self._root: Path | None = None
        self._made_parents: list[Path] = []

    @property
    def root(self) -> Path:
        """The temporary directory that becomes the bundle."""
        if self._root is None:
            raise RuntimeError("BundleWriter is used inside its with-block")
        return self._root

    def __enter__(self) -> BundleWriter:
        try:
            with self._translated():
                _check_replaceable(self.out_dir, force=self.force)
                self._made_parents = [p for p in self.out_dir.parents if not p.exists()]
                self.out_dir.parent.mkdir(parents=True, exist_ok=True)
                with locked(self.out_dir.parent):
                    _remove_stale(self.out_dir)
                    self._make_temporary()
        except BaseException:  # a signal may arrive in here too, and then __exit__ is never called
            self._clean_up(failed=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        no_space = self._no_space() if error is not None and is_no_space(error) else None
        self._clean_up(failed=error is not None)
        if no_space:
            raise no_space from None

    def _make_temporary(self) -> None:
        # The name is kept before the directory exists: nothing can be made that is not cleaned up.
        self._root = self.out_dir.with_name(f".{self.out_dir.name}{TEMPORARY_MARK}{secrets.token_hex(4)}")
        self._root.mkdir()
        self._lock = os.open(self._root, os.O_RDONLY)
        with contextlib.suppress(OSError):  # file systems without locks: a stale temporary is then left alone
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _clean_up(self, *, failed: bool) -> None:
        try:
            if self._root is not None:
                shutil.rmtree(self._root, ignore_errors=True)
        except BaseException:  # interrupted while cleaning: finish, then obey
            self._clean_up(failed=failed)
            raise
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if failed:
            with contextlib.suppress(OSError):
                for parent in self._made_parents:  # deepest first; stops at one that somebody else uses
                    parent.rmdir()

    def path(self, name: str) -> Path:
        """Where to write the file that will be `name` in the bundle; its folder exists when this returns."""
        if not is_safe_name(name):
            raise BuildError("a relative path inside the bundle", repr(name), "report this")
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def link(self, source: Path, name: str) -> None:
        """Put a file in as a hard link where the file system has them, else as a copy: no bundle changes its files."""
        try:
            os.link(source.resolve(), self.path(name))
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, self.path(name))

    def require_free(self, needed_bytes: int) -> None:
        """Stop before the work starts when the disk cannot hold the result.

        Raises:
            BuildError: less than `needed_bytes` are free.
        """
        self._needed_bytes = needed_bytes
        if shutil.disk_usage(self.out_dir.parent).free < needed_bytes:
            raise self._no_space()

    def commit(self, *, parity: dict[str, Any], **sections: Any) -> Bundle:
        """Hash what was written, write bundle.json last, and give the directory its name.

        Args:
            parity, sections: of `egm_edge.bundle.Manifest`, all but its version and files.

        Returns:
            The bundle at `out_dir`, opened.
        """
        with self._translated():
            names = sorted(p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if not p.is_dir())
            with ThreadPoolExecutor(HASH_THREADS) as pool:
                hashes = list(pool.map(lambda name: sha256_of(self.root / name), names))
            files = {n: FileRecord(sha256, (self.root / n).stat().st_size) for n, sha256 in zip(names, hashes, strict=True)}
            sections = {"calibration": None} | sections
            manifest = Manifest(egm_edge_version=egm_edge.__version__, parity=parity, files=files, **sections)
            if parity["status"] == "verified":
                manifest = replace(manifest, parity=parity | {"content_sha256": manifest.hash})
            (self.root / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
            make_durable(self.root)
            _check_replaceable(self.out_dir, force=self.force)
            if not _holds(self.out_dir, manifest):
                take_place(self.root, self.out_dir)
        return Bundle.open(self.out_dir, verify="sizes")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_no_space(error):
                raise self._no_space() from None
            raise BuildError(
                f"to write a bundle at {self.out_dir}",
                f"{error.filename or ''}: {error.strerror or error}",
                "choose another -o",
            ) from None

    def _no_space(self) -> BuildError:
        free = shutil.disk_usage(self.out_dir.parent).free
        needed = f"{self._needed_bytes:,} free bytes" if self._needed_bytes else "enough free bytes"
        return BuildError(
            f"{needed} at {self.out_dir.parent}",
            f"no space left on device ({free:,} bytes free)",
            "free some space or choose another -o",
        )


def is_no_space(error: BaseException) -> bool:
    """Whether an exception means that the disk, a quota or a file-size limit is full."""
    if not isinstance(error, OSError):
        return False
    # numpy.ndarray.tofile reports a short write without an errno: "1000 requested and 10 written"
    return error.errno in NO_SPACE_ERRNOS or (error.errno is None and "requested and" in str(error))


def _check_replaceable(out_dir: Path, *, force: bool) -> None:
    hint = "choose another -o, or move it away"
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise BuildError(f"a new or replaceable directory at {out_dir}", "a link or a file", hint)
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return
    if not (out_dir / MANIFEST_NAME).is_file():
        raise BuildError(f"a bundle or nothing at {out_dir}", "a directory that is not a bundle", hint)
    if force:
        return
    hint = "choose another -o, or pass --force to replace it"
    try:
        listed = set(Manifest.from_json((out_dir / MANIFEST_NAME).read_text(encoding="utf-8")).files) | {MANIFEST_NAME}
    except (BundleError, UnicodeDecodeError):
        raise BuildError(
            f"a bundle of this version or nothing at {out_dir}", "a damaged or older bundle", hint
        ) from None
    names = {p.relative_to(out_dir).as_posix() for p in out_dir.rglob("*") if not p.is_dir()} - listed
    foreign = sorted(name for name in names if not name.startswith(f"{ATTESTATIONS}/"))
    if foreign:
        raise BuildError(f"only the bundle's own files in {out_dir}", f"{foreign[0]} (of {len(foreign)})", hint)


def _holds(out_dir: Path, manifest: Manifest) -> bool:
    try:
        same = Bundle.open(out_dir, verify="sizes").manifest == manifest
        return same and not Bundle.open(out_dir).left_out
    except BundleError:
        return False


def _remove_stale(out_dir: Path) -> None:
    """Delete temporaries that a killed build of the same bundle left: those whose lock nobody holds any more."""
    for path in out_dir.parent.iterdir():
        if not path.name.startswith(f".{out_dir.name}{TEMPORARY_MARK}"):
            continue
        with contextlib.suppress(OSError), locked(path, wait=False):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a directory's lock, which a process that is killed lets go. Raises: OSError: it is held, or there are no locks."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
