"""Puts a confidence map into a bundle: a new manifest with a new hash takes the old one's place in one rename.

The map lies in the manifest, not beside it: the manifest's own hash then covers it, and every Grounding names by its bundle
hash the map that its confidence came from.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from egm_edge.bundle import MANIFEST_NAME, Bundle
from egm_edge.calibration.confidence_map import ConfidenceMap
from egm_edge.errors import BundleError


def store(bundle: Bundle, fitted: ConfidenceMap | None) -> Bundle:
    """Write the map into the bundle, or take it out with None; the bundle as it is then.

    Raises:
        BundleError: its directory cannot be written.
    """
    manifest = replace(bundle.manifest, calibration=None if fitted is None else fitted.to_dict())
    path = bundle.root / MANIFEST_NAME
    beside = path.with_name(f".{MANIFEST_NAME}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(manifest.to_json())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise BundleError(
            f"a bundle that can be written at {bundle.root}", error.strerror or str(error), "calibrate a copy of it"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return Bundle.open(bundle.root, verify="sizes")
