"""Put a parity report into a bundle's manifest: one atomic replacement of bundle.json, no other file is touched."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from egm_edge.bundle import MANIFEST_NAME, Bundle
from egm_edge.errors import BuildError


def store(bundle: Bundle, parity: dict[str, Any]) -> Bundle:
    """The same bundle with this parity section; its hash changes, its content hash does not.

    Raises:
        BuildError: the directory cannot be written.
    """
    manifest = replace(bundle.manifest, parity=parity)
    path = bundle.root / MANIFEST_NAME
    temporary = path.with_name(f".{MANIFEST_NAME}.{secrets.token_hex(4)}")
    try:
        _write(temporary, manifest.to_json())
        os.replace(temporary, path)
    except OSError as error:
        raise BuildError(
            f"to write {path}", error.strerror or str(error), "make it writable, or pass --no-store"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return Bundle(bundle.root, manifest)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
