"""Put a parity report into a bundle's manifest: one atomic replacement of bundle.json, no other file is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from egm_edge.bundle import MANIFEST_NAME, Bundle
from egm_edge.errors import BuildError
from egm_edge.files import whole_file


def store(bundle: Bundle, parity: dict[str, Any]) -> Bundle:
    """The same bundle with this parity section; its hash stays, its seal changes.

    Raises:
        BuildError: the directory cannot be written.
    """
    manifest = replace(bundle.manifest, parity=parity)
    path = bundle.root / MANIFEST_NAME
    try:
        with whole_file(path) as stream:
            stream.write(manifest.to_json())
    except OSError as error:
        raise BuildError(
            f"to write {path}", error.strerror or str(error), "make it writable, or pass --no-store"
        ) from None
    return Bundle(bundle.root, manifest)
