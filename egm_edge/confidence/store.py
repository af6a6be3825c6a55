"""Puts a confidence map into a bundle: a new manifest with a new hash takes the old one's place in one rename.

The map lies in the manifest, not beside it: the manifest's own hash then covers it, and every Grounding names by its bundle
hash the map that its confidence came from.
"""

from __future__ import annotations

from dataclasses import replace

from egm_edge.bundle import MANIFEST_NAME, Bundle
from egm_edge.confidence.logistic_calibration import LogisticCalibration
from egm_edge.errors import BundleError
from egm_edge.files import whole_file


def store(bundle: Bundle, fitted: LogisticCalibration | None) -> Bundle:
    """Write the map into the bundle, or take it out with None; the bundle as it is then.

    Raises:
        BundleError: its directory cannot be written.
    """
    manifest = replace(bundle.manifest, calibration=None if fitted is None else fitted.to_dict())
    path = bundle.root / MANIFEST_NAME
    try:
        with whole_file(path) as stream:
            stream.write(manifest.to_json())
    except OSError as error:
        raise BundleError(
            f"a bundle that can be written at {bundle.root}", error.strerror or str(error), "calibrate a copy of it"
        ) from None
    return Bundle.open(bundle.root, verify="sizes")
