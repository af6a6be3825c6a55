"""Resumable stages: each fills a folder under a temporary name and is renamed when it is complete; a later build of the
same inputs takes what is there. Knows nothing of what a stage does.

Stages lie in the user's cache, one folder a key, until their bundle is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from build_engine.manifest import is_no_space
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.files import user_cache


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one build; use `Stages.open`."""

    root: Path

    @classmethod
    @contextlib.contextmanager
    def open(cls, key: str) -> Iterator[Stages]:
        """The stages of `key`, this process alone; leftovers of killed runs are removed first.

        Raises:
            BuildError: another process builds the same, or the cache cannot be written.
        """
        root = user_cache() / "stages" / key
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = os.open(root, os.O_RDONLY)
        except OSError as error:
            hint = "make it writable, or set XDG_CACHE_HOME"
            raise BuildError(f"a cache at {root}", error.strerror or str(error), hint) from None
        try:
            with _only_one(lock, root):
                for path in root.glob(".*"):
                    shutil.rmtree(path, ignore_errors=True)
                yield cls(root)
        finally:
            os.close(lock)

    def run(self, name: str, fill: Callable[[Path], None]) -> Path:
        """The folder of stage `name`; `fill` is called with an empty folder when it is not there yet.

        Raises:
            BuildError: the disk is full; also whatever `fill` raises. Nothing of the stage is left then.
        """
        final = self.root / name
        if final.is_dir():
            return final
        temporary = self.root / f".{name}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            fill(temporary)
            temporary.rename(final)
        except OSError as error:
            if not is_no_space(error):
                raise
            free = shutil.disk_usage(self.root).free
            raise BuildError(
                f"enough free bytes at {self.root}",
                f"no space left on device ({free:,} bytes free)",
                "free some space or set XDG_CACHE_HOME to another disk",
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def log(self, name: str) -> Path:
        """Where a tool's output goes; it outlives a failed stage."""
        return self.root / f"{name}.log"

    def remove(self) -> None:
        """All stages, once their bundle is written."""
        shutil.rmtree(self.root, ignore_errors=True)


def present_bundle(out_dir: Path, key: str) -> Bundle | None:
    """The bundle at `out_dir` when it was built from the same inputs and is whole."""
    try:
        bundle = Bundle.open(out_dir)
    except Exception:  # nothing there, or not this bundle: BundleWriter decides what may be replaced
        return None
    return bundle if bundle.manifest.model.get("build_key") == key else None


@contextlib.contextmanager
def _only_one(lock: int, root: Path) -> Iterator[None]:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BuildError("one build of these inputs at a time", f"another one at work in {root}", "wait for it") from None
    yield
